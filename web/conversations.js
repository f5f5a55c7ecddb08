// Conversations, one entry of localStorage each, so that two tabs do not overwrite each other's.
import {checked, checkedSettings} from './tree.js';  // what a conversation is

const k_prefix = 'permllm.conversation.';
const k_defaults = 'permllm.settings';  // of conversations that begin

const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(8)), (b) => b.toString(16).padStart(2, '0')).join('');

export class Conversations extends EventTarget {
  #all = new Map();
  #storage = null;
  #defaults = {};

  constructor() {
    super();
    try {
      this.#storage = localStorage;
      this.#defaults = checkedSettings(JSON.parse(localStorage.getItem(k_defaults) ?? '{}'));
    } catch { /* switched off, or not ours */ }
    try {
      for (const key of Object.keys(localStorage).filter((k) => k.startsWith(k_prefix))) this.#read(key, localStorage.getItem(key));
    } catch { /* switched off: they last as long as the page */ }
    addEventListener('storage', ({key, newValue}) => {
      if (key === null) this.#all.clear();
      else if (key.startsWith(k_prefix)) this.#read(key, newValue);
      else return;
      this.#tell();
    });
  }

  all() { return [...this.#all.values()].sort((a, b) => b.changed - a.changed); }
  has(id) { return this.#all.has(id); }
  get(id) { return this.#all.get(id); }

  create() {
    return {id: newId(), title: '', named: false, changed: Date.now(), settings: structuredClone(this.#defaults), messages: [], leaf: null};
  }

  get defaults() { return this.#defaults; }
  set defaults(settings) {
    this.#defaults = checkedSettings(settings);
    try { this.#storage?.setItem(k_defaults, JSON.stringify(this.#defaults)); } catch { /* they last as long as the page */ }
  }

  // Of a file; one whose id is there already becomes another. Returns false if the browser has no room left.
  take(all) {
    return all.map((conversation) => this.save(this.has(conversation.id) ? {...conversation, id: newId()} : conversation, {touch: false})).every(Boolean);
  }

  // Returns false if the browser has no room left.
  save(conversation, {touch = true} = {}) {
    if (touch) conversation.changed = Date.now();
    this.#all.set(conversation.id, conversation);
    this.#tell();
    try {
      this.#storage?.setItem(k_prefix + conversation.id, JSON.stringify(conversation));
      return true;
    } catch { return false; }
  }

  remove(id) {
    this.#all.delete(id);
    this.#storage?.removeItem(k_prefix + id);
    this.#tell();
  }

  clear() { for (const id of [...this.#all.keys()]) this.remove(id); }

  // Tokens that an answer took from the stock lately: those of its prompt that were not kept from before, and its own.
  tokensAnAnswer() {
    const used = this.all().flatMap((c) => c.messages).flatMap(({usages = []}) => usages).filter(({total_tokens: all}) => Number.isFinite(all)).slice(-10)
      .map((usage) => usage.total_tokens - (usage.prompt_tokens_details?.cached_tokens ?? 0));
    return used.length ? used.reduce((a, b) => a + b) / used.length : null;
  }

  #read(key, text) {
    try {
      const value = checked(JSON.parse(text));
      if (value) this.#all.set(value.id, value);
      else this.#all.delete(key.slice(k_prefix.length));
    } catch { /* not ours: left alone */ }
  }

  #tell() { this.dispatchEvent(new Event('change')); }
}
