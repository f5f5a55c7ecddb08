"""Frameworks and packages of other interfaces, each in its documented plain use: the OpenAI Agents SDK (Responses), pydantic-ai, Anthropic's and
Ollama's packages. run.sh starts the gateway, a small model in profile open; what is tested is the form of the exchange, not wit."""
import os
import unittest

import anthropic
import ollama
import openai
import pydantic

URL = os.environ['PERMLLM_NAMED_URL']
QUESTION = 'What is 17 plus 25?'
WEATHER = {'type': 'object', 'properties': {'city': {'enum': ['Rome', 'Oslo']}}, 'required': ['city'], 'additionalProperties': False}


class City(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    big: bool


def plain_answer(tokens):
    done = openai.OpenAI(base_url=URL + '/v1', api_key='none').chat.completions.create(
        model='permllm', messages=[{'role': 'user', 'content': QUESTION}], max_tokens=tokens)
    return done.choices[0].message.content


class OpenAiResponses(unittest.TestCase):
    client = openai.OpenAI(base_url=URL + '/v1', api_key='none', max_retries=0)

    def test_an_answer_and_its_stream(self):
        ask = {'model': 'permllm', 'input': QUESTION, 'max_output_tokens': 8}
        done = self.client.responses.create(**ask)
        self.assertEqual((done.output_text, done.status), (plain_answer(8), 'incomplete'))
        with self.client.responses.stream(**ask) as stream:
            events = list(stream)
        text = ''.join(event.delta for event in events if event.type == 'response.output_text.delta')
        self.assertEqual((events[-1].type, text, events[-1].response.output_text), ('response.incomplete', done.output_text, done.output_text))

    def test_a_parsed_form(self):
        done = self.client.responses.parse(model='permllm', input='Name a city.', text_format=City, max_output_tokens=60)
        self.assertIsInstance(done.output_parsed, City)

    def test_a_tool_call_goes_there_and_back(self):
        tool = {'type': 'function', 'name': 'weather', 'description': 'The weather of a town.', 'parameters': WEATHER, 'strict': True}
        dialogue = [{'role': 'user', 'content': 'How is the weather in Rome?'}]
        done = self.client.responses.create(model='permllm', input=dialogue, tools=[tool], tool_choice='required', max_output_tokens=60)
        call = done.output[0]
        self.assertEqual((call.type, call.name), ('function_call', 'weather'))
        dialogue += done.output + [{'type': 'function_call_output', 'call_id': call.call_id, 'output': 'warm'}]
        self.assertTrue(self.client.responses.create(model='permllm', input=dialogue, tools=[tool], max_output_tokens=6).id)

    def test_what_is_stored_nowhere_is_refused(self):
        for field, value in {'store': True, 'previous_response_id': 'resp_1', 'background': True}.items():
            with self.assertRaises(openai.BadRequestError) as caught:
                self.client.responses.create(model='permllm', input=QUESTION, **{field: value})
            self.assertEqual(caught.exception.param, field)


class AgentsSdk(unittest.TestCase):
    """Responses, its default."""
    @classmethod
    def setUpClass(cls):
        import agents
        cls.agents = agents
        agents.set_default_openai_client(openai.AsyncOpenAI(base_url=URL + '/v1', api_key='none'), use_for_tracing=False)
        agents.set_tracing_disabled(True)

    def test_an_agent_answers(self):
        agent = self.agents.Agent(name='Assistant', instructions='You are brief.', model='permllm', model_settings=self.agents.ModelSettings(max_tokens=400))
        self.assertTrue(self.agents.Runner.run_sync(agent, QUESTION).final_output)

    def test_an_agent_calls_its_tool_and_goes_on(self):
        asked = []

        @self.agents.function_tool
        def weather(city: str) -> str:
            """The weather of a town."""
            asked.append(city)
            return 'warm'
        agent = self.agents.Agent(name='Assistant', instructions='You are brief.', model='permllm', tools=[weather],
                                  model_settings=self.agents.ModelSettings(tool_choice='required', max_tokens=60))
        result = self.agents.Runner.run_sync(agent, 'How is the weather in Rome?', max_turns=6)
        self.assertTrue(asked and isinstance(asked[0], str) and result.final_output is not None)

    def test_an_output_type(self):
        agent = self.agents.Agent(name='Assistant', instructions='You name cities.', model='permllm', output_type=City,
                                  model_settings=self.agents.ModelSettings(max_tokens=80))
        self.assertIsInstance(self.agents.Runner.run_sync(agent, 'Name a city.').final_output, City)


class PydanticAi(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider
        cls.model = OpenAIChatModel('permllm', provider=OpenAIProvider(base_url=URL + '/v1', api_key='none'))

    def test_text(self):
        from pydantic_ai import Agent
        self.assertEqual(Agent(self.model).run_sync(QUESTION, model_settings={'max_tokens': 8}).output, plain_answer(8))

    def test_an_output_type(self):
        from pydantic_ai import Agent, NativeOutput
        for output in (City, NativeOutput(City)):  # by a tool, its default; by response_format
            done = Agent(self.model, output_type=output).run_sync('Name a city.', model_settings={'max_tokens': 80})
            self.assertIsInstance(done.output, City)


class Anthropic(unittest.TestCase):
    client = anthropic.Anthropic(base_url=URL, api_key='none', max_retries=0)
    ask = {'model': 'permllm', 'max_tokens': 8, 'messages': [{'role': 'user', 'content': QUESTION}]}

    def test_a_message_and_its_stream(self):
        done = self.client.messages.create(**self.ask)
        self.assertEqual((done.content[0].text, done.stop_reason), (plain_answer(8), 'max_tokens'))
        with self.client.messages.stream(**self.ask) as stream:
            self.assertEqual(''.join(stream.text_stream), done.content[0].text)
            last = stream.get_final_message()
        self.assertEqual((last.content[0].text, last.stop_reason, last.usage.output_tokens), (done.content[0].text, 'max_tokens', 8))
        counted = self.client.messages.count_tokens(model='permllm', messages=self.ask['messages'])
        self.assertEqual(counted.input_tokens, last.usage.input_tokens + last.usage.cache_read_input_tokens)

    def test_a_stop_sequence(self):
        stop = plain_answer(8).split()[1]
        done = self.client.messages.create(**self.ask, stop_sequences=[stop])
        self.assertEqual((done.stop_reason, done.stop_sequence), ('stop_sequence', stop))

    def test_a_tool_goes_there_and_back(self):
        tools = [{'name': 'weather', 'description': 'The weather of a town.', 'input_schema': WEATHER}]
        messages = [{'role': 'user', 'content': 'How is the weather in Rome?'}]
        how = {'model': 'permllm', 'max_tokens': 60, 'tools': tools}
        done = self.client.messages.create(**how, messages=messages, tool_choice={'type': 'any'})
        use = done.content[-1]
        self.assertEqual((done.stop_reason, use.type, use.name), ('tool_use', 'tool_use', 'weather'))
        self.assertIn(use.input['city'], ('Rome', 'Oslo'))
        with self.client.messages.stream(**how, messages=messages, tool_choice={'type': 'any'}) as stream:
            self.assertEqual(stream.get_final_message().content[-1].input, use.input)
        messages += [{'role': 'assistant', 'content': done.content},
                     {'role': 'user', 'content': [{'type': 'tool_result', 'tool_use_id': use.id, 'content': 'warm'}]}]
        self.assertTrue(self.client.messages.create(**{**how, 'max_tokens': 6}, messages=messages).id)

    def test_error_classes(self):
        with self.assertRaises(anthropic.NotFoundError):
            self.client.messages.create(**{**self.ask, 'model': 'another'})
        with self.assertRaises(anthropic.BadRequestError) as caught:
            self.client.messages.create(**self.ask, container='c')
        self.assertIn('container', str(caught.exception))
        with self.assertRaises(anthropic.AuthenticationError):
            anthropic.Anthropic(base_url=os.environ['PERMLLM_STRICT_URL'], api_key='another', max_retries=0).messages.create(**self.ask)
        keyed = anthropic.Anthropic(base_url=os.environ['PERMLLM_STRICT_URL'], api_key=os.environ['PERMLLM_KEY'])
        self.assertGreater(keyed.messages.count_tokens(model='permllm', messages=self.ask['messages']).input_tokens, 5)


class Ollama(unittest.TestCase):
    client = ollama.Client(host=URL)

    def test_chat_and_its_stream(self):
        ask = {'model': 'permllm', 'messages': [{'role': 'user', 'content': QUESTION}], 'options': {'num_predict': 8}}
        done = self.client.chat(**ask)
        self.assertEqual((done.message.content, done.done_reason, done.eval_count), (plain_answer(8), 'length', 8))
        parts = list(self.client.chat(**ask, stream=True))
        self.assertEqual(''.join(part.message.content for part in parts), done.message.content)
        self.assertTrue(parts[-1].done)

    def test_generate(self):
        done = self.client.generate(model='permllm', prompt=QUESTION, options={'num_predict': 8})
        self.assertEqual(done.response, plain_answer(8))

    def test_a_form_and_a_tool(self):
        done = self.client.chat(model='permllm', messages=[{'role': 'user', 'content': 'Name a city.'}], format=City.model_json_schema(), options={'num_predict': 60})
        City.model_validate_json(done.message.content)

        def add(a: int, b: int) -> int:
            """Adds two numbers."""
            return a + b
        messages = [{'role': 'user', 'content': QUESTION}]
        done = self.client.chat(model='permllm', messages=messages, tools=[add], options={'num_predict': 40})
        messages += [done.message, {'role': 'tool', 'tool_name': 'add', 'content': '42'}] if done.message.tool_calls else [done.message, messages[0]]
        self.assertTrue(self.client.chat(model='permllm', messages=messages, tools=[add], options={'num_predict': 4}).done)

    def test_models_and_errors(self):
        name = self.client.list().models[0].model
        self.assertEqual(self.client.ps().models[0].model, name)
        self.assertIn('tools', self.client.show(name).capabilities)
        with self.assertRaises(ollama.ResponseError) as caught:
            self.client.chat(model='another', messages=[{'role': 'user', 'content': 'a'}])
        self.assertEqual(caught.exception.status_code, 404)


if __name__ == '__main__':
    unittest.main(verbosity=2)
