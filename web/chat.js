// The conversation that is open: its questions and answers, and the field for the next question.
import {announce, el, find} from './dom.js';
import {between} from './cost.js';
import {parts} from './answer.js';
import {GatewayError} from './gateway.js';
import * as tree from './tree.js';
import {AnswerView, questionItem} from './view.js';

const k_examples = ['Explain in two sentences why the sky is blue.', 'What is the capital of France?', 'Explain to a child what a secret is.'];
const k_draft = 'permllm.draft';  // in sessionStorage
const k_retries = 3;  // by itself, after a wait that the gateway asked for
const k_report = 1500;  // ms to wait for the gateway's next report, so that an answer which was stopped has a cost

// As the model wrote it, where it is to go on.
const begun = ({content, thought}) => (thought ? `<think>\n${thought}\n</think>\n\n${content}` : content);

export class Chat {
  #gateway;
  #conversations;
  #conversation;
  #runs = new Map();     // conversation id -> {controller, conversation, message, started, before}: answers under way
  #retries = new Map();  // conversation id -> how often in a row
  #last = null;          // the view of the last answer
  #atEnd = true;
  #drawing = false;
  #phase = {words: '', always: false};  // the gateway's state in words, shown until the first token, or always
  #activity = null;      // the gateway's last report
  #reported = [];        // who waits for the next
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
  set activity(activity) {
    this.#activity = activity;
    if (activity) for (const told of this.#reported.splice(0)) told(activity);
  }
  get lastWords() {
    const last = tree.path(this.#conversation).findLast(({content}) => content);
    return last ? parts(last).text || last.content : '';
  }
  get lastUsage() { return tree.path(this.#conversation).findLast(({usages}) => usages?.length)?.usages.at(-1); }

  open(conversation) {
    this.#conversation = conversation;
    this.#atEnd = true;
    this.#render();
  }

  // Brings a message into sight that may stand on another path.
  reveal(message) {
    if (this.running || !message) return;
    tree.show(this.#conversation, message);
    this.#render();
    this.#atEnd = false;
    find('messages').querySelector(`[data-message="${message.id}"]`)?.scrollIntoView({block: 'center'});
  }

  stop(id = this.#conversation.id) {
    this.#runs.get(id)?.controller.abort();
  }

  // The last answer again, as another version of it.
  again() {
    const [question, answer] = tree.path(this.#conversation).slice(-2);
    if (this.running || answer?.role !== 'assistant') return;
    if (!answer.content) tree.remove(this.#conversation, answer);
    this.#run(question);
    find('question').focus();
  }

  // The last answer goes on where it ended before its time.
  goOn() {
    const answer = tree.path(this.#conversation).at(-1);
    if (!this.running && this.#canGoOn(answer)) this.#run(answer);
    find('question').focus();
  }

  editLast() {
    const question = tree.path(this.#conversation).findLast(({role}) => role === 'user');
    if (question) find('messages').querySelector(`[data-message="${question.id}"] [data-edit]`)?.click();
  }

  stepLast(by) {
    const message = tree.path(this.#conversation).findLast((one) => tree.versions(this.#conversation, one).length > 1);
    if (message) this.#step(message, by);
  }

  #canGoOn(answer) {
    return answer?.role === 'assistant' && answer.content !== '' && Boolean(answer.stopped || answer.fault || answer.finish === 'length');
  }

  #send() {
    const field = find('question');
    const text = field.value.trim();
    if (!text || this.running) return;
    field.value = '';
    sessionStorage.removeItem(k_draft);
    this.#fit(field);
    this.#ask(tree.path(this.#conversation).at(-1) ?? null, text);
  }

  // A question behind `parent`, beside those that are there.
  #ask(parent, text) {
    const conversation = this.#conversation;
    const question = tree.add(conversation, parent, {role: 'user', content: text});
    this.#retries.delete(conversation.id);
    this.#run(question);
  }

  // An answer to `behind`, a question; or what is missing of it, an answer.
  async #run(behind) {
    const conversation = this.#conversation;
    const goesOn = behind.role === 'assistant';
    if (!conversation.named) conversation.title = tree.titleOf(conversation);
    const body = this.#body(conversation, behind);
    const message = goesOn ? behind : tree.add(conversation, behind, {role: 'assistant', content: '', usages: []});
    Object.assign(message, {stopped: true, fault: undefined, finish: undefined});  // until the end came; a reload finds it so
    const run = {controller: new AbortController(), conversation, message, started: performance.now(), saved: 0, before: this.#activity, shared: false, counts: message.usages.length};
    this.#runs.set(conversation.id, run);
    this.#conversations.save(conversation);
    this.#atEnd = true;
    if (conversation === this.#conversation) this.#render();
    try {
      this.model ??= body.model = await this.#gateway.model(run.controller.signal);
      for await (const part of this.#gateway.chat(body, run.controller.signal)) {
        if (part.thought) message.thought = (message.thought ?? '') + part.thought;
        if (part.text) message.content += part.text;
        if (part.finish) message.finish = part.finish;
        if (part.usage) message.usages.push(part.usage);
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
        message.fault = known.told();
        run.retryAfter = known.retryAfter;
      }
    }
    message.seconds = (performance.now() - run.started) / 1000 + (goesOn ? message.seconds ?? 0 : 0);
    this.#runs.delete(conversation.id);
    this.#end(run);
    this.#count(run);
  }

  // A question that got no answer is not told again with the next; nor is what a model thought.
  #body(conversation, behind) {
    const {system, temperature, top_p, max_tokens, seed, stop, draft, think} = conversation.settings;
    const way = tree.path(conversation);
    const before = way.slice(0, way.indexOf(behind) + 1);
    const goesOn = behind.role === 'assistant';
    const told = before.filter((m, i) => m.content && (before[i + 1]?.content ?? true))
      .map((m) => ({role: m.role, content: m.role === 'user' ? m.content : m === behind ? begun(m) : parts(m).text || m.content}));
    return {
      model: this.model, messages: [...(system ? [{role: 'system', content: system}] : []), ...told],
      temperature, top_p, max_tokens, seed, stop, draft, ...(think === undefined ? {} : {chat_template_kwargs: {enable_thinking: think}}),
      ...(goesOn ? {continue_final_message: true} : {}),
    };
  }

  // What is known so far, unless someone deleted the conversation meanwhile.
  #keep(conversation) {
    if (this.#conversations.has(conversation.id)) this.#conversations.save(conversation, {touch: false});
  }

  #end({conversation, message, retryAfter}) {
    // Another version that was stopped before its first word is none.
    if (message.stopped && !message.content && !message.thought && tree.versions(conversation, message).length > 1) tree.remove(conversation, message);
    const removed = !this.#conversations.has(conversation.id);
    const saved = removed || this.#conversations.save(conversation);
    if (conversation !== this.#conversation) return;
    const end = this.#atEnd;
    if (this.#last?.message === message && tree.find(conversation, message.id)) {
      this.#last.end(message, {last: true, running: false, retryAfter, retries: this.#retriesOf(conversation.id)});
      this.#buttons();
    } else this.#render();
    if (end) this.#toEnd();
    announce(message.fault ? message.fault.headline : message.stopped ? 'Stopped.' : `Answer: ${parts(message).text}`);
    if (!saved) announce('The browser has no room left for this conversation: it will be gone after a reload. Delete an older one.', true);
  }

  // An answer that ended early brings no count of its own: the gateway's next report has it.
  async #count({conversation, message, before, counts, shared}) {
    if (message.usages.length > counts || !before) return;
    const after = await new Promise((resolve) => { this.#reported.push(resolve); setTimeout(resolve, k_report, null); });
    const last = after ?? this.#activity;
    if (!last || last.uptime < before.uptime || !tree.find(conversation, message.id)) return;
    const usage = between(before, last, shared);
    if (!usage.completion_tokens && !usage.permllm.online_bytes.sent) return;  // it failed before it began
    message.usages.push(usage);
    this.#keep(conversation);
    if (conversation === this.#conversation && this.#last?.message === message && !this.running) this.#last.foot(message, {last: true, running: false});
  }

  #retriesOf(id) { return {left: k_retries - (this.#retries.get(id) ?? 0), use: () => this.#retries.set(id, (this.#retries.get(id) ?? 0) + 1)}; }

  #render() {
    const conversation = this.#conversation;
    const way = tree.path(conversation);
    const does = this.#does();
    this.#last = null;
    find('welcome').hidden = way.length > 0;
    find('messages').replaceChildren(...way.map((message, i) => {
      if (message.role === 'user') return questionItem(message, does);
      const last = i === way.length - 1;
      const view = new AnswerView(message, {last, running: this.#runs.get(conversation.id)?.message === message, retries: this.#retriesOf(conversation.id)}, does);
      if (last) this.#last = view;
      return view.item;
    }));
    this.#buttons();
    this.#toEnd();
  }

  // What the buttons at a message do.
  #does() {
    return {
      versions: (message) => {
        const all = tree.versions(this.#conversation, message);
        return {at: all.indexOf(message), of: all.length};
      },
      step: (message, by) => this.#step(message, by),
      edit: (message, text) => {
        if (this.running) return false;
        this.#ask(tree.find(this.#conversation, message.parent), text);
        find('question').focus();
        return true;
      },
      fit: (field) => this.#fit(field),
      again: () => this.again(),
      goOn: () => this.goOn(),
      canGoOn: (message) => this.#canGoOn(message),
      same: () => !(this.#conversation.settings.temperature > 0),
    };
  }

  #step(message, by) {
    if (this.running) return;
    const other = tree.step(this.#conversation, message, by);
    if (!other) return;
    const top = find('scroller').scrollTop;
    this.#keep(this.#conversation);
    this.#render();
    this.#atEnd = false;
    find('scroller').scrollTop = top;
    const item = find('messages').querySelector(`[data-message="${other.id}"]`);
    item?.scrollIntoView({block: 'nearest'});
    item?.querySelector(`[data-step="${by}"]:enabled, [data-step]:enabled`)?.focus();
    const {at, of} = this.#does().versions(other);
    announce(`Version ${at + 1} of ${of}.`);
  }

  #buttons() {
    find('send').hidden = this.running;
    find('stop').hidden = !this.running;
    for (const button of find('messages').querySelectorAll('[data-edit], [data-step]')) button.disabled = this.running || button.dataset.end === 'true';
  }

  // Twice a second: what the answer under way waits for, and since when.
  #tick() {
    const run = this.#runs.get(this.#conversation.id);
    for (const each of this.#runs.values()) each.shared ||= this.#activity?.active > 1;
    if (!run || this.#last?.message !== run.message) return;
    const since = (performance.now() - run.started) / 1000;
    const {words, always} = this.#phase;
    const some = run.message.content || run.message.thought;
    this.#last.wait(`${some && !always ? (parts(run.message).text ? 'Answering' : 'Thinking') : words || 'Waiting'}  \u00b7  ${Math.floor(since)} s`);
  }

  // Many tokens may come between two frames; they are shown together.
  #draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      const run = this.#runs.get(this.#conversation.id);
      if (!run || this.#last?.message !== run.message) return;
      this.#last.show(run.message, true);
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
