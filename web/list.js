// The list of conversations: opening, naming and deleting them, the search over them, and files of them.
import {announce, ask, el, find, iconButton, write} from './dom.js';
import * as tree from './tree.js';

const k_most_file = 64e6;  // bytes

export class List {
  #chat;
  #conversations;
  #open;  // shows a conversation

  constructor({chat, conversations, open}) {
    this.#chat = chat;
    this.#conversations = conversations;
    this.#open = open;
    find('new').addEventListener('click', () => open(conversations.create()));
    find('clear').addEventListener('click', () => this.#clear());
    find('search').addEventListener('input', () => this.show());
    find('search').addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && find('search').value) { event.stopPropagation(); find('search').value = ''; this.show(); }
      if (event.key === 'Enter' || event.key === 'ArrowDown') { event.preventDefault(); find('conversations').querySelector('.open')?.focus(); }
    });
    find('conversations').addEventListener('keydown', (event) => {
      const by = {ArrowDown: 1, ArrowUp: -1}[event.key];
      const all = [...find('conversations').querySelectorAll('.open')];
      const at = all.indexOf(document.activeElement);
      if (!by || at < 0) return;
      event.preventDefault();
      (all[at + by] ?? (by < 0 ? find('search') : all[at])).focus();
    });
    this.#files();
  }

  show() {
    const current = this.#chat.conversation;
    write(find('title'), current.title || 'New conversation');
    document.title = current.title ? `${current.title} - PermLLM` : 'PermLLM';
    const focused = document.activeElement?.closest?.('[data-id]')?.dataset.id;
    if (find('conversations').querySelector('input')) return;  // someone types a name
    const words = find('search').value.trim();
    const all = this.#conversations.all();
    const found = all.map((conversation) => ({conversation, ...(words ? tree.search(conversation, words) : {snippet: ''})}))
      .filter(({snippet}) => snippet !== undefined);
    find('conversations').replaceChildren(...found.map(({conversation, message, snippet}) => {
      const name = conversation.title || 'New conversation';
      const item = el('li', {'data-id': conversation.id},
        el('button.open', {type: 'button', title: name, onclick: () => { this.#open(conversation); this.#chat.reveal(message); }}, el('span.name', {}, name),
          ...(snippet ? [el('span.snippet', {}, snippet)] : [])),
        iconButton('edit', 'Rename', () => this.#rename(item, conversation)),
        iconButton('delete', 'Delete', () => this.#remove(conversation)));
      if (conversation.id === current.id) item.querySelector('.open').setAttribute('aria-current', 'true');
      item.classList.toggle('running', this.#chat.isRunning(conversation.id));
      return item;
    }));
    if (focused) find('conversations').querySelector(`[data-id="${focused}"] .open`)?.focus();
    find('search').hidden = all.length === 0;
    find('nothing').hidden = !words || found.length > 0;
    find('clear').disabled = all.length === 0;
  }

  #rename(item, conversation) {
    const field = el('input', {value: conversation.title, 'aria-label': 'Name of the conversation', maxLength: 80});
    let left = false;
    const leave = (keep) => {
      if (left) return;
      left = true;
      // An empty name gives it back to the conversation's words.
      if (keep && field.value.trim() !== conversation.title) {
        conversation.named = Boolean(field.value.trim());
        conversation.title = field.value.trim() || tree.titleOf(conversation);
      }
      item.replaceChildren();
      this.#conversations.save(conversation, {touch: false});
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

  async #remove(conversation) {
    if (!await ask({title: 'Delete this conversation?', words: conversation.title, ok: 'Delete'})) return;
    this.#chat.stop(conversation.id);
    this.#conversations.remove(conversation.id);
    if (conversation.id === this.#chat.conversation.id) this.#open(this.#conversations.all()[0] ?? this.#conversations.create());
  }

  async #clear() {
    if (!await ask({title: 'Clear all conversations?', words: 'They are kept in this browser alone, so they cannot be had back.', ok: 'Clear all'})) return;
    for (const {id} of this.#conversations.all()) this.#chat.stop(id);
    this.#conversations.clear();
    this.#open(this.#conversations.create());
  }

  #files() {
    const dialog = find('files-dialog');
    find('files').addEventListener('click', () => {
      write(find('files-told'), '');
      const nothing = this.#chat.conversation.messages.length === 0;
      for (const id of ['save-markdown', 'save-json']) find(id).disabled = nothing;
      find('save-all').disabled = this.#conversations.all().length === 0;
      dialog.showModal();
    });
    const one = () => this.#chat.conversation;
    find('save-markdown').addEventListener('click', () => download(`${fileName(one())}.md`, 'text/markdown', tree.toMarkdown(one())));
    find('save-json').addEventListener('click', () => download(`${fileName(one())}.json`, 'application/json', tree.toJson([one()])));
    find('save-all').addEventListener('click', () => download('permllm-conversations.json', 'application/json', tree.toJson(this.#conversations.all())));
    find('load').addEventListener('click', () => find('load-file').click());
    find('load-file').addEventListener('change', async ({target}) => {
      const [file] = target.files;
      if (file) this.#told(await this.#load(file).catch((error) => error.message));
      target.value = '';
    });
  }

  #told(words) { write(find('files-told'), words); announce(words); }

  async #load(file) {
    if (file.size > k_most_file) throw new Error('This file is larger than 64 MB.');
    const all = tree.fromJson(await file.text());
    const saved = this.#conversations.take(all);
    if (all.length) this.#open(this.#conversations.all().find(({title}) => title === all[0].title) ?? this.#chat.conversation, {focus: false});
    return `${all.length} conversation${all.length === 1 ? '' : 's'} loaded.${saved ? '' : ' The browser has no room left for all of them: some will be gone after a reload.'}`;
  }
}

const fileName = ({title}) => (title.normalize('NFKD').replace(/[^\w -]+/g, '').trim().replace(/\s+/g, '-').toLowerCase().slice(0, 60) || 'conversation');

function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], {type: `${type};charset=utf-8`}));
  el('a', {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
