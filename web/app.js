// The page: its parts joined together.
import {Chat} from './chat.js';
import {Conversations} from './conversations.js';
import {announce, find} from './dom.js';
import {Gateway} from './gateway.js';
import {setUpKeys} from './keys.js';
import {Layout} from './layout.js';
import {List} from './list.js';
import {Panel} from './panel.js';
import {setUpSettings} from './settings.js';

const k_current = 'permllm.current';  // in sessionStorage: each tab has its own

const gateway = new Gateway();
const conversations = new Conversations();
const chat = new Chat({gateway, conversations});
const layout = new Layout();
const list = new List({chat, conversations, open});

function open(conversation, {focus = true} = {}) {
  chat.open(conversation);
  sessionStorage.setItem(k_current, conversation.id);
  list.show();
  layout.closeDrawer();
  if (focus) find('question').focus();
}

conversations.addEventListener('change', () => {
  const stored = conversations.get(chat.conversation.id);  // another tab may have gone on with it
  if (stored && stored !== chat.conversation && !chat.running) chat.open(stored);
  list.show();
});
find('theme').addEventListener('click', () => announce(`${globalThis.toggleTheme()} colours`));
for (const button of document.querySelectorAll('[data-cancel]')) button.addEventListener('click', () => button.closest('dialog').close('cancel'));
const map = () => find('keys-dialog').showModal();
find('keys').addEventListener('click', map);

setUpSettings({chat, conversations});
setUpKeys({
  map, question: () => find('question').focus(), fresh: () => find('new').click(), edit: () => chat.editLast(), again: () => chat.again(), goOn: () => chat.goOn(),
  before: () => chat.stepLast(-1), next: () => chat.stepLast(1), list: () => layout.toggle('list'), panel: () => layout.toggle('panel'),
  settings: () => find('settings').click(), theme: () => find('theme').click(), search: () => { layout.show('list'); find('search').focus(); },
});
addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || event.defaultPrevented || document.querySelector('dialog[open]')) return;
  if (layout.drawer) layout.closeDrawer();
  else if (chat.running) chat.stop();
  else find('question').blur();
});

open(conversations.get(sessionStorage.getItem(k_current)) ?? conversations.all()[0] ?? conversations.create());
new Panel({gateway, chat, conversations});
