// The panel beside the conversation: what travels between the three parties, and who sees what.
import {count, el, find, megabytes, plural, seconds, speed, write} from './dom.js';

const k_window = 2500;  // ms over which rates are taken
const k_lanes = {
  toProvider: [106, 186, 294, 186], fromProvider: [294, 206, 106, 206],
  toHelper: [88, 168, 180, 74], fromHelper: [180, 74, 88, 168], helperToProvider: [220, 74, 312, 168],
};
const k_states = {
  idle: 'Idle', queued: 'Waiting in the queue', preparing: 'Making offline material', reading: 'Reading your question',
  reconnecting: 'The connection to the provider was lost, trying again',  answering: 'Answering', unreachable: 'Provider unreachable',
};
const still = matchMedia('(prefers-reduced-motion: reduce)');

// Dots on a line, more and faster ones the more bytes a second travel there.
class Lane {
  #dots;
  #line;
  #at = 0;
  rate = 0;

  constructor(line, group) {
    this.#line = line;
    this.#dots = Array.from({length: 6}, () => group.appendChild(document.createElementNS('http://www.w3.org/2000/svg', 'circle')));
    for (const dot of this.#dots) dot.setAttribute('r', '3.2');
  }

  move(elapsed) {
    const strength = this.rate > 0 ? Math.min(1, Math.log10(1 + this.rate / 1e4) / 3) : 0;
    const shown = this.rate > 0 ? 2 + Math.round(4 * strength) : 0;
    const [x0, y0, x1, y1] = this.#line;
    this.#at = (this.#at + elapsed * (0.25 + 0.6 * strength)) % 1;
    this.#dots.forEach((dot, i) => {
      dot.classList.toggle('on', i < shown);
      if (i >= shown) return;
      const at = (this.#at + i / shown) % 1;
      dot.setAttribute('cx', (x0 + (x1 - x0) * at).toFixed(1));
      dot.setAttribute('cy', (y0 + (y1 - y0) * at).toFixed(1));
    });
  }
}

export class Panel {
  #chat;
  #conversations;
  #lanes;
  #samples = [];  // {at, sums}, as many as lie in the window and one before
  #activity = null;
  #retrieval = '';
  #moving = false;
  #rain = [];

  constructor({gateway, chat, conversations}) {
    this.#chat = chat;
    this.#conversations = conversations;
    this.#lanes = Object.fromEntries(Object.entries(k_lanes).map(([name, line]) => [name, new Lane(line, find('dots'))]));
    find('glimpse').addEventListener('click', ({currentTarget}) => {
      const on = currentTarget.getAttribute('aria-checked') !== 'true';
      currentTarget.setAttribute('aria-checked', String(on));
      find('views').hidden = !on;
      if (on) this.#pour(12);
    });
    gateway.watch((activity, why) => this.#receive(activity, why));
    this.#learn(gateway);
    setInterval(() => this.#measure(), 500);
    setInterval(() => { if (!still.matches && this.#busy) this.#pour(1); }, 120);
  }

  get #busy() { return this.#lanes.toProvider.rate > 0; }

  // Asked again until it is known: the gateway may not have met its provider yet.
  async #learn(gateway) {
    for (let pause = 2000; ; pause = Math.min(2 * pause, 30000)) {
      try {
        this.#privacy(await gateway.privacy());
        return;
      } catch { await new Promise((resolve) => setTimeout(resolve, pause)); }
    }
  }

  #receive(activity, why = 'Trying again') {
    this.#activity = this.#chat.activity = activity;
    const state = activity?.state ?? 'lost';
    document.body.dataset.state = state;
    write(find('state'), activity ? k_states[state] ?? state : 'No connection to the gateway');
    write(find('state-detail'), activity ? this.#detail(activity) : why);
    const prepare = find('prepare');
    prepare.toggleAttribute('data-quiet', !activity?.prepare);
    prepare.value = activity?.prepare?.fraction ?? 0;
    const words = state === 'idle' ? '' : `${k_states[state] ?? ''}${activity?.prepare ? `, ${this.#detail(activity)}` : ''}`;
    this.#chat.phase = {words: activity ? words : '', always: state === 'reconnecting'};
    if (!activity) { this.#samples = []; this.#measure(); return; }

    const {online, offline_provider, offline_helper} = activity;
    const sums = {
      toProvider: online.sent + offline_provider.sent, fromProvider: online.received + offline_provider.received,
      toHelper: offline_helper.sent, fromHelper: offline_helper.received,
    };
    if (this.#samples.length && this.#samples.at(-1).sums.toProvider > sums.toProvider) this.#samples = [];  // it was started anew
    this.#samples.push({at: performance.now(), sums});
    this.#measure();

    for (const link of ['online', 'offline_provider', 'offline_helper']) {
      for (const way of ['sent', 'received']) write(find(`${link}-${way}`), megabytes(activity[link][way]));
    }
    write(find('speed'), activity.tokens_per_second ? speed(activity.tokens_per_second) : '\u2013');
    write(find('trips'), count(online.round_trips));
    const {asked = 0, wrong = 0, unsure = 0, online_bytes: of_online = 0, offline_bytes: of_material = 0} = activity.canaries ?? {};
    find('canaries').hidden = !asked;
    write(find('canaries-words'), `${count(asked)}, of them wrong ${count(wrong)}${unsure ? `, not compared ${count(unsure)}` : ''}; ${megabytes(of_online)} MB online, ${megabytes(of_material)} MB of material`);
    write(find('tokens'), count(activity.tokens));
    this.#stock(activity);
    write(find('view-you'), this.#chat.lastWords.replace(/^[^]*\s(?=[^]{200})/, '\u2026 ') || 'Nothing was asked yet.');
    const bytes = this.#chat.lastUsage?.permllm?.online_bytes;
    write(find('view-note'), `The real ones are as random to the provider, who learns how many tokens there are and when.${
      this.#retrieval === 'bfv' ? ' It receives ciphertexts too, which rest on ring-LWE.' : ''}${
      bytes ? ` Your last answer took ${megabytes(bytes.sent)} MB of them.` : ''}`);
  }

  #detail({state, prepare, queued, tokens_per_second: speedNow}) {
    if (prepare) {
      return `${Math.floor(100 * prepare.fraction)} %${Number.isFinite(prepare.seconds_left) ? `, about ${seconds(Math.ceil(prepare.seconds_left)).replace('.0', '')} left` : ''}`;
    }
    if (state === 'answering' && speedNow) return `${speed(speedNow)} tokens a second`;
    if (state === 'queued') return `${queued} waiting`;
    if (state === 'unreachable') return 'what is in stock cannot be used until it is back';
    return '';
  }

  #stock({stock_tokens: stock, stock_target: target, tokens_left: left}) {
    const bar = find('stock');
    bar.hidden = !target;
    bar.max = Math.max(target, stock, 1);
    bar.value = stock;
    write(find('stock-words'), target ? `${count(stock)} of ${count(target)} tokens` : plural(stock, 'token'));
    const each = this.#conversations.tokensAnAnswer();
    const answers = Math.floor(stock / (each ?? 200));
    write(find('stock-answers'), answers ? `about ${plural(answers, 'answer')}${each ? ' like yours' : ' of 200 tokens'}` : 'less than one answer');
    find('invite').hidden = (left ?? null) === null;
    write(find('allowance'), plural(left ?? 0, 'token'));
  }

  // Bytes a second over the window. Events may be 5 s apart when nothing happens, so time passes without them too.
  #measure() {
    const now = performance.now();
    while (this.#samples.length > 1 && this.#samples[1].at < now - k_window) this.#samples.shift();
    const [first, last] = [this.#samples[0], this.#samples.at(-1)];
    const span = first ? Math.max(now - Math.max(first.at, now - k_window), 250) / 1000 : 1;
    const moves = first && last.at > now - k_window;
    for (const name of ['toProvider', 'fromProvider', 'toHelper', 'fromHelper']) {
      this.#lanes[name].rate = moves ? (last.sums[name] - first.sums[name]) / span : 0;
    }
    const activity = this.#activity;
    const dealing = this.#lanes.toHelper.rate + this.#lanes.fromHelper.rate > 0 || activity?.state === 'preparing' || Boolean(activity?.filling);
    document.body.classList.toggle('dealing', dealing);
    if (activity?.state === 'idle') write(find('state-detail'), dealing ? 'material is made ahead' : '');
    this.#lanes.helperToProvider.rate = dealing ? 3e6 : 0;  // it passes us by: only that it is there is shown
    const {toProvider, fromProvider, toHelper, fromHelper} = this.#lanes;
    find('link-provider').classList.toggle('lit', toProvider.rate + fromProvider.rate > 0);
    find('link-helper').classList.toggle('lit', dealing);
    const rate = (lane) => `${megabytes(lane.rate)} MB/s`;
    const sum = (name) => (last ? `${megabytes(last.sums[name])} MB so far` : '');
    write(find('rate-to-provider'), toProvider.rate > 0 ? rate(toProvider) : '');
    write(find('rate-from-provider'), fromProvider.rate > 0 ? rate(fromProvider) : '');
    write(find('sum-to-provider'), sum('toProvider'));
    write(find('sum-from-provider'), sum('fromProvider'));
    const dealt = last ? last.sums.toHelper + last.sums.fromHelper : 0;
    write(find('rate-helper'), dealt > 0 && dealt < 1e5 ? `${(dealt / 1e3).toFixed(1)} kB` : `${megabytes(dealt)} MB`);
    write(find('helper-to-provider'), dealing ? 'material' : '');
    write(find('drawing-words'), `To the provider ${rate(toProvider)}, from it ${rate(fromProvider)}. ${
      dealing ? 'The helper deals material now.' : 'The helper takes no part now.'}`);
    this.#animate();
  }

  // Thirty frames a second at most, and none while nothing moves: the same cores compute the answer.
  #animate() {
    const lanes = Object.values(this.#lanes);
    if (still.matches) { lanes.forEach((lane) => lane.move(0)); return; }
    if (this.#moving) return;
    this.#moving = true;
    let before = performance.now();
    const frame = (now) => {
      if (now - before >= 30) {
        lanes.forEach((lane) => lane.move(Math.min(now - before, 100) / 1000));
        before = now;
      }
      this.#moving = lanes.some((lane) => lane.rate > 0) && !still.matches;
      if (this.#moving) requestAnimationFrame(frame); else lanes.forEach((lane) => lane.move(0));
    };
    requestAnimationFrame(frame);
  }

  #pour(lines) {
    if (find('views').hidden) return;
    for (let i = 0; i < lines; ++i) {
      const words = Array.from(crypto.getRandomValues(new Uint16Array(4)), (word) => word.toString(16).padStart(4, '0'));
      this.#rain.unshift(words.join(' '));
    }
    this.#rain.length = Math.min(this.#rain.length, 12);
    find('view-provider').textContent = this.#rain.join('\n');
  }

  #privacy({profile, model, provider, helper, parties, model_owner: owner, rests_on: rests}) {
    this.#retrieval = model.retrieval;
    write(find('model'), `${model.name || model.id}  \u00b7  profile ${profile}  \u00b7  ${plural(model.layers, 'layer')}, context ${count(model.context)}`);
    const list = (words, name) => el(`ul.${name}`, {}, ...words.map((text) => el('li', {}, text)));
    const where = {provider, helper};
    const names = {you: 'You', provider: 'Provider', helper: 'Helper'};
    find('parties').replaceChildren(
      el('p.caption', {}, `In the profile \u201c${profile}\u201d:`),
      ...parties.map(({who, sees, never_sees: never}) => el('section.party', {},
        el('h4', {}, names[who] ?? who),
        ...(where[who] ? [el('p.address', {}, where[who].address)] : []),
        ...(sees.length ? [el('p.kind', {}, 'sees'), list(sees, 'sees')] : []),
        ...(never.length ? [el('p.kind', {}, 'never sees'), list(never, 'never')] : []),
        ...(where[who] ? [el('details', {}, el('summary', {}, `The ${who}\u2019s key`), el('code', {}, where[who].key.match(/.{1,8}/g).join(' ')))] : []))),
      el('section.party', {}, el('h4', {}, 'What of the model shows'), el('p', {}, owner)),
      el('section.party', {}, el('h4', {}, 'This rests on'), list(rests, 'rests')));
  }
}
