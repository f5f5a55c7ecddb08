// Small helpers for elements and numbers. Nothing here, or anywhere in the page, writes HTML as text.

// el('button.icon', {type: 'button', onclick}, child, ...): properties that exist are set, others become attributes.
export function el(name, properties = {}, ...children) {
  const [tag, ...classes] = name.split('.');
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(' ');
  for (const [key, value] of Object.entries(properties)) {
    if (key in element) element[key] = value; else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

export const find = (id) => document.getElementById(id);

export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  svg.setAttribute('aria-hidden', 'true');
  use.setAttribute('href', `#i-${name}`);
  svg.append(use);
  return svg;
}

export const iconButton = (name, label, onclick) =>
  el('button.icon', {type: 'button', title: label, 'aria-label': label, onclick}, icon(name));

// For screen readers; for all where `see` says so.
export function announce(words, see = false) {
  find('announcer').textContent = words;
  if (see) write(find('hint'), words);
}

// text: called when it is pressed.
export function copyButton(label, text) {
  const button = iconButton('copy', label, async () => {
    await copyText(text());
    button.classList.add('done');
    announce('Copied.');
    setTimeout(() => button.classList.remove('done'), 1200);
  });
  return button;
}

// Over plain http from another machine the browser has no clipboard interface; the old way works there.
async function copyText(text) {
  if (navigator.clipboard) {
    try { return await navigator.clipboard.writeText(text); } catch { /* not permitted */ }
  }
  const field = el('textarea.hidden', {value: text});
  document.body.append(field);
  field.select();
  document.execCommand('copy');
  field.remove();
}

// Text is written only where it changes, so that a selection in it lives on.
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const whole = new Intl.NumberFormat('en', {maximumFractionDigits: 0});
export const count = (n) => whole.format(n);
export const plural = (n, one) => `${count(n)} ${one}${n === 1 ? '' : 's'}`;
const digits = (n) => (n >= 100 ? whole.format(n) : n >= 10 ? n.toFixed(1) : n >= 0.1 ? n.toFixed(2) : n >= 0.0005 ? n.toFixed(3) : '0');
export const megabytes = (bytes) => digits(bytes / 1e6);
export const seconds = (s) => (s >= 90 ? `${Math.floor(s / 60)} min ${Math.round(s % 60)} s` : `${s >= 10 ? s.toFixed(0) : s.toFixed(1)} s`);
export const speed = (n) => (n >= 100 ? whole.format(n) : n >= 1 ? n.toFixed(1) : n.toFixed(2));

// A question with two buttons, or with a field for a key. Resolves to true, to what was typed, or to null.
export function ask({title, words, ok, secret = false}) {
  const dialog = find('ask-dialog');
  const input = find('ask-input');
  write(find('ask-name'), title);
  write(find('ask-words'), words);
  write(find('ask-ok'), ok);
  find('ask-field').hidden = !secret;
  input.value = '';
  dialog.returnValue = '';
  dialog.showModal();
  (secret ? input : dialog.querySelector('[data-cancel]')).focus();  // Enter alone deletes nothing
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      const typed = input.value.trim();
      input.value = '';
      resolve(dialog.returnValue !== 'ok' ? null : secret ? typed || null : true);
    }, {once: true});
  });
}
