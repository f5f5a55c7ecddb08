// A question and an answer as they are shown, with the buttons at them. What the buttons do comes from outside (`does`, of chat.js).
import {Answer, parts} from './answer.js';
import {inShort, remarks, table} from './cost.js';
import {copyButton, el, iconButton, write} from './dom.js';

// Which of several versions this is, with a way to those beside it; nothing where there is one alone.
function stepper(message, does) {
  const {at, of} = does.versions(message);
  if (of < 2) return [];
  const button = (by, name, words, end) => {
    const one = iconButton(name, words, () => does.step(message, by));
    Object.assign(one.dataset, {step: by, end});
    one.disabled = end;
    return one;
  };
  return [el('div.versions', {role: 'group', 'aria-label': 'Versions'}, button(-1, 'back', 'The version before', at === 0), el('span', {}, `${at + 1} / ${of}`),
    button(1, 'on', 'The next version', at === of - 1))];
}

export function questionItem(message, does) {
  const words = el('div.words', {}, message.content);
  const item = el('li.question', {'data-message': message.id}, el('h2.hidden', {}, 'You asked'), words);
  const edit = iconButton('edit', 'Edit this question', () => editQuestion(item, message, does));
  edit.dataset.edit = '';
  item.append(el('div.actions', {}, ...stepper(message, does), edit, copyButton('Copy this question', () => message.content)));
  return item;
}

function editQuestion(item, message, does) {
  const field = el('textarea', {value: message.content, 'aria-label': 'The question, edited'});
  const cancel = () => { const whole = questionItem(message, does); item.replaceWith(whole); whole.querySelector('[data-edit]').focus(); };
  const submit = () => { if (field.value.trim()) does.edit(message, field.value.trim()); };
  const form = el('form.edit', {onsubmit: (event) => { event.preventDefault(); submit(); }}, field,
    el('div.buttons', {}, el('p.caption', {}, 'What is there stays, as another version.'),
      el('button.quiet', {type: 'button', onclick: cancel}, 'Cancel'), el('button.strong', {type: 'submit'}, 'Ask again')));
  field.addEventListener('input', () => does.fit(field));
  field.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') { event.stopPropagation(); cancel(); }
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
  });
  item.replaceChildren(el('h2.hidden', {}, 'You asked'), form);
  does.fit(field);
  field.focus();
}

export class AnswerView {
  #answer;
  #meter;
  #does;

  constructor(message, how, does) {
    this.message = message;
    this.#does = does;
    const words = el('div', {});
    this.item = el('li.answer', {'data-message': message.id}, el('h2.hidden', {}, 'Answer'), words);
    this.#answer = new Answer(words);
    this.end(message, how);
  }

  show(message, running) { this.#answer.show(message, running); }
  wait(words) { write(this.#meter, words); }
  end(message, how) {
    this.show(message, how.running);
    this.foot(message, how);
  }

  // What stands below the words; it changes when an answer ends, and the words stay as they are.
  foot(message, {last, running, retryAfter = null, retries = null}) {
    const does = this.#does;
    const fault = this.item.querySelector('.fault');
    for (const old of this.item.querySelectorAll('.foot, .cost')) old.remove();
    if (fault && (!message.fault || retries)) fault.remove();
    const actions = el('div.actions', {}, ...stepper(message, does));
    if (!running && message.content) actions.append(copyButton('Copy this answer', () => parts(message).text || message.content));
    if (!running && last && (!message.fault || message.content))
      actions.append(iconButton('again', does.same() ? 'Answer again (at temperature 0 the same)' : 'Answer again', () => does.again()));
    if (!running && last && does.canGoOn(message)) actions.append(el('button.quiet.go-on', {type: 'button', onclick: () => does.goOn()}, 'Continue'));
    if (message.fault && retries) this.item.append(faultNote(message.fault, last, retryAfter, retries, does));
    this.#meter = el('p.meter', {});
    if (!running) this.#costs(message);
    this.item.append(el('div.foot', {}, actions, this.#meter));
    this.item.setAttribute('aria-busy', String(running));
  }

  // The cost is a click away, and what has to be known of the answer is not.
  #costs(message) {
    const short = message.content || message.usages.length ? inShort(message) : '';
    const said = remarks(message);
    if (short && message.usages.length) {
      const button = el('button.short', {type: 'button', 'aria-expanded': 'false', title: 'What this answer cost', onclick: () => {
        const open = button.getAttribute('aria-expanded') !== 'true';
        button.setAttribute('aria-expanded', String(open));
        if (open) this.item.append(table(message)); else this.item.querySelector('.cost')?.remove();
      }}, short);
      this.#meter.append(button);
    } else if (short) {
      this.#meter.append(short);
    }
    if (said) this.#meter.append(short ? '  \u00b7  ' : '', said);
  }
}

function faultNote(fault, last, retryAfter, retries, does) {
  const note = el('div.fault', {role: 'group', 'aria-label': 'Fault'}, el('p.headline', {}, fault.headline || fault.plain));
  if (fault.headline && fault.plain && fault.plain !== fault.headline) note.append(el('p', {}, fault.plain));
  if (fault.detail) note.append(el('details', {}, el('summary', {}, 'What the gateway said'), el('p.detail', {}, fault.detail)));
  if (!last || fault.lasting) return note;
  const button = el('button', {type: 'button', onclick: () => does.again()}, 'Retry');
  note.append(button);
  if (retryAfter === null) return note;
  // Only as long as the note is in sight: who looks at another conversation is not surprised by an answer here.
  const due = performance.now() + 1000 * retryAfter;
  const words = (left) => `Retry now (${retries.left > 0 ? 'by itself ' : ''}in ${left} s)`;
  const timer = setInterval(() => {
    const left = Math.ceil((due - performance.now()) / 1000);
    if (!note.isConnected || left <= 0) clearInterval(timer);
    if (!note.isConnected) return;
    write(button, left > 0 ? words(left) : 'Retry');
    if (left <= 0 && retries.left > 0) { retries.use(); does.again(); }
  }, 250);
  write(button, words(retryAfter));
  return note;
}
