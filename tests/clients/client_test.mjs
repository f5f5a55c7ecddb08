// The openai package of npm, pointed at the gateways of run.sh.
import OpenAI, { APIConnectionTimeoutError, AuthenticationError, BadRequestError, InternalServerError, NotFoundError, RateLimitError } from 'openai';
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import test from 'node:test';

const client = new OpenAI({ baseURL: process.env.PERMLLM_URL + '/v1', apiKey: 'none', maxRetries: 0 });
const ask = { model: 'permllm', messages: [{ role: 'user', content: 'What is 17 plus 25?' }], max_tokens: 6 };

const strict = (settings) => new OpenAI({ baseURL: process.env.PERMLLM_STRICT_URL + '/v1', apiKey: process.env.PERMLLM_KEY, maxRetries: 0, ...settings });

// A server before a gateway. The first `refused` requests it refuses as one does that has lost its provider; `body` is what came back last.
async function between(refused, use) {
  const seen = { asked: 0, body: '' };
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const piece of request) body += piece;
    if (++seen.asked <= refused) {
      response.writeHead(503, { 'Content-Type': 'application/json', 'Retry-After': '1' });
      response.end(JSON.stringify({ error: { message: 'the provider: nobody listens there', type: 'server_error', param: null, code: 'provider_unreachable' } }));
      return;
    }
    const answer = await fetch(process.env.PERMLLM_URL + request.url, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
    response.writeHead(answer.status, { 'Content-Type': answer.headers.get('Content-Type') });
    seen.body = '';
    const words = new TextDecoder();
    for await (const piece of answer.body) {
      seen.body += words.decode(piece, { stream: true });
      response.write(piece);
    }
    response.end();
  });
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  try {
    await use((settings) => client.withOptions({ baseURL: `http://127.0.0.1:${server.address().port}/v1`, ...settings }), seen);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

test('chat, and a stream with the same text and usage', async () => {
  const whole = await client.chat.completions.create(ask);
  assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);
  let text = '', usage = null, end = null;
  for await (const chunk of await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } })) {
    text += chunk.choices[0]?.delta.content ?? '';
    end = chunk.choices[0]?.finish_reason ?? end;
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(end, whole.choices[0].finish_reason);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

test('a stream has the shape that clients demand, to the letter', () => between(0, async (clientOf, seen) => {
  let text = '';
  for await (const chunk of await clientOf().chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } })) {
    text += chunk.choices[0]?.delta.content ?? '';
  }
  const events = seen.body.split('\n\n').filter((event) => !event.startsWith(':'));
  assert.deepEqual(events.slice(-2), ['data: [DONE]', '']);
  const chunks = events.slice(0, -2).map((event) => { assert.match(event, /^data: [^\n]*$/); return JSON.parse(event.slice(6)); });
  const { id, created, model } = chunks[0];
  assert.match(id, /^chatcmpl-/);
  const usage = chunks.pop();
  assert.deepEqual([usage.choices, usage.usage.total_tokens], [[], usage.usage.prompt_tokens + usage.usage.completion_tokens]);
  assert.ok(chunks.length > 3);
  chunks.forEach((chunk, i) => {
    const last = i === chunks.length - 1, { content } = chunk.choices[0].delta;
    assert.ok(last || i === 0 || content.length > 0);
    const delta = i === 0 ? { role: 'assistant', content: '' } : last ? {} : { content };
    assert.deepEqual(chunk, { id, object: 'chat.completion.chunk', created, model, system_fingerprint: chunk.system_fingerprint, usage: null,
      choices: [{ index: 0, delta, logprobs: null, finish_reason: last ? 'length' : null }] });
  });
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join(''), text);
}));

test('stop', async () => {
  const whole = (await client.chat.completions.create(ask)).choices[0].message.content, stop = whole.split(' ')[2];
  const cut = (await client.chat.completions.create({ ...ask, stop: [stop, 'zzz'] })).choices[0];
  assert.equal(cut.message.content, whole.slice(0, whole.indexOf(stop)));
  assert.equal(cut.finish_reason, 'stop');
});

test('a 503 is tried again after the time that it names', () => between(1, async (clientOf, seen) => {
  const begin = Date.now();
  const done = await clientOf({ maxRetries: 2 }).chat.completions.create({ ...ask, max_tokens: 1 });
  assert.deepEqual([done.usage.completion_tokens, seen.asked], [1, 2]);
  assert.ok(Date.now() - begin >= 1000);
}));

test('a stream that is aborted ends, and the next is served', async () => {
  const stream = await client.chat.completions.create({ ...ask, max_tokens: 300, stream: true });
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta.content) break;  // leaving the loop aborts
  }
  const next = await client.chat.completions.create({ ...ask, max_tokens: 1 });
  assert.equal(next.usage.completion_tokens, 1);
});

test('error classes', async () => {
  await assert.rejects(client.chat.completions.create({ ...ask, model: 'another' }), NotFoundError);
  await assert.rejects(client.chat.completions.create({ ...ask, logit_bias: { 5: 1 } }), BadRequestError);
  await assert.rejects(client.chat.completions.create({ ...ask, max_tokens: 300 }, { timeout: 150 }), APIConnectionTimeoutError);
  await assert.rejects(strict({ apiKey: 'another' }).models.list(), AuthenticationError);
  await between(1, async (clientOf) => {
    await assert.rejects(clientOf().chat.completions.create(ask), (error) => error instanceof InternalServerError && error.status === 503 && error.code === 'provider_unreachable');
  });
});

test('a full queue is 429, and tried again', async () => {
  const holding = await strict().chat.completions.create({ ...ask, max_tokens: 500, stream: true });
  await assert.rejects(strict().chat.completions.create(ask), (error) => error instanceof RateLimitError && error.code === 'queue_full' && error.headers.get('retry-after') === '5');
  setTimeout(() => holding.controller.abort(), 1000);
  assert.equal((await strict({ maxRetries: 2 }).chat.completions.create({ ...ask, max_tokens: 1 })).usage.completion_tokens, 1);
});

test('the models', async () => {
  const models = await client.models.list();
  assert.equal(models.data.length, 1);
});
