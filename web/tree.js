// A conversation's messages as a tree: a question that is edited and an answer that is made again stand beside those before, and one path through
// all of them is shown. Plain data and functions of it; nothing here knows of the page.
//
//   conversation: {id, title, named, changed, settings, messages: [message], leaf}
//     named: the title is a person's own;  leaf: id of the last message of the path, or null
//   message: {id, parent, next, role: 'user' | 'assistant', content}: parent is the id of the one before it, or null; next of the one that was shown
//     behind it last; of an answer {thought, usages, finish, stopped, fault, seconds}
//     usages: what it cost, one for each time that the model was asked for more of it

export const find = (conversation, id) => conversation.messages.find((message) => message.id === id) ?? null;

// From the first question to the leaf.
export function path(conversation) {
  const all = new Map(conversation.messages.map((message) => [message.id, message]));
  const way = [];
  for (let at = all.get(conversation.leaf); at; at = all.get(at.parent)) way.push(at);
  return way.reverse();
}

// Those that could stand in a message's place, itself included, in the order in which they were made.
export const versions = (conversation, message) => conversation.messages.filter((other) => other.parent === message.parent);

// The path to a message, and on from it as it was shown last.
export function show(conversation, message) {
  let at = message;
  const seen = new Set();
  for (let next = at; next && !seen.has(next.id);) {
    seen.add(next.id);
    at = next;
    next = find(conversation, at.next) ?? conversation.messages.findLast((other) => other.parent === next.id);
  }
  conversation.leaf = at.id;
  remember(conversation);
}

// The version beside a message, `by` places further on; nothing at either end.
export function step(conversation, message, by) {
  const all = versions(conversation, message);
  const other = all[all.indexOf(message) + by];
  if (other) show(conversation, other);
  return other ?? null;
}

export function add(conversation, parent, message) {
  const numbers = conversation.messages.map(({id}) => id);
  const added = {id: 1 + Math.max(0, ...numbers), parent: parent?.id ?? null, next: null, ...message};
  conversation.messages.push(added);
  conversation.leaf = added.id;
  remember(conversation);
  return added;
}

// With all that is behind it; what was beside it is shown in its place, or what was before it.
export function remove(conversation, message) {
  const gone = new Set([message.id]);
  for (const other of conversation.messages) if (gone.has(other.parent)) gone.add(other.id);  // parents come first
  const beside = versions(conversation, message).filter((other) => other !== message);
  conversation.messages = conversation.messages.filter(({id}) => !gone.has(id));
  if (!gone.has(conversation.leaf)) return;
  conversation.leaf = message.parent;
  if (beside.length) show(conversation, beside.at(-1)); else remember(conversation);
}

function remember(conversation) {
  const way = path(conversation);
  way.forEach((message, i) => { message.next = way[i + 1]?.id ?? null; });
}

// The words that a person would find it by: those of the first question that says something.
export function titleOf(conversation) {
  const words = path(conversation).filter(({role}) => role === 'user').map(({content}) => plain(content));
  const text = words.find((one) => one.split(' ').length > 2) ?? words.find(Boolean) ?? '';
  if (text.length <= 60) return text;
  const cut = text.slice(0, 60);
  return `${cut.slice(0, cut.lastIndexOf(' ') > 30 ? cut.lastIndexOf(' ') : 60).replace(/[\s,;:.(\u2013-]+$/, '')}\u2026`;
}

// On one line, without marks of Markdown, code that is quoted left out where there are words beside it.
function plain(text) {
  const bare = text.replace(/```[^]*?(```|$)/g, ' ');
  return (bare.trim() ? bare : text).replace(/[`*_#>|]+/g, ' ').replace(/\s+/g, ' ').trim();
}

// Where the words are, for each of which there is a place in the title or a message that is in sight of no particular path; null: they are not all there.
// Letters are compared without their case and accents.
export function search(conversation, words) {
  const wanted = fold(words).split(/\s+/).filter(Boolean);
  const texts = [conversation.title, ...conversation.messages.map(({content}) => content)].map((text) => text.replace(/<\/?think>|[`*#|]+/g, ' ').replace(/\s+/g, ' ').trim());
  const folded = texts.map(fold);
  if (!wanted.every((word) => folded.some((text) => text.includes(word)))) return null;
  const place = folded.findIndex((text, i) => i > 0 && wanted.some((word) => text.includes(word)));
  if (place < 0) return {message: null, snippet: ''};
  const at = Math.min(...wanted.map((word) => folded[place].indexOf(word)).filter((n) => n >= 0));
  const from = Math.max(0, at - 30);
  return {message: conversation.messages[place - 1], snippet: `${from > 0 ? '\u2026' : ''}${texts[place].slice(from, at + 90)}`};
}

// Keeps the length, so that a place in one is the same place in the other.
const fold = (text) => Array.from(text, (c) => {
  const bare = c.normalize('NFD')[0].toLowerCase();
  return bare.length === c.length ? bare : c;
}).join('');

// --- What comes from storage or a file ----------------------------------------------------------------------------------------------------------------

const isText = (value, most) => typeof value === 'string' && value.length <= most;
const k_most_messages = 2000;  // each looks for its versions among all
const isNumber = (value) => typeof value === 'number' && Number.isFinite(value);
const k_settings = {
  system: (v) => isText(v, 1e6), temperature: isNumber, top_p: isNumber, max_tokens: isNumber, seed: isNumber, draft: isNumber,
  stop: (v) => Array.isArray(v) && v.length <= 4 && v.every((one) => isText(one, 1000) && one !== ''), think: (v) => typeof v === 'boolean',
};

export function checkedSettings(settings) {
  return Object.fromEntries(Object.entries(settings ?? {}).filter(([name, value]) => Object.hasOwn(k_settings, name) && k_settings[name](value)));
}

// A conversation with the fields that are known here and no others; one of an earlier release has a list in place of a tree. Null: it is none.
export function checked(value) {
  if (!value || typeof value.id !== 'string' || !/^[0-9a-f]{16}$/.test(value.id) || !Array.isArray(value.messages)) return null;
  if (value.messages.length > k_most_messages || !value.messages.every((message) => message && typeof message === 'object')) return null;
  const list = value.messages.every((message) => message?.id === undefined);
  const conversation = {
    id: value.id, title: isText(value.title, 1000) ? value.title : '', named: value.named ?? list, changed: isNumber(value.changed) ? Math.min(value.changed, Date.now()) : 0,
    settings: checkedSettings(value.settings), messages: [], leaf: null,
  };
  const roles = new Map([[null, 'assistant']]);
  for (const [i, given] of value.messages.entries()) {
    const parent = list ? (i === 0 ? null : i) : given?.parent ?? null;
    const message = {...messageOf(given), id: list ? i + 1 : given?.id, parent, next: given?.next ?? null};
    // Question and answer by turns, each behind one that came before it.
    if (!isText(message.content, 1e7) || !Number.isSafeInteger(message.id) || roles.has(message.id) || !roles.has(parent)) return null;
    if (message.role !== (roles.get(parent) === 'user' ? 'assistant' : 'user')) return null;
    roles.set(message.id, message.role);
    conversation.messages.push(message);
  }
  conversation.leaf = roles.has(value.leaf) ? value.leaf : conversation.messages.at(-1)?.id ?? null;
  remember(conversation);
  return conversation;
}

function messageOf({role, content, thought, usage, usages, finish, stopped, fault, seconds} = {}) {
  const message = {role, content};
  if (role !== 'assistant') return message;
  if (isText(thought, 1e7)) message.thought = thought;
  message.usages = (Array.isArray(usages) ? usages : [usage]).filter((one) => one && typeof one === 'object');
  if (isText(finish, 100)) message.finish = finish;
  if (stopped === true) message.stopped = true;
  if (isNumber(seconds)) message.seconds = seconds;
  if (fault && typeof fault === 'object') {
    message.fault = {lasting: fault.lasting === true};
    for (const part of ['headline', 'plain', 'detail']) if (isText(fault[part], 1e5)) message.fault[part] = fault[part];
  }
  return message;
}

// --- Files --------------------------------------------------------------------------------------------------------------------------------------------

const k_format = 'permllm-conversations';

export const toJson = (conversations) => JSON.stringify({format: k_format, version: 1, conversations}, null, 1);

// Conversations out of a file of toJson. Throws an Error whose message is for a person.
export function fromJson(text) {
  let value;
  try { value = JSON.parse(text); } catch { throw new Error('This file is no JSON.'); }
  if (value?.format !== k_format || !Array.isArray(value.conversations)) throw new Error('This file holds no conversations of this page.');
  if (value.version !== 1) throw new Error(`This file has version ${String(value.version).slice(0, 20)} of the format; this page reads 1.`);
  const all = value.conversations.map(checked);
  const wrong = all.indexOf(null);
  if (wrong >= 0) throw new Error(`Conversation ${wrong + 1} in this file is damaged.`);
  return all;
}

// The path that is shown.
export function toMarkdown(conversation) {
  const {system} = conversation.settings;
  const parts = [`# ${conversation.title || 'Conversation'}`];
  if (system) parts.push(`## System\n\n${system}`);
  for (const {role, content, thought} of path(conversation)) {
    if (!content && !thought) continue;
    if (role === 'user') parts.push(`## Question\n\n${content}`);
    else parts.push(`## Answer\n\n${thought ? `<details><summary>Thinking</summary>\n\n${thought}\n\n</details>\n\n` : ''}${content}`);
  }
  return `${parts.join('\n\n')}\n`;
}
