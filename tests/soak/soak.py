#!/usr/bin/env python3
"""A provider, a helper and users who do all at random and at once, while services are killed and strangers knock.

soak.py PERMLLM MODEL [--seconds 60] [--users 6] [--helpers 1] [--kill-every 11] [--provider=ARGUMENTS] [--chat=ARGUMENTS]
        [--seed N]

Kills end a minute before the end, or behind the first part of a shorter time, so that the last life of each service is long enough to see
whether it grows. At the end everything is stopped in order and the ledgers of both sides are compared. With several helpers these are a pool
behind a balancer, and the provider is left alone. Exit status 1 where something was not as it should be; each such thing is a line.
"""
import argparse
import collections
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path

CONTEXT = 64
PATIENCE, GRACE = 10, 4         # seconds
HANG = 45                       # a user's program that takes longer is an error
TOKENS, LEAST_TOKENS = 8, 3     # longest answer; what of it must be known to compare
MOST_DRAFT = 4                  # drafted tokens of a pass
STRETCH = 15                    # pieces that are burnt ahead of use
KINDS = ('slots', 'entries', 'passes', 'queries')
CANDIDATES = ('Is it so?', 'And the sea', 'Why not', 'a', 'One, two', 'to be', 'Who?', 'The end', 'if then', 'x y z')
SAMPLE_SECONDS = 0.5
WARM_UP_SECONDS = 8             # of a life, or a third of it
# Between the first and the last third of a life behind the warm-up. The heap takes some 10 MiB in the first half minute, then levels off: measured
# were at most 6 MiB in lives of 18 to 50 s, and 2.6 (helper) and 0.8 (provider) in lives of 140 s with 14 sessions a second.
MOST_MORE_MIB = 12
MOST_MORE_FILES, MOST_MORE_THREADS = 4, 2  # the helper's model; and room for a peer that comes late


class Soak:
    def __init__(self, options, folder):
        self.permllm, self.model, self.folder, self.options = options.permllm, options.model, folder, options
        self.lock = threading.Lock()
        self.count = collections.Counter()     # of actions, answers and so on
        self.errors = collections.Counter()    # by text
        self.failures = []
        self.unexpected = {}                   # such an error -> the first time
        self.outages = []                      # (service, from, to) in monotonic seconds
        self.stop = threading.Event()
        self.last_prompt = max(map(len, CANDIDATES))

    def fail(self, text):
        with self.lock:
            self.failures.append(text)
        print(f'FAILED: {text}', flush=True)

    def did(self, what, count=1):
        with self.lock:
            self.count[what] += count

    def run(self, *arguments):
        done = subprocess.run([self.permllm, *map(str, arguments)], capture_output=True, text=True, cwd=self.folder, timeout=HANG)
        if done.returncode != 0:
            raise RuntimeError(f'{arguments}: {done.returncode}, {done.stdout}{done.stderr}')

    def outage(self, begin, end, service=None):
        """Whether a service was away in this time, or had just come back."""
        with self.lock:
            return any(begin <= to + 1 and start <= end and service in (None, name) for name, start, to in self.outages)


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def numbers_of(pid):
    """Resident KiB, threads, open files (None: not for us to see)."""
    status = dict(line.split(':', 1) for line in Path(f'/proc/{pid}/status').read_text().splitlines() if ':' in line)
    try:
        files = len(os.listdir(f'/proc/{pid}/fd'))
    except PermissionError:
        files = None
    return int(status['VmRSS'].split()[0]), int(status['Threads']), files


# ---- Services ----------------------------------------------------------------------------------------------------------

class Life:
    """A process of a service from start to end."""
    def __init__(self, process):
        self.process, self.samples, self.begin = process, [], time.monotonic()
        self.idle = None  # threads and files before anybody came

    def sample(self):
        try:
            self.samples.append((time.monotonic() - self.begin, *numbers_of(self.process.pid)))
        except (FileNotFoundError, ProcessLookupError, KeyError):
            pass

    def growth(self):
        """MiB: first and last third behind the warm-up (medians), and the slope a minute; None for a life too short."""
        if not self.samples:
            return None
        end = self.samples[-1][0]
        warm = [(t, rss / 1024) for t, rss, *_ in self.samples if t >= max(WARM_UP_SECONDS, end / 3)]
        if len(warm) < 12:
            return None
        third = len(warm) // 3
        slope = statistics.linear_regression(*zip(*warm)).slope * 60
        return statistics.median(m for _, m in warm[:third]), statistics.median(m for _, m in warm[-third:]), slope


class Service:
    def __init__(self, soak, name, arguments):
        self.soak, self.name, self.lives, self.life = soak, name, [], None
        self.command = [soak.permllm, name.split('-')[0], *map(str, arguments), '--events', '--patience', str(PATIENCE)]
        self.log = soak.folder / f'{name}.log'
        self.expected_end = True

    def start(self):
        with open(self.log, 'a') as log:
            process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=self.soak.folder)
        ready = threading.Event()

        def read():
            for line in process.stdout:
                with open(self.log, 'a') as copy:
                    copy.write(line)
                if json.loads(line)['event'] == 'ready':
                    ready.set()
        threading.Thread(target=read, daemon=True).start()
        for _ in range(300):
            if ready.wait(0.1) or process.poll() is not None:
                break
        if not ready.is_set():
            raise RuntimeError(f'{self.name} does not start: {process.poll()}, {self.said()}')
        self.life = Life(process)
        self.lives.append(self.life)
        time.sleep(0.3)  # until it waits for its first connection, and has the files for that
        self.life.idle = numbers_of(process.pid)[1:]
        self.expected_end = False

    def said(self):
        return ''.join(self.log.read_text().splitlines(True)[-5:])

    def check(self):
        """Nobody but this script ends it."""
        if not self.expected_end and self.life.process.poll() is not None:
            self.expected_end = True
            self.soak.fail(f'{self.name} ended by itself with {self.life.process.returncode}: {self.said()}')
            self.soak.stop.set()

    def kill_and_restart(self, away):
        self.check()
        if self.expected_end:
            return
        self.expected_end = True
        begin = time.monotonic()
        outage = [self.name, begin, float('inf')]
        with self.soak.lock:
            self.soak.outages.append(outage)
        self.life.process.kill()
        self.life.process.wait()
        time.sleep(away)
        self.start()
        outage[2] = time.monotonic()
        self.soak.did(f'{self.name} killed and restarted')

    def end(self):
        """In order."""
        self.check()
        if self.expected_end:
            return
        self.expected_end = True
        self.life.process.terminate()
        try:
            status = self.life.process.wait(40)
        except subprocess.TimeoutExpired:
            self.life.process.kill()
            status = self.life.process.wait()
        if status != 0:
            self.soak.fail(f'{self.name} ended with {status} on SIGTERM, expected 0')


class Balancer:
    """Hands each connection to the next helper that listens."""
    def __init__(self, ports):
        self.ports, self.turn = ports, 0
        self.listener = socket.create_server(('127.0.0.1', 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            threading.Thread(target=self.join, args=(self.listener.accept()[0],), daemon=True).start()

    def join(self, user):
        self.turn += 1
        for i in range(len(self.ports)):
            try:
                helper = socket.create_connection(('127.0.0.1', self.ports[(self.turn + i) % len(self.ports)]))
            except OSError:
                continue
            threading.Thread(target=self.pump, args=(helper, user), daemon=True).start()
            return self.pump(user, helper)
        user.close()

    @staticmethod
    def pump(source, to):
        try:
            while data := source.recv(1 << 16):
                to.sendall(data)
        except OSError:
            pass
        for end in (source, to):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


# ---- Users -------------------------------------------------------------------------------------------------------------

# Text of an error, and why it may be: 'outage' a service was killed meanwhile, 'revoked' the user was, 'interrupted' the script did it, 'went on' the
# conversation had several questions.
EXPECTED = [
    (r'closed the connection|nobody listens|did not arrive before the deadline|did not answer before the deadline|was lost|no connection|Connection re(set|fused)|Broken pipe|has left'
     r'|no such session|shutting down|does not hold model|this side closed it|cancelled|did not open its side of the session', 'outage'),
    (r'the provider and this side differ about the chain|seed of this chain is another than', 'outage'),
    (r'its invite was revoked|was replaced by a newer one|its invite is revoked, replaced or unknown', 'revoked'),
    (r'answer: stopped', 'interrupted'),
    (r'do not fit the context', 'went on'),
]


class User:
    def __init__(self, soak, number, references):
        self.soak, self.name, self.references = soak, f'user{number}', references
        self.random = random.Random(f'{soak.options.seed}/{number}')
        self.calm = number % 3 == 0  # its programs are never hurt
        self.state, self.invite = soak.folder / self.name, soak.folder / f'{self.name}.invite'
        self.lock = threading.Lock()
        self.printed, self.slack = collections.Counter(), collections.Counter()  # tokens, by key
        self.hurt_chains = collections.Counter()  # how often a program that may have used it was killed
        self.revoked_at = -1e9
        self.let_in()

    def let_in(self):
        self.invite.unlink(missing_ok=True)
        self.soak.run('invite', self.name, '--identity', self.soak.folder / 'provider', '--provider-address', f'127.0.0.1:{self.soak.ports["provider"]}',
                      '--helper-address', f'127.0.0.1:{self.soak.ports["helper"]}', '--tokens', 1000000, '--out', self.invite)
        self.key = tomllib.loads((self.soak.folder / f'provider/users/{self.name}.toml').read_text())['key']

    # -- One program --

    def program(self, arguments, lines=(), hurt=None, late=0.0, after=0):
        """Runs it to its end: its events. hurt: 'kill', 'interrupt' or 'close', after so many tokens and seconds."""
        key, begin = self.key, time.monotonic()
        errors = tempfile.TemporaryFile('w+')
        process = subprocess.Popen([self.soak.permllm, *arguments, '--invite', self.invite, '--state', self.state, '--json', '--patience', str(PATIENCE)],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=self.soak.folder)
        hung = threading.Event()
        watchdog = threading.Timer(HANG, lambda: (hung.set(), process.kill()))
        watchdog.start()

        def strike():
            if hurt == 'close':
                process.stdin.close()
            else:
                process.send_signal(signal.SIGKILL if hurt == 'kill' else signal.SIGINT)

        striker = threading.Timer(late, strike) if hurt and hurt != 'close' else None
        if striker and after == 0:
            striker.start()
        try:
            process.stdin.write(''.join(f'{line}\n' for line in lines))
            process.stdin.flush()
            if hurt != 'close':
                process.stdin.close()
        except (BrokenPipeError, ValueError):
            pass
        events, tokens = [], 0
        for line in process.stdout:
            try:
                events.append(json.loads(line))
            except ValueError:
                if hurt != 'kill':
                    self.soak.fail(f'{self.name}: no JSON: {line!r}')
                continue
            if events[-1]['event'] == 'token':
                tokens += 1
                if hurt == 'close' and tokens == 1:
                    strike()
                elif striker and tokens == after:
                    striker.start()
        status = process.wait()
        watchdog.cancel()
        if striker:
            striker.cancel()
        if hurt == 'close' and not process.stdin.closed:
            process.stdin.close()
        end = time.monotonic()
        errors.seek(0)
        said = errors.read()
        errors.close()
        with self.lock:
            # Drafted tokens that did not hold are counted, too; of an answer without its end nobody says how many there were.
            done = [event for event in events if event['event'] == 'done']
            self.printed[key] += tokens + sum(event['drafts']['rejected'] for event in done)
            if len(done) < len(lines):
                self.slack[key] += MOST_DRAFT * (tokens + 2 * len(lines))
            # A pass that was begun for a token that was not printed; and what a killed provider had burnt ahead. Behind its end a session waits.
            self.slack[key] += 2 * len(lines) + (STRETCH + 1 if self.soak.outage(begin, end + GRACE + PATIENCE, 'provider') else 0)
        if hung.is_set():
            away = [f'{service} away {start - begin:+.2f} to {to - begin:+.2f} s' for service, start, to in self.soak.outages if to > begin - 5]
            self.soak.fail(f'{self.name}: {arguments} did not end in {HANG} s: {said}last {events[-1:]}; {away}')
        elif status < 0 and not (hurt == 'kill' and status == -signal.SIGKILL or hurt == 'interrupt' and status == -signal.SIGINT):
            self.soak.fail(f'{self.name}: {arguments} ended by signal {-status}: {said}')
        if status < 0:
            self.mark_hurt()
        if status > 0:
            self.judge(said, status, begin, end, hurt, len(lines))
        return events, status

    def judge(self, said, status, begin, end, hurt, questions):
        lines = [line for line in said.splitlines() if line.startswith('permllm: ')] or [said.strip() or f'exit status {status} without a word']
        text = re.sub(r'\b[0-9a-f]{8,}\b|\d+(\.\d+)?', '#', lines[-1])
        causes = {'outage': self.soak.outage(begin, end), 'revoked': self.revoked_at >= begin - 30, 'interrupted': hurt == 'interrupt',
                  'went on': questions > 1}
        expected = any(re.search(pattern, lines[-1]) and causes[cause] for pattern, cause in EXPECTED)
        with self.soak.lock:
            self.soak.errors[text if expected else f'UNEXPECTED {text}'] += 1
            if not expected:
                self.soak.unexpected.setdefault(text, f'{self.name}, {lines[-1]!r} after {end - begin:.1f} s, hurt: {hurt}')

    def mark_hurt(self):
        """All chains that there are: one of them was in use."""
        chains = set(chains_of(self.state))
        with self.lock:
            self.hurt_chains.update(chains)

    # -- What users do --

    def chat(self, hurt=None):
        r = self.random
        tokens = r.randint(1, TOKENS)
        questions = [r.choice(list(self.references)) for _ in range(r.randint(1, 3))]
        arguments = ['chat', '--chat-format', 'none', '--max-tokens', str(tokens), '--ahead', str(r.choice((1, 16, 64))), *self.soak.chat]
        events, status = self.program(arguments, questions, hurt, late=r.uniform(0, 0.4), after=r.choice((0, 0, 1, 3)))
        done = [event for event in events if event['event'] == 'done']
        self.soak.did('answers', len(done))
        if status == 0 and hurt in (None, 'close') and len(done) != len(questions) and not self.soak.stop.is_set():
            self.soak.fail(f'{self.name}: {len(done)} answers to {len(questions)} questions')
        # The first is that of a fresh conversation: as the reference, or, where it was cut, as that begins.
        got = [event['id'] for event in events[:events.index(done[0]) if done else None] if event['event'] == 'token']
        asked = questions if hurt == 'interrupt' else questions[:1]  # a question that was interrupted before its answer began is forgotten
        as_reference = any(all(a == b for a, b in zip(got, self.references[question])) for question in asked)
        # An answer whose material cannot be made any more ends before, and says so.
        whole = hurt == 'interrupt' or not done or len(got) == tokens or done[0]['end'] == 'stock'
        if not as_reference or not whole:
            self.soak.fail(f'{self.name}: {asked} got {got}, expected {[self.references[q] for q in asked]} (hurt: {hurt}, status {status}, end: {done[0]["end"] if done else None})')
            self.soak.did('wrong first answers')
        elif done:
            self.soak.did('right first answers')

    def stock(self, hurt=None):
        arguments = ['stock', '--fill', str(self.random.choice((8, 24, 48, 64))), '--conversations', str(self.random.randint(1, 2))]
        self.program(arguments, (), hurt, late=self.random.uniform(0, 0.3))

    def two_at_once(self):
        other = threading.Thread(target=self.guarded, args=(self.random.choice((self.chat, self.stock)),))
        other.start()
        self.chat()
        other.join()

    def be_revoked(self):
        self.revoked_at = float('inf')
        self.soak.run('invite', '--revoke', self.name, '--identity', self.soak.folder / 'provider')
        events, status = self.program(['chat', '--chat-format', 'none', *self.soak.chat], ['a'])
        if status == 0:
            self.soak.fail(f'{self.name}: an answer with a revoked invite')
        self.let_in()
        self.revoked_at = time.monotonic()

    def guarded(self, action, *arguments):
        try:
            action(*arguments)
        except Exception as error:  # the script's own
            self.soak.fail(f'{self.name}: {type(error).__name__}: {error}')

    def live(self):
        gentle = [(self.chat, (), 'chat', 40), (self.stock, (), 'stock', 10), (self.two_at_once, (), 'two at once', 10),
                  (self.be_revoked, (), 'revoked', 2), (self.chat, ('close',), 'chat, input closed', 8)]
        rough = [(self.chat, ('kill',), 'chat killed', 14), (self.chat, ('interrupt',), 'chat interrupted', 10), (self.stock, ('kill',), 'stock killed', 6)]
        deeds = gentle if self.calm else gentle + rough
        while not self.soak.stop.is_set():
            action, arguments, name, _ = self.random.choices(deeds, [deed[3] for deed in deeds])[0]
            self.soak.did(name)
            self.guarded(action, *arguments)
            self.soak.stop.wait(self.random.uniform(0, 0.3))


def references_of(soak, user):
    """Answers to first questions, as far as they are the same every time: rounding is at random, and a small model has choices that are close."""
    references = {}
    for question in CANDIDATES:
        same = None
        for _ in range(5):
            events, _ = user.program(['chat', '--chat-format', 'none', '--max-tokens', str(TOKENS), '--ahead', '16', *soak.chat], [question])
            answer = [event['id'] for event in events if event['event'] == 'token']
            same = os.path.commonprefix([answer, same or answer])
            if len(same) < LEAST_TOKENS:
                break
        else:
            references[question] = same
    print(f'questions with one answer: {({question: len(answer) for question, answer in references.items()})}', flush=True)
    if len(references) < 2:
        raise RuntimeError('too few questions have one answer')
    return references


# ---- Trouble -----------------------------------------------------------------------------------------------------------

def knock(soak, rng, port):
    """A stranger: noise, half a handshake, a handshake without a certificate, or nothing at all."""
    kind = rng.choice(('nothing', 'noise', 'half', 'silent', 'stranger'))
    soak.did(f'knock: {kind}')
    try:
        with socket.create_connection(('127.0.0.1', port), 2) as s:
            if kind == 'noise':
                s.sendall(rng.randbytes(rng.randint(1, 4000)))
            elif kind == 'half':
                to_send, hello = ssl.MemoryBIO(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                hello.check_hostname, hello.verify_mode = False, ssl.CERT_NONE
                try:
                    hello.wrap_bio(ssl.MemoryBIO(), to_send).do_handshake()
                except ssl.SSLWantReadError:
                    pass
                data = to_send.read()
                s.sendall(data[:rng.randint(1, len(data))])
                time.sleep(rng.uniform(0, 1))
            elif kind == 'silent':
                time.sleep(rng.uniform(0, 2))
            elif kind == 'stranger':
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                with context.wrap_socket(s) as tls:
                    tls.sendall(rng.randbytes(100))
                    tls.settimeout(2)
                    tls.recv(100)
    except OSError:
        pass


def trouble(soak, services, rng, seconds):
    begin = time.monotonic()
    pool = [name for name in services if name.startswith('helper')]
    victims, every = pool if len(pool) > 1 else list(services), soak.options.kill_every
    next_kill = begin + rng.uniform(0.55, 0.9) * every
    victim = rng.randrange(len(victims))
    while not soak.stop.is_set():
        knock(soak, rng, soak.ports[rng.choice(list(soak.ports))])
        if rng.random() < 0.1:
            service = services[rng.choice(list(services))]
            if not service.expected_end:
                service.life.process.send_signal(signal.SIGHUP)
                soak.did('SIGHUP')
        now = time.monotonic()
        if now >= next_kill and now - begin < seconds - min(0.45 * seconds, 60):
            services[victims[victim]].kill_and_restart(rng.uniform(0, 1.5))
            victim = (victim + 1) % len(victims)
            next_kill = time.monotonic() + rng.uniform(0.8, 1.2) * every
        soak.stop.wait(rng.uniform(0, 0.5))


def watch(soak, services):
    while not soak.stop.wait(SAMPLE_SECONDS):
        for service in services.values():
            service.check()
            if not service.expected_end:
                service.life.sample()


# ---- What must hold at the end -----------------------------------------------------------------------------------------

def rows_of(folder, query):
    path = folder / 'ledger.sqlite'
    if not path.exists():
        return []
    database = sqlite3.connect(f'file:{path}?mode=ro', uri=True, timeout=10)
    try:
        return database.execute(query).fetchall()
    except sqlite3.OperationalError as error:  # made a moment ago, and not yet filled
        if 'no such table' in str(error):
            return []
        raise
    finally:
        database.close()


def chains_of(folder):
    """(chain, peer) -> how far it is burnt, kind by kind; at a user without the peer."""
    rows = rows_of(folder, 'SELECT chain, peer, burnt1, burnt2, burnt3, burnt4 FROM chains')
    return {(chain % 2**64, peer) if peer else chain % 2**64: burnt for chain, peer, *burnt in rows}


def check_ledgers(soak, users):
    stock = soak.folder / 'state/stock'
    there = chains_of(stock)
    tokens = dict(rows_of(stock, 'SELECT peer, sum(tokens) FROM usage GROUP BY peer'))
    both = equal = 0
    for user in users:
        for chain, own in chains_of(user.state).items():
            limit = CONTEXT + (STRETCH if chain in user.hurt_chains else 0)
            if max(own) > limit:
                soak.fail(f'{user.name}: chain {chain:016x} is burnt to {own} of {CONTEXT}')
            his = there.get((chain, user.key))
            if his is None:
                continue
            both += 1
            equal += own == his
            # A killed side had burnt ahead, each time; and the step under way may be known to one alone.
            most = STRETCH * user.hurt_chains[chain] + soak.last_prompt if chain in user.hurt_chains else 0
            if any(abs(a - b) > most for a, b in zip(own, his)):
                soak.fail(f'{user.name}: chain {chain:016x} is burnt to {own} at the user, {his} at the provider, at most {most} apart expected '
                          f'({"hurt" if most else "never hurt"})')
        for key, printed in user.printed.items():
            counted = tokens.get(key, 0)
            if not printed <= counted <= printed + user.slack[key]:
                soak.fail(f'{user.name}: the provider counts {counted} tokens, {printed} were printed, {user.slack[key]} more may be explained')
    for (chain, peer), burnt in there.items():
        if max(burnt) > CONTEXT + STRETCH:
            soak.fail(f'chain {chain:016x} is burnt to {burnt} of {CONTEXT} at the provider')
    print(f'ledgers: {both} chains in both, {equal} of them burnt alike; {sum(tokens.values())} tokens counted, '
          f'{sum(sum(user.printed.values()) for user in users)} printed', flush=True)


def check_files(soak):
    stock = soak.folder / 'state/stock'
    named = {f'{peer[:16]}-{chain:016x}.{half}' for chain, peer in chains_of(stock) for half in ('helper', 'user')}
    files = {path.name for path in stock.iterdir() if path.suffix in ('.helper', '.user')}
    if files - named:
        soak.fail(f'{len(files - named)} files are of no chain in the ledger: {sorted(files - named)[:4]}')
    if named - files:
        soak.fail(f'{len(named - files)} files of chains are missing: {sorted(named - files)[:4]}')


def check_idle(soak, service):
    """Files and threads come down to what they were, once sessions have been given up."""
    threads, files = service.life.idle
    end = time.monotonic() + GRACE + PATIENCE + 5
    while True:
        _, now_threads, now_files = numbers_of(service.life.process.pid)
        if (now_threads <= threads and (files is None or now_files <= files)) or time.monotonic() > end:
            break
        time.sleep(0.5)
    if now_threads > threads + MOST_MORE_THREADS or (files is not None and now_files > files + MOST_MORE_FILES):
        soak.fail(f'{service.name}, idle: {now_threads} threads and {now_files} files, {threads} and {files} at its start')
    return f'{service.name}: threads {threads} -> {now_threads}, files {files} -> {now_files}'


def check_memory(soak, service):
    told = []
    for number, life in enumerate(service.lives):
        growth = life.growth()
        if growth is None:
            continue
        first, last, slope = growth
        told.append(f'life {number + 1} of {life.samples[-1][0]:.0f} s: {life.samples[0][1] / 1024:.1f} at first, {first:.1f} -> {last:.1f} MiB, '
                    f'{slope:+.2f} MiB a minute')
        if last - first > MOST_MORE_MIB:
            soak.fail(f'{service.name} grew in life {number + 1}: {told[-1]}')
    return told


def check_nothing_is_left(soak):
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if int(path.parent.name) != os.getpid() and command.startswith(soak.permllm.encode() + b'\0') and str(soak.folder).encode() in command:
            soak.fail(f'still running: {command.replace(bytes(1), b" ").decode(errors="replace")}')
    for core in soak.folder.glob('core*'):
        soak.fail(f'a core file: {core}')


def prepare(soak):
    for role in ('provider', 'helper'):
        soak.run('keygen', '--role', role, '--out', soak.folder / role)
    shutil.copy(soak.folder / 'provider/certificate.pem', soak.folder / 'helper/peers/provider.pem')
    shutil.copy(soak.folder / 'helper/certificate.pem', soak.folder / 'provider/peers/helper.pem')
    ports = [free_port() for _ in range(soak.options.helpers)]
    pool = len(ports) > 1
    soak.ports = {'provider': free_port(), 'helper': Balancer(ports).port if pool else ports[0]}
    soak.grace = ['--grace', str(GRACE)]
    soak.chat = [*soak.grace, *shlex.split(soak.options.chat)]

    def helper(i):
        address = f'127.0.0.1:{ports[i]}'
        arguments = ['--identity', 'helper', '--store', 'store', '--listen', address, '--drain', 20]
        name = f'helper-{i + 1}' if pool else 'helper'
        return name, Service(soak, name, arguments + (['--pool', address] if pool else []))
    return {**dict(map(helper, range(len(ports)))),
            'provider': Service(soak, 'provider', ['--identity', 'provider', '--state', 'state', '--model', soak.model, '--context', CONTEXT,
                                                   '--listen', f'127.0.0.1:{soak.ports["provider"]}', '--helper', f'127.0.0.1:{soak.ports["helper"]}',
                                                   '--drain', 20, *soak.grace, *shlex.split(soak.options.provider)])}


def soak_for(soak, services):
    for service in services.values():  # the helper first
        service.start()
    first = User(soak, 0, {})
    references = first.references = references_of(soak, first)
    users = [first] + [User(soak, number, references) for number in range(1, soak.options.users)]
    soak.users = users
    rng = random.Random(soak.options.seed)
    threads = [threading.Thread(target=user.live) for user in users]
    threads.append(threading.Thread(target=trouble, args=(soak, services, rng, soak.options.seconds)))
    watcher = threading.Thread(target=watch, args=(soak, services))
    for thread in [*threads, watcher]:
        thread.start()
    restarts = 0
    end = time.monotonic() + soak.options.seconds
    while time.monotonic() < end and not soak.stop.wait(0.1):
        with soak.lock:
            killed = len(soak.outages)
        if killed > restarts:  # what sessions used at that moment is burnt ahead at the provider
            restarts = killed
            time.sleep(0.2)
            for user in users:
                user.mark_hurt()
    soak.stop.set()
    for thread in [*threads, watcher]:
        thread.join()

    told = []
    if not any(service.expected_end for service in services.values()):
        told = [check_idle(soak, service) for service in services.values()]
        for service in reversed(services.values()):
            service.end()
        check_ledgers(soak, users)
        for service in services.values():
            service.start()
        users[0].chat()
        for service in reversed(services.values()):
            service.end()
        check_files(soak)
    check_nothing_is_left(soak)
    summary(soak, services, told)


def summary(soak, services, told):
    print(f'\n{"what":<44}{"times":>8}')
    for what, times in sorted(soak.count.items()):
        print(f'{what:<44}{times:>8}')
    print('\nerrors of users\' programs')
    for text, times in soak.errors.most_common():
        print(f'{times:>6}  {text}')
    print('\nmemory, threads, files')
    for service in services.values():
        for line in check_memory(soak, service):
            print(f'  {service.name}, {line}')
    for line in told:
        print(f'  {line}')
    for text, example in soak.unexpected.items():
        soak.failures.append(f'unexpected, {soak.errors["UNEXPECTED " + text]} times: {text}; first {example}')
    print(f'\n{len(soak.failures)} failures, seed {soak.options.seed}')
    for failure in soak.failures:
        print(f'  {failure}')


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('permllm', type=os.path.abspath)
    parser.add_argument('model', type=os.path.abspath)
    parser.add_argument('--seconds', type=float, default=60)
    parser.add_argument('--users', type=int, default=6)
    parser.add_argument('--helpers', type=int, default=1, help='more than one: a pool, of which one is killed at a time')
    parser.add_argument('--kill-every', type=float, default=11, help='seconds between two kills')
    parser.add_argument('--provider', default='', help='further arguments of the provider')
    parser.add_argument('--chat', default='', help='further arguments of chat')
    parser.add_argument('--seed', type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument('--keep', help='keep the folder, and make it here')
    options = parser.parse_args()
    folder = Path(options.keep or tempfile.mkdtemp(prefix='permllm-soak-')).absolute()
    folder.mkdir(exist_ok=True)
    soak = Soak(options, folder)
    services = prepare(soak)
    try:
        soak_for(soak, services)
    finally:
        soak.stop.set()
        for service in services.values():
            if service.life and service.life.process.poll() is None:
                service.life.process.kill()
                service.life.process.wait()
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if soak.failures else 0)


if __name__ == '__main__':
    main()
