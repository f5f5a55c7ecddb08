"""What jinja2 makes of the templates in tests/data/templates and of the expressions beside them: the interpreter of src/template is held to it.

    render_templates.py DATA OUT

DATA is tests/data. OUT becomes a JSON list of cases: name, source, variables, and the text, or null where jinja2 raises an error. The set-up is Hugging
Face's: transformers' utils/chat_template_utils.py.
"""
import datetime
import json
import pathlib
import sys

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

TODAY = datetime.datetime(2024, 7, 6, 15, 4, 5)


class Refused(Exception):
    pass


class Generation(Extension):
    """{% generation %}, which marks what the model says, changes nothing of the text."""

    tags = {'generation'}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(['name:endgeneration'], drop_needle=True)
        return nodes.CallBlock(self.call_method('_body'), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise Refused(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=['jinja2.ext.loopcontrols', Generation])
    env.globals['raise_exception'] = raise_exception
    env.globals['strftime_now'] = TODAY.strftime
    env.filters['tojson'] = tojson
    return env


def said(role, content, **more):
    return {'role': role, 'content': content, **more}


def call(**arguments):
    return {'type': 'function', 'id': 'abcdefghi', 'function': {'name': 'weather', 'arguments': arguments}}


TOOLS = [{'type': 'function', 'function': {
    'name': 'weather', 'description': 'The <weather> of a "city", très vite\n',
    'parameters': {'type': 'object', 'required': ['city'], 'properties': {
        'city': {'type': 'string', 'enum': ['a', 'b']}, 'days': {'type': 'integer', 'default': 3},
        'hours': {'type': 'array', 'items': {'type': 'string'}},
        'where': {'type': 'object', 'properties': {'x': {'type': 'number'}}, 'required': ['x']}}}}}]

TALKS = {
    'question': [said('user', 'Hi there')],
    'system': [said('system', ' Be terse. '), said('user', '  padded \n')],
    'turns': [said('system', 'S'), said('user', 'Q1'), said('assistant', ' A1 \n'), said('user', "it's <b>\t模型 🦙")],
    'thought': [said('user', 'Q'), said('assistant', '<think>\nhm\n</think>\n\nA'), said('user', '<tool_response>x</tool_response>')],
    'late system': [said('user', 'Q1'), said('assistant', 'A1'), said('system', 'late'), said('user', 'Q2')],
    'two questions': [said('user', 'one'), said('user', 'two')],
    'system alone': [said('system', 'only')],
    'nothing said': [said('user', '')],
    'begun': [said('user', 'Q'), said('assistant', 'The answer is')],
    'called': [said('user', 'w?'), said('assistant', '', tool_calls=[call(city='Paris', n=3, f=1.5, b=True, x=None, l=[1, 'é'])]),
               said('tool', '{"t": 20}', tool_call_id='abcdefghi'), said('assistant', '20'), said('user', 'thanks')],
    'called twice': [said('user', 'w?'), said('assistant', 'hm', tool_calls=[call(city='A'), call(city='B "q"')]),
                     said('tool', '1', tool_call_id='abcdefghi'), said('tool', '2', tool_call_id='abcdefghi')],
    'greek': [said('system', 'αβγ δ'), said('user', ' εζ\n"ηθ" '), said('assistant', '<think>\nικ</think>λμ'), said('user', 'ΝΞ')],
}


def inputs():
    for name, messages in TALKS.items():
        base = {'messages': messages, 'bos_token': '<s>', 'eos_token': '</s>', 'add_generation_prompt': True}
        yield name, base
        yield name + ', tools', {**base, 'tools': TOOLS}
        yield name + ', thinking', {**base, 'enable_thinking': True, 'thinking': True}
        yield name + ', no thinking', {**base, 'enable_thinking': False, 'add_generation_prompt': False}


def case(env, name, source, variables):
    try:
        text = env.from_string(source).render(**variables)
        text.encode()
    except Exception:  # whatever jinja2 or Python refuses
        text = None
    return {'name': name, 'source': source, 'variables': variables, 'text': text}


def main():
    data, out = map(pathlib.Path, sys.argv[1:])
    env = environment()
    cases = []
    for path in sorted((data / 'templates').glob('*.jinja')):
        with open(path, encoding='utf-8', newline='') as file:
            source = file.read()
        cases += [case(env, f'{path.name}, {name}', source, variables) for name, variables in inputs()]
    for line in (data / 'template_expressions.txt').read_text(encoding='utf-8').replace('\\\n', '\\\0').split('\n'):
        if line:
            cases.append(case(env, line, '{{ [' + line.replace('\0', '\n') + '] | join("|") }}', {}))
            cases.append(case(env, line, '{{ (' + line.replace('\0', '\n') + ') }}', {}))
    out.write_text(json.dumps(cases), encoding='utf-8')


main()
