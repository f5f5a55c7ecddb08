// The openai package of npm, pointed at `permllm serve`: node client_test.mjs URL
import OpenAI, { APIConnectionTimeoutError, BadRequestError, NotFoundError } from 'openai';
import assert from 'node:assert/strict';
import test from 'node:test';

const client = new OpenAI({ baseURL: process.env.PERMLLM_URL + '/v1', apiKey: 'none', maxRetries: 0 });
const ask = { model: 'permllm', messages: [{ role: 'user', content: 'What is the capital of France?' }], max_tokens: 6 };

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
});

test('the models', async () => {
  const models = await client.models.list();
  assert.equal(models.data.length, 1);
});
