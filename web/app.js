// The page: the list of conversations, settings, drawers, and the parts joined together.
import {Chat} from './chat.js';
import {Conversations} from './conversations.js';
import {announce, ask, el, find, iconButton, write} from './dom.js';
import {Gateway} from './gateway.js';
import {Panel} from './panel.js';

const k_current = 'permllm.current';  // in sessionStorage: each tab has its own

const gateway = new Gateway();
const conversations = new Conversations();
const chat = new Chat({gateway, conversations});

function open(conversation, {focus = true} = {}) {
  chat.open(conversation);
  sessionStorage.setItem(k_current, conversation.id);
  showList();
  closeDrawer();
  if (focus) find('question').focus();
}

function showList() {
  const current = chat.conversation;
  write(find('title'), current.title || 'New conversation');
  document.title = current.title ? `${current.title} - PermLLM` : 'PermLLM';
  const focused = document.activeElement?.closest?.('[data-id]')?.dataset.id;
  if (find('conversations').querySelector('input')) return;  // someone types a name
  find('conversations').replaceChildren(...conversations.all().map((conversation) => {
    const item = el('li', {'data-id': conversation.id},
      el('button.open', {type: 'button', onclick: () => open(conversation)}, conversation.title || 'New conversation'),
      iconButton('edit', 'Rename', () => rename(item, conversation)),
      iconButton('delete', 'Delete', () => remove(conversation)));
    if (conversation.id === current.id) item.querySelector('.open').setAttribute('aria-current', 'true');
    item.classList.toggle('running', chat.isRunning(conversation.id));
    return item;
  }));
  if (focused) find('conversations').querySelector(`[data-id="${focused}"] .open`)?.focus();
  find('clear').disabled = conversations.all().length === 0;
}

function rename(item, conversation) {
  const field = el('input', {value: conversation.title, 'aria-label': 'Name of the conversation', maxLength: 80});
  let left = false;
  const leave = (keep) => {
    if (left) return;
    left = true;
    if (keep && field.value.trim()) conversation.title = field.value.trim();
    item.replaceChildren();
    conversations.save(conversation, {touch: false});
    find('conversations').querySelector(`[data-id="${conversation.id}"] .open`)?.focus();
  };
  field.addEventListener('blur', () => leave(true));
  field.addEventListener('keydown', (event) => {
    if (event.key === 'Enter') leave(true);
    if (event.key === 'Escape') { event.stopPropagation(); leave(false); }
  });
  item.replaceChildren(field);
  field.select();
}

async function remove(conversation) {
  if (!await ask({title: 'Delete this conversation?', words: conversation.title, ok: 'Delete'})) return;
  chat.stop(conversation.id);
  conversations.remove(conversation.id);
  if (conversation.id === chat.conversation.id) open(conversations.all()[0] ?? conversations.create());
}

find('new').addEventListener('click', () => open(conversations.create()));
find('clear').addEventListener('click', async () => {
  if (!await ask({title: 'Clear all conversations?', words: 'They are kept in this browser alone, so they cannot be had back.', ok: 'Clear all'})) return;
  for (const {id} of conversations.all()) chat.stop(id);
  conversations.clear();
  open(conversations.create());
});
find('theme').addEventListener('click', () => announce(`${globalThis.toggleTheme()} colours`));
for (const button of document.querySelectorAll('[data-cancel]')) button.addEventListener('click', () => button.closest('dialog').close('cancel'));
conversations.addEventListener('change', () => {
  const stored = conversations.get(chat.conversation.id);  // another tab may have gone on with it
  if (stored && stored !== chat.conversation && !chat.running) chat.open(stored);
  showList();
});

// Settings: a field that is empty leaves the choice to the gateway.
const fields = {system: find('set-system'), temperature: find('set-temperature'), max_tokens: find('set-max'), seed: find('set-seed')};
find('settings').addEventListener('click', () => {
  for (const [name, field] of Object.entries(fields)) field.value = chat.conversation.settings[name] ?? '';
  find('settings-dialog').returnValue = '';
  find('settings-dialog').showModal();
});
find('settings-dialog').addEventListener('close', ({target}) => {
  if (target.returnValue !== 'ok') return;
  const {conversation} = chat;
  const number = (field) => (field.value === '' ? undefined : Number(field.value));
  conversation.settings = {
    system: fields.system.value.trim() || undefined, temperature: number(fields.temperature),
    max_tokens: number(fields.max_tokens), seed: number(fields.seed),
  };
  if (conversation.messages.length) conversations.save(conversation, {touch: false});
});

// Drawers, on screens that have no room for list and panel beside the chat.
let opener = null;
function openDrawer(name, button) {
  opener = button;
  find(name).classList.add('open');
  find('scrim').hidden = false;
  for (const part of ['list', 'chat', 'panel']) find(part).inert = part !== name;
  find(name).querySelector('[data-close-drawer]').focus();
}
function closeDrawer() {
  if (find('scrim').hidden) return;
  for (const part of ['list', 'chat', 'panel']) {
    find(part).inert = false;
    find(part).classList.remove('open');
  }
  find('scrim').hidden = true;
  opener?.focus();
}
for (const button of document.querySelectorAll('[data-open-drawer]')) button.addEventListener('click', () => openDrawer(button.dataset.openDrawer, button));
for (const part of document.querySelectorAll('[data-close-drawer]')) part.addEventListener('click', closeDrawer);
for (const query of ['(min-width: 76rem)', '(min-width: 52rem)']) matchMedia(query).addEventListener('change', closeDrawer);

addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || document.querySelector('dialog[open]')) return;
  if (!find('scrim').hidden) closeDrawer(); else chat.stop();
});

open(conversations.get(sessionStorage.getItem(k_current)) ?? conversations.all()[0] ?? conversations.create());
new Panel({gateway, chat, conversations});
