// Vercel's AI SDK, with OpenAI's provider (Responses, its default) and the compatible one (chat), and LangChain.js. As agents_test.py.
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { ChatOpenAI } from '@langchain/openai';
import { generateObject, generateText, isStepCount, streamText, tool } from 'ai';
import assert from 'node:assert/strict';
import test from 'node:test';
import { z } from 'zod';

const baseURL = process.env.PERMLLM_NAMED_URL + '/v1';
const models = {
  responses: createOpenAI({ baseURL, apiKey: 'none' })('permllm'),
  chat: createOpenAICompatible({ name: 'permllm', baseURL, supportsStructuredOutputs: true })('permllm'),
};
const City = z.object({ name: z.enum(['Rome', 'Oslo']), big: z.boolean() });
const stateless = { openai: { store: false } };

for (const [name, model] of Object.entries(models)) {
  test(`AI SDK, ${name}: text and its stream`, async () => {
    const ask = { model, prompt: 'What is 17 plus 25?', maxOutputTokens: 8 };
    const { text, usage } = await generateText(ask);
    assert.ok(text.length > 0);
    assert.equal(usage.outputTokens, 8);
    let streamed = '';
    for await (const part of streamText(ask).textStream) streamed += part;
    assert.equal(streamed, text);
  });

  test(`AI SDK, ${name}: an object`, async () => {
    const { object } = await generateObject({ model, schema: City, prompt: 'Name a city.', maxOutputTokens: 60 });
    City.parse(object);
  });

  test(`AI SDK, ${name}: a tool is called, and what it says is told`, async () => {
    const asked = [];
    const weather = tool({
      description: 'The weather of a town.', inputSchema: z.object({ city: z.enum(['Rome', 'Oslo']) }),
      execute: async ({ city }) => { asked.push(city); return 'warm'; },
    });
    const { steps } = await generateText({
      model, tools: { weather }, prompt: 'How is the weather in Rome?', maxOutputTokens: 60, providerOptions: stateless,
      stopWhen: isStepCount(2), prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? 'required' : 'none' }),
    });
    assert.equal(asked.length, 1);
    assert.equal(steps.length, 2);
  });
}

test('LangChain.js: structured output', async () => {
  const model = new ChatOpenAI({ model: 'permllm', apiKey: 'none', temperature: 0, maxTokens: 60, configuration: { baseURL } });
  for (const method of ['functionCalling', 'jsonSchema']) {
    City.parse(await model.withStructuredOutput(City, { method, name: 'city' }).invoke('Name a city.'));
  }
});
