"""Frameworks that still want the openai package of version 2, each in its documented plain use: instructor, LlamaIndex, AutoGen. As agents_test.py."""
import asyncio
import os
import unittest

import openai
import pydantic

URL = os.environ['PERMLLM_NAMED_URL'] + '/v1'
QUESTION = 'What is 17 plus 25?'


class City(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    big: bool


class Frameworks(unittest.TestCase):
    def test_instructor(self):
        import instructor
        for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
            client = instructor.from_openai(openai.OpenAI(base_url=URL, api_key='none'), mode=mode)
            city = client.chat.completions.create(model='permllm', response_model=City, messages=[{'role': 'user', 'content': 'Name a city.'}], max_tokens=80)
            self.assertIsInstance(city, City, mode)

    def test_llama_index(self):
        from llama_index.core.llms import ChatMessage
        from llama_index.llms.openai_like import OpenAILike
        llm = OpenAILike(model='permllm', api_base=URL, api_key='none', is_chat_model=True, max_tokens=8)
        question = [ChatMessage(role='user', content=QUESTION)]
        whole = llm.chat(question).message.content
        self.assertTrue(whole)
        self.assertEqual(''.join(part.delta or '' for part in llm.stream_chat(question)), whole)
        self.assertEqual(llm.complete(QUESTION).text, whole)

    def test_autogen(self):
        from autogen_agentchat.agents import AssistantAgent
        from autogen_ext.models.openai import OpenAIChatCompletionClient

        async def add(a: int, b: int) -> int:
            """Adds two numbers."""
            return a + b

        async def talk():
            client = OpenAIChatCompletionClient(model='permllm', base_url=URL, api_key='none', max_tokens=40, model_info={
                'vision': False, 'function_calling': True, 'json_output': True, 'structured_output': True, 'family': 'unknown'})
            try:
                for tools in ([], [add]):
                    result = await AssistantAgent('assistant', model_client=client, tools=tools, system_message='You are brief.').run(task=QUESTION)
                    self.assertGreater(len(result.messages), 1)
            finally:
                await client.close()
        asyncio.run(talk())


if __name__ == '__main__':
    unittest.main(verbosity=2)
