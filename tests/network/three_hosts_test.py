#!/usr/bin/env python3
"""Four machines and a switch, as network namespaces: provider, helper and two users, each with a cable of its own to a bridge in a fifth.

three_hosts_test.py PERMLLM MODEL     as root, with iproute2; exit status 77 where that is not to be had

Cables carry RATE in each direction. Bob is far away: a proxy at the provider's holds up what he sends and gets, for this kernel need not have netem.
"""
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RATE = '200mbit'
HOSTS = {'provider': '10.77.0.1', 'helper': '10.77.0.2', 'alice': '10.77.0.3', 'bob': '10.77.0.4'}
PROVIDER_PORT, FAR_PORT, HELPER_PORT = 7002, 7003, 7001
FAR_SECONDS = 0.01  # one way
PATIENCE, GRACE = 4, 2
CONTEXT = 64
PROMPTS = {'alice': 'Is it so?', 'bob': 'And the sea'}
TOKENS = {'alice': 12, 'bob': 12}


def skip(why):
    print(f'skipped: {why}')
    sys.exit(77)


def expect(truth, what):
    if not truth:
        raise AssertionError(what)


# ---- The network -------------------------------------------------------------------------------------------------------

class Network:
    """The namespaces; they go when it is left."""

    def __init__(self):
        self.prefix = f'permllm-{os.getpid()}-'
        self.made = []

    def __enter__(self):
        try:
            self.add('switch')
            self.ip('-n', self.name('switch'), 'link', 'add', 'bridge', 'up', 'type', 'bridge')
            for host, address in HOSTS.items():
                self.add(host)
                self.ip('-n', self.name(host), 'link', 'add', 'cable', 'type', 'veth', 'peer', 'name', host, 'netns', self.name('switch'))
                self.ip('-n', self.name('switch'), 'link', 'set', host, 'master', 'bridge', 'up')
                self.ip('-n', self.name(host), 'address', 'add', f'{address}/24', 'dev', 'cable')
                self.ip('-n', self.name(host), 'link', 'set', 'cable', 'up')
                for space, device in ((host, 'cable'), ('switch', host)):
                    self.run(['tc', '-n', self.name(space), 'qdisc', 'add', 'dev', device, 'root', 'tbf', 'rate', RATE, 'burst', '256kb', 'latency', '100ms'])
        except (OSError, subprocess.CalledProcessError) as error:
            self.__exit__()
            skip(f'no network namespaces, or no veth, bridge and tbf in them: {getattr(error, "stderr", None) or error}')
        return self

    def __exit__(self, *_):
        for name in self.made:
            subprocess.run(['ip', 'netns', 'del', name], check=False)

    def name(self, host):
        return self.prefix + host

    def add(self, host):
        self.ip('netns', 'add', self.name(host))
        self.made.append(self.name(host))
        self.ip('-n', self.name(host), 'link', 'set', 'lo', 'up')

    def ip(self, *arguments):
        self.run(['ip', *arguments])

    def run(self, command):
        subprocess.run(command, check=True, capture_output=True, text=True)

    def cable(self, host, state):
        """Pulls the cable out of the switch, or puts it back: state 'down' or 'up'."""
        self.ip('-n', self.name('switch'), 'link', 'set', host, state)

    def at(self, host):
        """What runs a command on this machine."""
        return ['ip', 'netns', 'exec', self.name(host)]


async def hold_up(reader, writer):
    """Hands on what comes, FAR_SECONDS later."""
    late = asyncio.Queue()

    async def deliver():
        while (item := await late.get()) is not None:
            await asyncio.sleep(max(0, item[0] - time.monotonic()))
            writer.write(item[1])
            await writer.drain()
        writer.close()

    delivery = asyncio.create_task(deliver())
    try:
        while data := await reader.read(1 << 16):
            late.put_nowait((time.monotonic() + FAR_SECONDS, data))
    except OSError:
        pass
    late.put_nowait(None)
    await asyncio.gather(delivery, return_exceptions=True)


async def far_away():
    """Stands before the provider."""

    async def join(reader, writer):
        try:
            to_reader, to_writer = await asyncio.open_connection(HOSTS['provider'], PROVIDER_PORT)
        except OSError:
            writer.close()
            return
        await asyncio.gather(hold_up(reader, to_writer), hold_up(to_reader, writer))

    server = await asyncio.start_server(join, HOSTS['provider'], FAR_PORT)
    print('{"event": "ready"}', flush=True)
    await server.serve_forever()


# ---- The programs ------------------------------------------------------------------------------------------------------

class Program:
    """A program on a machine, which prints events as JSON lines."""

    def __init__(self, command, question=None):
        self.errors = tempfile.TemporaryFile('w+')
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        if question is not None:
            self.process.stdin.write(question + '\n')
        self.process.stdin.close()

    def wait_for(self, event):
        for line in self.process.stdout:
            read = json.loads(line)
            expect(read['event'] != 'error', line)
            if read['event'] == event:
                return read
        raise AssertionError(f'it ended before "{event}": {self.said()}')

    def end(self):
        """Its exit status, once it has ended by itself."""
        self.process.stdout.read()
        return self.process.wait()

    def said(self):
        self.errors.seek(0)
        return self.errors.read()

    def stop(self):
        self.process.kill()
        self.process.wait()


class World:
    def __init__(self, network, permllm, model, folder):
        self.network, self.permllm, self.model, self.folder = network, permllm, model, folder
        self.running = []

    def do(self, *arguments, host=None, status=0):
        command = (self.network.at(host) if host else []) + [self.permllm, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        expect(done.returncode == status, f'{arguments}: {done.returncode}, {done.stdout}{done.stderr}')
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{')]

    def start(self, host, *command):
        program = Program(self.network.at(host) + [str(part) for part in command])
        self.running.append(program)
        program.wait_for('ready')
        return program

    def stop_all(self):
        for program in self.running:
            program.stop()

    def make_identities(self):
        for role in ('provider', 'helper'):
            self.do('keygen', '--role', role, '--out', self.folder / role)
        shutil.copy(self.folder / 'provider/certificate.pem', self.folder / 'helper/peers/provider.pem')
        shutil.copy(self.folder / 'helper/certificate.pem', self.folder / 'provider/peers/helper.pem')
        for user, port in (('alice', PROVIDER_PORT), ('bob', FAR_PORT)):
            self.do('invite', user, '--identity', self.folder / 'provider', '--provider-address', f'{HOSTS["provider"]}:{port}',
                    '--helper-address', f'{HOSTS["helper"]}:{HELPER_PORT}', '--tokens', 10000, '--out', self.folder / user)

    def start_helper(self):
        return self.start('helper', self.permllm, 'helper', '--identity', self.folder / 'helper', '--store', self.folder / 'store',
                          '--listen', f'{HOSTS["helper"]}:{HELPER_PORT}', '--events', '--patience', PATIENCE)

    def start_services(self):
        self.helper = self.start_helper()
        self.start('provider', self.permllm, 'provider', '--identity', self.folder / 'provider', '--state', self.folder / 'state', '--model', self.model, '--context', CONTEXT,
                   '--listen', f'{HOSTS["provider"]}:{PROVIDER_PORT}', '--helper', f'{HOSTS["helper"]}:{HELPER_PORT}', '--events', '--patience', PATIENCE, '--grace', GRACE)
        self.start('provider', sys.executable, __file__, '--far-away')

    def ask(self, user):
        return Program(self.network.at(user) + [self.permllm, 'chat', '--invite', str(self.folder / user), '--chat-format', 'none', '--json',
                                               '--max-tokens', str(TOKENS[user]), '--patience', str(PATIENCE), '--grace', str(GRACE),
                                               '--state', str(self.folder / f'{user}.state')], PROMPTS[user])

    def stock(self, user, *more):
        return self.do('stock', '--invite', self.folder / user, '--state', self.folder / f'{user}.state', '--patience', PATIENCE, '--json', *more, host=user)

    def answer_of_demo(self, user):
        return self.do('demo', self.model, '--context', CONTEXT, '--prompt', PROMPTS[user], '--chat-format', 'none', '--max-tokens', TOKENS[user], '--json')[-1]['output_ids']

    def doctor(self, user, status):
        lines = self.do('doctor', '--invite', self.folder / user, '--json', host=user, status=status)
        return {(line['link'], line['check']): line for line in lines}


# ---- What is to happen -------------------------------------------------------------------------------------------------

def answered(program, ids):
    got = program.wait_for('done')['output_ids']
    expect(got == ids, f'{got}, the demo has {ids}')
    expect(program.end() == 0, program.said())


def both_are_answered_at_the_same_time(world, want):
    asking = {user: world.ask(user) for user in want}
    for user, program in asking.items():
        answered(program, want[user])


def doctor_sees_the_distance_and_the_cables(world):
    near, far = world.doctor('alice', 0), world.doctor('bob', 0)
    for found in (near, far):
        expect(all(line['state'] == 'ok' for line in found.values()), found)
    speed = far['user-provider', 'speed']
    expect(2 * FAR_SECONDS <= speed['round_trip_seconds'] < 1, speed)
    expect(near['user-provider', 'speed']['round_trip_seconds'] < speed['round_trip_seconds'], near)
    for link in ('user-provider', 'user-helper'):
        for direction in ('to', 'from'):
            # A bucket lets its burst through at any speed; the rate is that of payload and headers.
            bits = near[link, 'speed'][f'{direction}_peer_bits_per_second']
            expect(bits < 1.5 * 200e6, f'{link} {direction}: {bits}')


def a_cable_that_is_pulled_ends_one_answer(world, want):
    program = world.ask('bob')
    program.wait_for('token')
    world.network.cable('bob', 'down')
    pulled = time.monotonic()
    alice = world.ask('alice')
    expect(program.end() == 1, 'an answer without a cable')
    took = time.monotonic() - pulled
    expect(took < 2 * PATIENCE + GRACE + 2, f'it took {took:.1f} s to notice, with a patience of {PATIENCE} s')
    expect(re.search('did not answer before the deadline|closed the connection', program.said()), program.said())
    answered(alice, want['alice'])
    found = world.doctor('bob', 1)
    for link in ('user-provider', 'user-helper'):
        line = found[link, 'port']
        expect(line['state'] == 'wrong' and re.search('no answer|unreachable', line['text']), line)
    world.network.cable('bob', 'up')
    answered(world.ask('bob'), want['bob'])


def a_revoked_user_is_refused_while_another_goes_on(world, want):
    bob = world.ask('bob')
    bob.wait_for('token')
    world.do('invite', '--revoke', 'alice', '--identity', world.folder / 'provider')
    alice = world.ask('alice')
    expect(alice.end() == 1 and 'its invite is revoked' in alice.said(), alice.said())
    line = world.doctor('alice', 1)['user-provider', 'own key']
    expect(line['state'] == 'wrong' and 'ask the provider for a new invite' in line['remedy'], line)
    answered(bob, want['bob'])


def the_helper_is_not_needed_once_packs_are_made(world, want):
    chains = world.stock('bob', '--fill', 40, '--answers', 16)
    expect(any(c['event'] == 'chain' and c['used_slots'] == 0 and c['slots'] == 40 and c['answer_tokens'] == 16 for c in chains), chains)
    world.helper.stop()
    answered(world.ask('bob'), want['bob'])
    expect(any(c['event'] == 'chain' and c['used_slots'] > 0 for c in world.stock('bob')), 'the answer used none')


def main(permllm, model):
    if os.geteuid() != 0:
        skip('network namespaces need root')
    for tool in ('ip', 'tc'):
        if shutil.which(tool) is None:
            skip(f'{tool} is not installed (iproute2)')
    with Network() as network, tempfile.TemporaryDirectory() as folder:
        world = World(network, permllm, model, Path(folder))
        try:
            want = {user: world.answer_of_demo(user) for user in PROMPTS}
            world.make_identities()
            world.start_services()
            for step in (both_are_answered_at_the_same_time, doctor_sees_the_distance_and_the_cables, a_cable_that_is_pulled_ends_one_answer,
                         a_revoked_user_is_refused_while_another_goes_on, the_helper_is_not_needed_once_packs_are_made):
                begin = time.monotonic()
                step(*(world, want)[:step.__code__.co_argcount])
                print(f'{step.__name__}: {time.monotonic() - begin:.1f} s', flush=True)
        finally:
            world.stop_all()


if __name__ == '__main__':
    if sys.argv[1:] == ['--far-away']:
        asyncio.run(far_away())
    else:
        main(*sys.argv[1:])
