// Keys: one table, by which they work and which the map of them shows.
import {el, find} from './dom.js';

const k_off = 'permllm.single-keys-off';  // in localStorage
const k_fixed = [['Enter', 'Send'], ['Shift Enter', 'Begin a line'], ['Escape', 'Stop an answer; leave the field']];
const k_mac = /Mac|iPhone|iPad/.test(navigator.platform);

// does: name -> function. Single keys work outside of fields, and can be switched off.
export function setUpKeys(does) {
  const k_single = [['?', 'Show this map', does.map], ['/', 'Write a question', does.question], ['n', 'New conversation', does.fresh], ['e', 'Edit the last question', does.edit],
    ['r', 'Answer again', does.again], ['c', 'Continue the answer', does.goOn], [',', 'The version before', does.before], ['.', 'The next version', does.next],
    ['[', 'Show or hide the list', does.list], [']', 'Show or hide what travels', does.panel], ['s', 'Settings', does.settings], ['d', 'Light or dark', does.theme]];
  const k_with = [['k', 'Search conversations', does.search]];

  let off = false;
  try { off = localStorage.getItem(k_off) !== null; } catch { /* they work */ }
  const row = (keys, words) => el('tr', {}, el('td', {}, ...keys.map((key) => el('kbd', {}, key))), el('td', {}, words));
  find('keys-table').append(...k_fixed.map(([keys, words]) => row(keys.split(' '), words)),
    ...k_with.map(([key, words]) => row([k_mac ? '\u2318' : 'Ctrl', key.toUpperCase()], words)), ...k_single.map(([key, words]) => row([key], words)));
  find('keys-single').checked = !off;
  find('keys-single').addEventListener('change', ({target}) => {
    off = !target.checked;
    try { if (off) localStorage.setItem(k_off, '1'); else localStorage.removeItem(k_off); } catch { /* as long as the page */ }
  });

  addEventListener('keydown', (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector('dialog[open]')) return;
    const command = event.ctrlKey || event.metaKey;
    const called = command && !event.altKey && !event.shiftKey ? k_with.find(([key]) => key === event.key.toLowerCase())
      : !command && !event.altKey && !off && !event.target.closest?.('input, textarea, select, [contenteditable]') ? k_single.find(([key]) => key === event.key) : null;
    if (!called) return;
    event.preventDefault();
    called[2]();
  });
}
