// Conversations as trees: node --test tree_test.mjs, in its place or with web/tree.js beside it as tree.mjs.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';

const beside = new URL('./tree.mjs', import.meta.url);
const tree = await import(existsSync(beside) ? beside.href : new URL('../../web/tree.js', import.meta.url).href);

const fresh = () => ({ id: '0123456789abcdef', title: '', named: false, changed: 1, settings: {}, messages: [], leaf: null });
const say = (conversation, ...texts) => texts.map((content) => {
  const last = tree.path(conversation).at(-1) ?? null;
  return tree.add(conversation, last, { role: last?.role === 'user' ? 'assistant' : 'user', content });
});
const words = (conversation) => tree.path(conversation).map((m) => m.content);

test('an edited question and another answer stand beside those before, each with what came behind it', () => {
  const c = fresh();
  const [first, answer] = say(c, 'q1', 'a1', 'q2', 'a2');
  tree.add(c, first, { role: 'assistant', content: 'a1 again' });
  assert.deepEqual(words(c), ['q1', 'a1 again']);
  tree.add(c, null, { role: 'user', content: 'q1 edited' });
  assert.deepEqual(words(c), ['q1 edited']);
  assert.equal(tree.step(c, tree.path(c)[0], 1), null);
  tree.step(c, tree.path(c)[0], -1);
  assert.deepEqual(words(c), ['q1', 'a1 again']);
  tree.step(c, tree.path(c)[1], -1);
  assert.deepEqual(words(c), ['q1', 'a1', 'q2', 'a2']);
  assert.deepEqual(tree.versions(c, answer).map((m) => m.content), ['a1', 'a1 again']);
  // Where one was before, one comes back to.
  tree.step(c, tree.path(c)[0], 1);
  tree.step(c, tree.path(c)[0], -1);
  assert.deepEqual(words(c), ['q1', 'a1', 'q2', 'a2']);
});

test('what is removed takes with it what is behind it, and the version beside it is shown', () => {
  const c = fresh();
  const [first] = say(c, 'q1', 'a1', 'q2', 'a2');
  const again = tree.add(c, first, { role: 'assistant', content: '' });
  tree.remove(c, again);
  assert.deepEqual(words(c), ['q1', 'a1', 'q2', 'a2']);
  tree.remove(c, tree.path(c)[2]);
  assert.deepEqual(words(c), ['q1', 'a1']);
  assert.equal(c.messages.length, 2);
});

test('a title is the words of the first question that says something, cut between words', () => {
  const c = fresh();
  say(c, 'Hi!', 'Hello.', '## Please *explain* why:\n```js\nlet a;\n```\n the sky above the northern sea is of such a deep blue');
  assert.equal(tree.titleOf(c), 'Please explain why: the sky above the northern sea is of\u2026');
  const short = fresh();
  say(short, 'Hi!');
  assert.equal(tree.titleOf(short), 'Hi!');
});

test('a search finds words without their case and accents, in every version', () => {
  const c = fresh();
  const [first] = say(c, 'Tell me of rivers', 'The Neckar flows through T\u00dcBINGEN.');
  tree.add(c, first, { role: 'assistant', content: 'The Rhine' });
  assert.equal(tree.search(c, 'tubingen rivers').message.content, 'Tell me of rivers');
  assert.match(tree.search(c, 'neckar').snippet, /^The Neckar flows/);
  assert.equal(tree.search(c, 'rhine danube'), null);
});

test('a list of an earlier release becomes a tree', () => {
  const c = tree.checked({ id: '0123456789abcdef', title: 'Old', changed: 5, settings: { temperature: 1, odd: 2 },
    messages: [{ role: 'user', content: 'q' }, { role: 'assistant', content: 'a', usage: { completion_tokens: 3 }, stopped: true }] });
  assert.deepEqual(words(c), ['q', 'a']);
  assert.deepEqual(c.settings, { temperature: 1 });
  assert.deepEqual(c.messages[1].usages, [{ completion_tokens: 3 }]);
  assert.equal(c.named, true);
});

test('what is no conversation is refused', () => {
  const good = fresh();
  say(good, 'q', 'a');
  const copy = (change) => { const c = structuredClone(good); change(c); return c; };
  assert.deepEqual(tree.checked(good), tree.checked(tree.checked(good)));
  for (const change of [(c) => { c.id = '<img>'; }, (c) => { c.messages[0].parent = 2; }, (c) => { c.messages[1].id = 1; }, (c) => { c.messages[1].role = 'user'; },
    (c) => { c.messages[1].role = 'system'; }, (c) => { c.messages[0].content = { a: 1 }; }, (c) => { c.messages = 'x'; },
    (c) => { c.id = [c.id]; }, (c) => { c.messages[0] = null; }, (c) => { c.messages = Array(2001).fill({ role: 'user', content: 'a' }); }]) assert.equal(tree.checked(copy(change)), null, String(change));
  assert.equal(tree.checked(copy((c) => { c.messages[1].fault = { plain: 'x', other: 1 }; })).messages[1].fault.other, undefined);
});

test('a file is read as it was written, and one that is none says why', () => {
  const c = fresh();
  say(c, 'q', 'a');
  assert.deepEqual(tree.fromJson(tree.toJson([c]))[0].messages.map((m) => m.content), ['q', 'a']);
  assert.throws(() => tree.fromJson('{'), /no JSON/);
  assert.throws(() => tree.fromJson('[]'), /no conversations/);
  assert.throws(() => tree.fromJson(JSON.stringify({ format: 'permllm-conversations', version: 2, conversations: [] })), /version 2/);
  assert.throws(() => tree.fromJson(JSON.stringify({ format: 'permllm-conversations', version: 1, conversations: [c, {}] })), /Conversation 2/);
  assert.equal(tree.toMarkdown(c), '# Conversation\n\n## Question\n\nq\n\n## Answer\n\na\n');
});
