// Settings of a conversation, and those with which others begin. A field that is empty leaves the choice to the gateway.
import {find} from './dom.js';

const number = (text) => (text === '' ? undefined : Number(text));
const k_fields = {
  system: {id: 'set-system', read: (text) => text.trim() || undefined},
  temperature: {id: 'set-temperature', read: number},
  top_p: {id: 'set-top-p', read: number},
  max_tokens: {id: 'set-max', read: number},
  seed: {id: 'set-seed', read: number},
  draft: {id: 'set-draft', read: number},
  think: {id: 'set-think', read: (text) => ({yes: true, no: false})[text], write: (value) => ({true: 'yes', false: 'no'})[value] ?? ''},
  stop: {
    id: 'set-stop', write: (texts) => (texts ?? []).join('\n'),
    read: (text) => { const all = text.split('\n').filter(Boolean).slice(0, 4); return all.length ? all : undefined; },
  },
};

function show(settings) {
  for (const [name, {id, write = (value) => value ?? ''}] of Object.entries(k_fields)) find(id).value = write(settings[name]);
}

export function setUpSettings({chat, conversations}) {
  const dialog = find('settings-dialog');
  find('settings').addEventListener('click', () => {
    show(chat.conversation.settings);
    find('set-defaults').checked = false;
    dialog.returnValue = '';
    dialog.showModal();
  });
  find('set-empty').addEventListener('click', () => show({}));
  dialog.addEventListener('close', () => {
    if (dialog.returnValue !== 'ok') return;
    const {conversation} = chat;
    const read = Object.entries(k_fields).map(([name, {id, read: of}]) => [name, of(find(id).value)]);
    conversation.settings = Object.fromEntries(read.filter(([, value]) => value !== undefined));
    if (find('set-defaults').checked) conversations.defaults = conversation.settings;
    if (conversation.messages.length) conversations.save(conversation, {touch: false});
  });
}
