// The conversation that is open: its questions and answers, and the field for the next question.
import {Answer} from './answer.js';
import {announce, copyButton, count, el, find, iconButton, megabytes, plural, seconds, speed, write} from './dom.js';
import {GatewayError} from './gateway.js';

const k_examples = ['Explain in two sentences why the sky is blue.', 'What is the capital of France?', 'Explain to a child what a secret is.'];
const k_draft = 'permllm.draft';  // in sessionStorage
const k_retries = 3;  // by itself, after a wait that the gateway asked for

export class Chat {
  #gateway;
  #conversations;
  #conversation;
  #runs = new Map();     // conversation id -> {controller, conversation, message, started}: answers under way
  #retries = new Map();  // conversation id -> how often in a row
  #last = null;          // the view of the last answer: {item, answer, meter, message}
  #atEnd = true;
  #drawing = false;
  #phase = {words: '', always: false};  // the gateway's state in words, shown until the first token, or always
  model = undefined;

  constructor({gateway, conversations}) {
    this.#gateway = gateway;
    this.#conversations = conversations;
    this.#conversation = conversations.create();

    const question = find('question');
    find('form').addEventListener('submit', (event) => { event.preventDefault(); this.#send(); });
    question.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
    question.value = sessionStorage.getItem(k_draft) ?? '';  // typed and not sent before the page was loaded anew
    this.#fit(question);
    question.addEventListener('input', () => {
      this.#fit(question);
      sessionStorage.setItem(k_draft, question.value);
    });
    find('stop').addEventListener('click', () => { this.stop(); question.focus(); });
    find('down').addEventListener('click', () => { this.#toEnd(); question.focus(); });
    find('scroller').addEventListener('scroll', ({target}) => {
      this.#atEnd = target.scrollHeight - target.scrollTop - target.clientHeight < 40;
      find('down').hidden = this.#atEnd;
    }, {passive: true});
    new ResizeObserver(() => { if (this.#atEnd) this.#toEnd(); }).observe(find('scroller'));
    find('examples').append(...k_examples.map((text) =>
      el('li', {}, el('button', {type: 'button', onclick: () => { question.value = text; this.#send(); }}, text))));
    setInterval(() => this.#tick(), 500);
    addEventListener('pagehide', () => {
      for (const {controller, conversation} of this.#runs.values()) { controller.abort(); this.#keep(conversation); }
    });
  }

  get conversation() { return this.#conversation; }
  get running() { return this.#runs.has(this.#conversation.id); }
  isRunning(id) { return this.#runs.has(id); }
  set phase(phase) { this.#phase = phase; this.#tick(); }
  get lastWords() { return [...find('messages').querySelectorAll('.words, .prose')].findLast((e) => e.textContent)?.textContent ?? ''; }
  get lastUsage() { return this.#conversation.messages.findLast((m) => m.usage)?.usage; }

  open(conversation) {
    this.#conversation = conversation;
    this.#atEnd = true;
    this.#render();
  }

  stop(id = this.#conversation.id) {
    this.#runs.get(id)?.controller.abort();
  }

  #send() {
    const field = find('question');
    const text = field.value.trim();
    if (!text || this.running) return;
    field.value = '';
    sessionStorage.removeItem(k_draft);
    this.#fit(field);
    this.#askAgain(this.#conversation.messages.length, text);
  }

  // The question at `index` becomes `text`; what came after it is dropped.
  #askAgain(index, text) {
    const conversation = this.#conversation;
    conversation.messages.splice(index, Infinity, {role: 'user', content: text});
    conversation.title ||= text.replace(/\s+/g, ' ').slice(0, 60);
    this.#retries.delete(conversation.id);
    this.#run(conversation);
  }

  #regenerate() {
    const {messages} = this.#conversation;
    if (this.running || messages.at(-1)?.role !== 'assistant') return;
    this.#run(this.#conversation, messages.pop());
    find('question').focus();
  }

  // before: the answer that this one replaces, whose words stay where there are none.
  async #run(conversation, before = null) {
    const {settings, messages} = conversation;
    // A question that got no answer is not told again with the next.
    const body = {
      model: this.model,
      messages: [...(settings.system ? [{role: 'system', content: settings.system}] : []),
        ...messages.filter((m, i) => m.content && (messages[i + 1]?.content ?? true)).map(({role, content}) => ({role, content}))],
      temperature: settings.temperature, max_tokens: settings.max_tokens, seed: settings.seed,
    };
    const message = {role: 'assistant', content: '', stopped: true};  // until the end came; a reload finds it so
    const run = {controller: new AbortController(), conversation, message, started: performance.now(), saved: 0};
    messages.push(message);
    this.#runs.set(conversation.id, run);
    this.#conversations.save(conversation);
    this.#atEnd = true;
    if (conversation === this.#conversation) this.#render();
    try {
      this.model ??= body.model = await this.#gateway.model(run.controller.signal);
      for await (const part of this.#gateway.chat(body, run.controller.signal)) {
        if (part.text) message.content += part.text;
        if (part.finish) message.finish = part.finish;
        if (part.usage) message.usage = part.usage;
        if (performance.now() - run.saved > 1000) {
          run.saved = performance.now();
          this.#keep(conversation);
        }
        this.#draw();
      }
      message.stopped = false;
      this.#retries.delete(conversation.id);
    } catch (error) {
      if (!run.controller.signal.aborted) {
        const known = error instanceof GatewayError ? error : new GatewayError(error.message);
        message.stopped = false;
        message.fault = {plain: known.plain, detail: known.message === known.plain ? '' : known.message, lasting: known.lasting};
        run.retryAfter = known.retryAfter;
      }
      message.content ||= before?.content ?? '';
    }
    this.#runs.delete(conversation.id);
    const removed = !this.#conversations.has(conversation.id);
    const saved = removed || this.#conversations.save(conversation);
    if (conversation !== this.#conversation) return;
    this.#finish(message, run.retryAfter);
    if (!saved) announce('The browser has no room left for this conversation: it will be gone after a reload. Delete an older one.', true);
  }

  // What is known so far, unless someone deleted the conversation meanwhile.
  #keep(conversation) {
    if (this.#conversations.has(conversation.id)) this.#conversations.save(conversation, {touch: false});
  }

  #finish(message, retryAfter) {
    const end = this.#atEnd;
    this.#last.answer.show(message.content);
    this.#foot(this.#last.item, message, true, retryAfter);
    this.#buttons();
    if (end) this.#toEnd();
    announce(message.fault ? message.fault.plain : message.stopped ? 'Stopped.' : `Answer: ${message.content}`);
  }

  #render() {
    const {messages} = this.#conversation;
    this.#last = null;
    find('welcome').hidden = messages.length > 0;
    find('messages').replaceChildren(...messages.map((message, i) =>
      message.role === 'user' ? this.#questionItem(message, i) : this.#answerItem(message, i === messages.length - 1)));
    this.#buttons();
    this.#toEnd();
  }

  #buttons() {
    find('send').hidden = this.running;
    find('stop').hidden = !this.running;
    for (const button of find('messages').querySelectorAll('[data-edit]')) button.disabled = this.running;
  }

  #questionItem(message, index) {
    const words = el('div.words', {}, message.content);
    const item = el('li.question', {}, el('h2.hidden', {}, 'You asked'), words);
    const edit = iconButton('edit', 'Edit this question', () => this.#edit(item, message, index));
    edit.dataset.edit = '';
    item.append(el('div.actions', {}, edit, copyButton('Copy this question', () => message.content)));
    return item;
  }

  #edit(item, message, index) {
    if (this.running) return;
    const field = el('textarea', {value: message.content, 'aria-label': 'The question, edited'});
    const cancel = () => { const whole = this.#questionItem(message, index); item.replaceWith(whole); whole.querySelector('button').focus(); };
    const submit = () => {
      if (!field.value.trim() || this.running) return;
      this.#askAgain(index, field.value.trim());
      find('question').focus();
    };
    const form = el('form.edit', {onsubmit: (event) => { event.preventDefault(); submit(); }}, field,
      el('div.buttons', {}, el('button.quiet', {type: 'button', onclick: cancel}, 'Cancel'), el('button.strong', {type: 'submit'}, 'Ask again')));
    field.addEventListener('input', () => this.#fit(field));
    field.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') { event.stopPropagation(); cancel(); }
      if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
    });
    item.replaceChildren(el('h2.hidden', {}, 'You asked'), form);
    this.#fit(field);
    field.focus();
  }

  #answerItem(message, last) {
    const prose = el('div.prose', {});
    const item = el('li.answer', {}, el('h2.hidden', {}, 'Answer'), prose);
    const answer = new Answer(prose);
    answer.show(message.content);
    const meter = this.#foot(item, message, last);
    if (last) this.#last = {item, answer, meter, message};
    return item;
  }

  // What stands below the words; it changes when an answer ends, and the words stay as they are.
  #foot(item, message, last, retryAfter = null) {
    const running = this.#runs.get(this.#conversation.id)?.message === message;
    const meter = el('p.meter', {}, running ? '' : this.#meter(message));
    const actions = el('div.actions', {});
    if (!running && message.content) actions.append(copyButton('Copy this answer', () => message.content));
    if (!running && last && !message.fault) actions.append(iconButton('again', this.#conversation.settings.temperature > 0 ? 'Answer again' : 'Answer again (at temperature 0 the same)', () => this.#regenerate()));
    for (const old of item.querySelectorAll('.fault, .foot')) old.remove();
    if (message.fault) item.append(this.#faultNote(message.fault, last, retryAfter));
    item.append(el('div.foot', {}, actions, meter));
    item.setAttribute('aria-busy', String(running));
    return meter;
  }

  #faultNote(fault, last, retryAfter) {
    const note = el('div.fault', {}, el('p', {}, fault.plain));
    if (fault.detail) note.append(el('p.detail', {}, fault.detail));
    if (!last || fault.lasting) return note;
    const button = el('button', {type: 'button', onclick: () => this.#regenerate()}, 'Retry');
    note.append(button);
    const id = this.#conversation.id;
    const tries = this.#retries.get(id) ?? 0;
    if (retryAfter !== null && retryAfter !== undefined) {
      // Only as long as the note is in sight: who looks at another conversation is not surprised by an answer here.
      const due = performance.now() + 1000 * retryAfter;
      const timer = setInterval(() => {
        const left = Math.ceil((due - performance.now()) / 1000);
        if (!note.isConnected || left <= 0) clearInterval(timer);
        if (!note.isConnected) return;
        write(button, left > 0 ? `Retry now (${tries < k_retries ? 'by itself ' : ''}in ${left} s)` : 'Retry');
        if (left <= 0 && tries < k_retries) { this.#retries.set(id, tries + 1); this.#regenerate(); }
      }, 250);
      write(button, `Retry now (${tries < k_retries ? 'by itself ' : ''}in ${retryAfter} s)`);
    }
    return note;
  }

  #meter({usage, finish, stopped}) {
    const parts = [];
    if (usage) {
      const {online_bytes: online, offline_bytes: offline, round_trips: trips, seconds: time} = usage.permllm ?? {};
      parts.push(plural(usage.completion_tokens, 'token'));
      if (time) parts.push(seconds(time.total));
      if (time?.per_token > 0) parts.push(`${speed(1 / time.per_token)} tokens/s`);
      if (online) parts.push(`${megabytes(online.sent + online.received)} MB online`);
      if (offline) parts.push(`${megabytes(Object.values(offline).reduce((a, b) => a + b, 0))} MB offline`);
      if (trips !== undefined) parts.push(plural(trips, 'round trip'));
    }
    const {out_of_range: outside, trusted_tokens: trusted} = usage?.permllm ?? {};
    if (outside > 0) parts.push(trusted > 0 ? `not to be trusted behind its first ${plural(trusted, 'token')}: inner numbers left the model's range`
      : "not to be trusted: inner numbers left the model's range");
    if (stopped) parts.push('stopped');
    if (finish === 'length') parts.push('ended at the limit of tokens');
    return parts.join('  \u00b7  ');
  }

  // Twice a second: what the answer under way waits for, and since when.
  #tick() {
    const run = this.#runs.get(this.#conversation.id);
    if (!run || this.#last?.message !== run.message) return;
    const since = (performance.now() - run.started) / 1000;
    const {words, always} = this.#phase;
    write(this.#last.meter, `${run.message.content && !always ? 'Answering' : words || 'Waiting'}  \u00b7  ${Math.floor(since)} s`);
  }

  // Many tokens may come between two frames; they are shown together.
  #draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      const run = this.#runs.get(this.#conversation.id);
      if (!run || this.#last?.message !== run.message) return;
      this.#last.answer.show(run.message.content);
      this.#tick();
      if (this.#atEnd) this.#toEnd();
    });
  }

  #toEnd() {
    const scroller = find('scroller');
    scroller.scrollTop = scroller.scrollHeight;
    this.#atEnd = true;
    find('down').hidden = true;
  }

  #fit(field) {
    field.style.height = 'auto';
    field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
  }
}
