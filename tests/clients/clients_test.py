"""Programs that people have, pointed at `permllm serve`: the openai package, LangChain, LiteLLM, llm, curl.

run.sh starts two gateways. It sets PERMLLM_URL (like http://127.0.0.1:8080) to the one that takes all comers, PERMLLM_STRICT_URL to one that wants
PERMLLM_KEY, answers one request at a time and keeps material ready; and PERMLLM_BINARY and PERMLLM_MODEL.
"""
import json
import os
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import unittest

import jsonschema
import openai

URL = os.environ['PERMLLM_URL']
BINARY, MODEL_FILE = os.environ['PERMLLM_BINARY'], os.environ['PERMLLM_MODEL']
STRICT_URL, KEY = os.environ['PERMLLM_STRICT_URL'], os.environ['PERMLLM_KEY']
HOST, PORT = URL.removeprefix('http://').split(':')
QUESTION = 'What is the capital of France?'
MESSAGES = [{'role': 'user', 'content': QUESTION}]
TOKENS = 8

# The shape that strict clients demand, and nothing beside it.
USAGE = {'type': 'object', 'additionalProperties': False,
         'required': ['prompt_tokens', 'completion_tokens', 'total_tokens', 'permllm'],
         'properties': {'prompt_tokens': {'type': 'integer', 'minimum': 1}, 'completion_tokens': {'type': 'integer', 'minimum': 1},
                        'total_tokens': {'type': 'integer', 'minimum': 2}, 'prompt_tokens_details': {'type': 'object'}, 'permllm': {'type': 'object'}}}


def chunk_schema(choice):
    return {'type': 'object', 'additionalProperties': False, 'required': ['id', 'object', 'created', 'model', 'choices'],
            'properties': {'id': {'type': 'string', 'pattern': '^chatcmpl-'}, 'object': {'const': 'chat.completion.chunk'},
                           'created': {'type': 'integer', 'minimum': 1_700_000_000}, 'model': {'type': 'string'},
                           'system_fingerprint': {'type': 'string'}, 'usage': {'anyOf': [{'type': 'null'}, USAGE]},
                           'choices': {'type': 'array', 'maxItems': 1, 'items': choice}}}


def choice_schema(delta, finish_reason):
    return {'type': 'object', 'additionalProperties': False, 'required': ['index', 'delta', 'finish_reason'],
            'properties': {'index': {'const': 0}, 'delta': delta, 'finish_reason': finish_reason, 'logprobs': {'type': 'null'}}}


FIRST = chunk_schema(choice_schema({'type': 'object', 'required': ['role'], 'additionalProperties': False,
                                    'properties': {'role': {'const': 'assistant'}, 'content': {'type': 'string'}}}, {'type': 'null'}))
LATER = chunk_schema(choice_schema({'type': 'object', 'required': ['content'], 'additionalProperties': False,
                                    'properties': {'content': {'type': 'string', 'minLength': 1}}}, {'type': 'null'}))
LAST = chunk_schema(choice_schema({'type': 'object', 'maxProperties': 0}, {'enum': ['stop', 'length']}))


def curl(*arguments):
    done = subprocess.run(['curl', '-sS', '-m', '120', '-w', '\n%{http_code}', *arguments], capture_output=True, text=True, check=False)
    body, _, status = done.stdout.rpartition('\n')
    return int(status or 0), body


def post(path, body, *arguments):
    return curl('-H', 'Content-Type: application/json', '-d', body if isinstance(body, str) else json.dumps(body), *arguments, URL + path)


class Expected(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        done = subprocess.run([BINARY, 'demo', MODEL_FILE, '--prompt', QUESTION, '--max-tokens', str(TOKENS), '--json'], capture_output=True, text=True, check=True)
        cls.want = json.loads(done.stdout.splitlines()[-1])['text']


class OpenAi(Expected):
    client = openai.OpenAI(base_url=URL + '/v1', api_key='none', max_retries=0)

    def test_models(self):
        models = list(self.client.models.list())
        self.assertEqual(len(models), 1)
        self.assertEqual(self.client.models.retrieve(models[0].id).id, models[0].id)
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve('another')

    def test_chat_is_what_the_demo_says(self):
        done = self.client.chat.completions.create(model='permllm', messages=MESSAGES, max_tokens=TOKENS)
        self.assertEqual(done.choices[0].message.content, self.want)
        self.assertEqual(done.choices[0].finish_reason, 'stop')
        cost = done.usage.model_extra['permllm']
        self.assertGreater(cost['online_bytes']['sent'], 1_000_000)
        self.assertGreater(cost['round_trips'], 100)
        self.assertEqual(done.usage.total_tokens, done.usage.prompt_tokens + done.usage.completion_tokens)

    def test_a_stream_has_the_shape_that_clients_demand(self):
        with self.client.chat.completions.with_streaming_response.create(model='permllm', messages=MESSAGES, max_tokens=TOKENS, stream=True,
                                                                        stream_options={'include_usage': True}) as response:
            self.assertTrue(response.headers['content-type'].startswith('text/event-stream'))
            lines = [line for line in response.iter_lines() if line and not line.startswith(':')]
        self.assertTrue(all(line.startswith('data: ') for line in lines), lines)
        self.assertEqual(lines[-1], 'data: [DONE]')
        chunks = [json.loads(line[6:]) for line in lines[:-1]]
        self.assertEqual(len({(chunk['id'], chunk['created'], chunk['model']) for chunk in chunks}), 1)
        jsonschema.validate(chunks[0], FIRST)
        for chunk in chunks[1:-2]:
            jsonschema.validate(chunk, LATER)
        jsonschema.validate(chunks[-2], LAST)
        self.assertEqual(chunks[-1]['choices'], [])
        jsonschema.validate(chunks[-1]['usage'], USAGE)
        self.assertTrue(all(chunk['usage'] is None for chunk in chunks[:-1]))
        self.assertEqual(''.join(chunk['choices'][0]['delta'].get('content', '') for chunk in chunks[:-1]), self.want)

    def test_a_stream_without_usage_has_none(self):
        chunks = list(self.client.chat.completions.create(model='permllm', messages=MESSAGES, max_tokens=2, stream=True))
        self.assertTrue(all(chunk.usage is None and len(chunk.choices) == 1 for chunk in chunks))

    def test_stop(self):
        stop = self.want.split()[1]
        done = self.client.chat.completions.create(model='permllm', messages=MESSAGES, max_tokens=TOKENS, stop=[stop, 'zzz'])
        self.assertEqual(done.choices[0].message.content, self.want[:self.want.index(stop)])
        self.assertEqual(done.choices[0].finish_reason, 'stop')

    def test_completions(self):
        done = self.client.completions.create(model='permllm', prompt='The capital of France is', max_tokens=3)
        self.assertEqual(done.object, 'text_completion')
        self.assertTrue(done.choices[0].text)

    def test_a_seed_repeats_an_answer(self):
        ask = lambda seed: self.client.chat.completions.create(model='permllm', messages=MESSAGES, max_tokens=6, temperature=0.2, seed=seed).choices[0].message.content
        self.assertEqual(ask(7), ask(7))

    def test_what_cannot_be_honoured_is_refused_by_name(self):
        for field, value in {'logit_bias': {'1': 5}, 'presence_penalty': 1, 'logprobs': True, 'n': 2, 'response_format': {'type': 'json_object'},
                             'tools': [{'type': 'function', 'function': {'name': 'f', 'parameters': {}}}]}.items():
            with self.assertRaises(openai.BadRequestError) as caught:
                self.client.chat.completions.create(model='permllm', messages=MESSAGES, **{field: value})
            self.assertEqual(caught.exception.param, field)

    def test_error_classes(self):
        with self.assertRaises(openai.NotFoundError):
            self.client.chat.completions.create(model='gpt-4', messages=MESSAGES)
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.chat.completions.create(model='permllm', messages=[{'role': 'user', 'content': 'word ' * 3000}])
        self.assertEqual(caught.exception.code, 'context_length_exceeded')

    def test_a_time_out_cancels_and_the_next_is_served(self):
        with self.assertRaises(openai.APITimeoutError):
            self.client.with_options(timeout=0.2).chat.completions.create(model='permllm', messages=[{'role': 'user', 'content': 'Count to one thousand.'}], max_tokens=400)
        begin = time.monotonic()
        self.client.chat.completions.create(model='permllm', messages=MESSAGES, max_tokens=1)
        self.assertLess(time.monotonic() - begin, 60)

    def test_a_retry_with_the_same_key_costs_nothing_twice(self):
        ask = lambda: self.client.chat.completions.create(model='permllm', messages=MESSAGES, max_tokens=2, extra_headers={'Idempotency-Key': f'k{os.getpid()}'})
        self.assertEqual(ask(), ask())

    def test_eight_streams_at_once_are_fair(self):
        """Four are answered at once (--sessions), side by side; four wait, and come as they came."""
        times, texts = [[] for _ in range(8)], ['' for _ in range(8)]

        def stream(i):
            for chunk in self.client.completions.create(model='permllm', prompt='1, 2, 3, 4,', max_tokens=15, stream=True):
                if chunk.choices[0].text:
                    times[i].append(time.monotonic())
                    texts[i] += chunk.choices[0].text
        threads = [threading.Thread(target=stream, args=(i,)) for i in range(8)]
        for i, thread in enumerate(threads):
            if i == 4:
                time.sleep(0.5)
            thread.start()
        for thread in threads:
            thread.join()
        begin = min(t[0] for t in times)
        paces = [t[-1] - t[0] for t in times]
        print('eight streams: first tokens', ' '.join(f'{t[0] - begin:.1f}' for t in times), 's after the first, last ones', ' '.join(f'{p:.1f}' for p in paces),
              's after their own first', flush=True)
        self.assertEqual(texts, [' 5, 6, 7, 8, 9,'] * 8)
        for i, t in enumerate(times):
            self.assertGreater(len(t), 8, i)
        self.assertLess(max(t[0] for t in times[:4]), min(t[-1] for t in times), 'of the first four, one waited for another to end')
        self.assertGreater(min(t[0] for t in times[4:]), min(t[-1] for t in times[:4]), 'more than four were answered at once')
        self.assertGreater(min(t[0] for t in times[4:]), max(t[0] for t in times[:4]), 'who came later was answered before')
        for wave in (paces[:4], paces[4:]):
            self.assertLess(max(wave), 2.5 * statistics.median(wave), 'one had less than its share')


class Others(Expected):
    def test_langchain(self):
        from langchain_openai import ChatOpenAI
        model = ChatOpenAI(base_url=URL + '/v1', api_key='none', model='permllm', max_tokens=TOKENS, temperature=0)
        self.assertEqual(model.invoke(QUESTION).content, self.want)
        self.assertEqual(''.join(chunk.content for chunk in model.stream(QUESTION)), self.want)

    def test_litellm(self):
        os.environ['LITELLM_LOCAL_MODEL_COST_MAP'] = 'True'
        import litellm
        done = litellm.completion(model='openai/permllm', api_base=URL + '/v1', api_key='none', messages=MESSAGES, max_tokens=TOKENS)
        self.assertEqual(done.choices[0].message.content, self.want)
        chunks = litellm.completion(model='openai/permllm', api_base=URL + '/v1', api_key='none', messages=MESSAGES, max_tokens=TOKENS, stream=True)
        self.assertEqual(''.join(chunk.choices[0].delta.content or '' for chunk in chunks), self.want)

    def test_llm(self):
        with tempfile.TemporaryDirectory() as folder:
            with open(f'{folder}/extra-openai-models.yaml', 'w', encoding='utf-8') as models:
                models.write(f'- model_id: private\n  model_name: permllm\n  api_base: "{URL}/v1"\n')
            environment = {**os.environ, 'LLM_USER_PATH': folder, 'OPENAI_API_KEY': 'none'}
            for flags in ([], ['--no-stream']):
                done = subprocess.run(['llm', '-m', 'private', *flags, '-o', 'max_tokens', str(TOKENS), QUESTION], env=environment, capture_output=True, text=True, check=False)
                self.assertEqual((done.stdout.rstrip('\n'), done.returncode), (self.want.rstrip('\n'), 0), done.stderr)


class Curl(Expected):
    BODY = {'model': 'permllm', 'messages': MESSAGES, 'max_tokens': TOKENS}

    def test_plain(self):
        status, body = post('/v1/chat/completions', self.BODY)
        self.assertEqual((status, json.loads(body)['choices'][0]['message']['content']), (200, self.want))

    def test_no_buffer(self):
        status, body = post('/v1/chat/completions', {**self.BODY, 'stream': True}, '-N')
        self.assertEqual(status, 200)
        self.assertTrue(body.rstrip().endswith('data: [DONE]'))

    def test_http_1_0_and_keep_alive(self):
        status, body = post('/v1/chat/completions', self.BODY, '-0')
        self.assertEqual((status, json.loads(body)['choices'][0]['message']['content']), (200, self.want))
        done = subprocess.run(['curl', '-sSf', '-w', '%{http_code} ', '-H', 'Connection: keep-alive', '-o', '/dev/null', URL + '/health', '-o', '/dev/null', URL + '/v1/models'],
                              capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout.split(), ['200', '200'])  # each on a connection of its own (docs/serve.md)

    def test_bad_requests(self):
        def refused(status, code, *arguments, path='/v1/chat/completions', body=None):
            got, text = post(path, self.BODY if body is None else body, *arguments)
            self.assertEqual(got, status, text)
            error = json.loads(text)['error']
            self.assertEqual(set(error), {'message', 'type', 'param', 'code'})
            self.assertTrue(code is None or error['code'] == code, text)
        refused(400, None, body='{"model": ')
        refused(400, None, body='[]')
        refused(404, None, path='/v1/nothing')
        refused(403, 'foreign_host', '-H', 'Host: evil.example')
        refused(403, 'foreign_origin', '-H', 'Origin: http://evil.example')
        with tempfile.NamedTemporaryFile('w') as large:
            json.dump({**self.BODY, 'messages': [{'role': 'user', 'content': 'a' * 1_100_000}]}, large)
            large.flush()
            refused(413, None, body='@' + large.name)
        self.assertIn(curl('-d', 'model=permllm', URL + '/v1/chat/completions')[0], (400, 415))
        self.assertNotIn('Access-Control', subprocess.run(['curl', '-sSi', '-X', 'OPTIONS', URL + '/v1/models'], capture_output=True, text=True, check=True).stdout)

    def test_a_body_of_nearly_1_mb_is_read(self):
        words = 499_990
        with tempfile.NamedTemporaryFile('w') as large:
            json.dump({'content': 'a ' * words}, large)
            large.flush()
            self.assertGreater(os.path.getsize(large.name), 999_980)
            status, body = post('/tokenize', '@' + large.name)
        self.assertEqual(status, 200)
        self.assertGreater(json.loads(body)['count'], words)

    def test_a_slow_request_holds_up_nobody(self):
        slow = socket.create_connection((HOST, int(PORT)))
        slow.sendall(b'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n')
        self.assertEqual(curl(URL + '/health')[0], 200)
        slow.settimeout(40)
        self.assertIn(slow.recv(1000)[:12], (b'', b'HTTP/1.1 400', b'HTTP/1.1 408'))
        slow.close()

    def test_what_each_party_sees(self):
        status, body = curl(URL + '/v1/privacy')
        self.assertEqual((status, {party['who'] for party in json.loads(body)['parties']}), (200, {'you', 'provider', 'helper'}))


class Speed(unittest.TestCase):
    client = openai.OpenAI(base_url=STRICT_URL + '/v1', api_key=KEY, max_retries=0)
    QUESTIONS = [('You know the weather well.', 'Explain in two sentences why the sky is blue, and why clouds are white.'),
                 ('You answer as a cook would.', 'Tell me in one sentence how long an egg has to boil until it is hard.'),
                 ('Be as brief as you can be.', 'Why do the tides of the sea come twice a day, and not once or four times?')]

    def wait_for_stock(self, tokens):
        """Until it is there in a conversation that nobody has begun: no more is made then."""
        end = time.monotonic() + 120
        while time.monotonic() < end:
            time.sleep(1)  # the gateway looks twice a second whether there is something to make
            status, event = curl('-H', f'Authorization: Bearer {KEY}', '-N', '--max-time', '0.5', STRICT_URL + '/v1/activity')
            now = json.loads(event.split('\n')[0].removeprefix('data: '))
            if status == 200 and now['stock_tokens'] >= tokens and not now['filling'] and now['state'] == 'idle':
                return
        self.fail(f'no stock of {tokens} tokens: {now}')

    def test_a_stream_adds_under_1_ms_a_token(self):
        """The time between chunks as they come here, beside the time a token took to make, of the same answer."""
        added, paces = [], []
        ask = lambda **how: openai.OpenAI(base_url=URL + '/v1', api_key='none', max_retries=0).completions.create(model='permllm', prompt='10, 11, 12,', max_tokens=17, **how)
        for _ in range(3):
            whole = ask().usage.model_extra['permllm']['seconds']['per_token']
            came, usage = [], None
            for chunk in ask(stream=True, stream_options={'include_usage': True}):
                if chunk.choices and chunk.choices[0].text:
                    came.append(time.monotonic())
                usage = chunk.usage or usage
            self.assertEqual(usage.completion_tokens, 17)
            self.assertGreater(len(came), 8)
            made = usage.model_extra['permllm']['seconds']['per_token']
            added.append((came[-1] - came[0]) / 16 - made)
            paces.append((whole, made))
        print('a token:', ', '.join(f'{whole * 1000:.1f} ms unstreamed, {made * 1000:.1f} streamed and {extra * 1000:+.2f} on its way' for (whole, made), extra in zip(paces, added)),
              flush=True)
        self.assertLess(min(map(abs, added)), 0.001)
        self.assertLess(min(made for _, made in paces), 2.5 * min(whole for whole, _ in paces))

    def test_first_token(self):
        """At 40 tokens of prompt, with material ready. An idle machine needs 0.4 to 0.65 s; one that makes the material or connects anew, some seconds."""
        seconds = []
        for system, question in self.QUESTIONS:
            self.wait_for_stock(64)
            usage, begin, first = None, time.monotonic(), None
            for chunk in self.client.chat.completions.create(model='permllm', messages=[{'role': 'system', 'content': system}, {'role': 'user', 'content': question}],
                                                             max_tokens=2, stream=True, stream_options={'include_usage': True}):
                if first is None and chunk.choices and chunk.choices[0].delta.content:
                    first = time.monotonic() - begin
                usage = chunk.usage or usage
            seconds.append(first)
            self.assertTrue(35 <= usage.prompt_tokens <= 45, usage)
            self.assertLessEqual(usage.prompt_tokens_details.cached_tokens, 4, usage)  # what every dialogue begins with
            self.assertLess(usage.model_extra['permllm']['seconds']['offline'], 0.5, usage)
        print('first token after', ', '.join(f'{s:.2f}' for s in seconds), 's', flush=True)
        self.assertLess(min(seconds), 2)


if __name__ == '__main__':
    unittest.main(verbosity=2)
