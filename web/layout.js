// List and panel: columns that can be closed and made wider where there is room, drawers where there is none. theme.js has set both before the first paint.
import {find} from './dom.js';

const k_key = 'permllm.layout';  // in localStorage: {list: {closed, width}, panel: {closed, width}}, widths in rem
const k_sides = {
  list: {room: matchMedia('(min-width: 52rem)'), least: 12, most: 28, usual: 15.5, toward: 1},
  panel: {room: matchMedia('(min-width: 76rem)'), least: 20, most: 44, usual: 28, toward: -1},
};

export class Layout {
  #opener = null;
  #saved = {};

  constructor() {
    try { this.#saved = JSON.parse(localStorage.getItem(k_key)) ?? {}; } catch { /* as usual */ }
    for (const name of Object.keys(k_sides)) {
      find(`open-${name}`).addEventListener('click', () => this.toggle(name));
      this.#grip(name);
      this.#tell(name);
      k_sides[name].room.addEventListener('change', () => { this.closeDrawer(); this.#tell(name); });
    }
    for (const part of document.querySelectorAll('[data-close]')) part.addEventListener('click', () => this.toggle(part.dataset.close));
    find('scrim').addEventListener('click', () => this.closeDrawer());
  }

  get drawer() { return !find('scrim').hidden; }

  toggle(name) {
    if (!k_sides[name].room.matches) return this.drawer ? this.closeDrawer() : this.#openDrawer(name);
    const closed = !this.#closed(name);
    this.#keep(name, {closed});
    document.documentElement.toggleAttribute(`data-${name}-closed`, closed);
    this.#tell(name);
    (closed ? find(`open-${name}`) : find(name).querySelector('[data-close]')).focus();
  }

  // So that what is in it can be reached.
  show(name) {
    const {room} = k_sides[name];
    if (room.matches ? this.#closed(name) : !find(name).classList.contains('open')) { this.closeDrawer(); this.toggle(name); }
  }

  closeDrawer() {
    if (!this.drawer) return;
    for (const part of ['list', 'chat', 'panel']) {
      find(part).inert = false;
      find(part).classList.remove('open');
    }
    find('scrim').hidden = true;
    this.#opener?.focus();
  }

  #openDrawer(name) {
    this.#opener = find(`open-${name}`);
    find(name).classList.add('open');
    find('scrim').hidden = false;
    for (const part of ['list', 'chat', 'panel']) find(part).inert = part !== name;
    find(name).querySelector('[data-close]').focus();
  }

  #closed(name) { return document.documentElement.hasAttribute(`data-${name}-closed`); }
  #tell(name) { find(`open-${name}`).setAttribute('aria-expanded', String(k_sides[name].room.matches && !this.#closed(name))); }

  #keep(name, change) {
    this.#saved = {...this.#saved, [name]: {...this.#saved[name], ...change}};
    try { localStorage.setItem(k_key, JSON.stringify(this.#saved)); } catch { /* it lasts as long as the page */ }
  }

  #grip(name) {
    const grip = find(`grip-${name}`);
    const {least, most, usual, toward} = k_sides[name];
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const width = () => this.#saved[name]?.width ?? usual;
    const set = (wanted) => {
      const now = Math.round(10 * Math.min(most, Math.max(least, wanted))) / 10;
      document.documentElement.style.setProperty(`--${name}-width`, `${now}rem`);
      grip.setAttribute('aria-valuenow', String(now));
      this.#keep(name, {width: now});
    };
    Object.entries({'aria-valuemin': least, 'aria-valuemax': most, 'aria-valuenow': width()}).forEach(([key, value]) => grip.setAttribute(key, String(value)));
    grip.addEventListener('pointerdown', (event) => {
      const [from, at] = [width(), event.clientX];
      const move = ({clientX}) => set(from + (toward * (clientX - at)) / rem);
      grip.setPointerCapture(event.pointerId);
      grip.addEventListener('pointermove', move);
      for (const end of ['pointerup', 'pointercancel']) grip.addEventListener(end, () => grip.removeEventListener('pointermove', move), {once: true});
    });
    grip.addEventListener('dblclick', () => set(usual));
    grip.addEventListener('keydown', (event) => {
      const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (by) { event.preventDefault(); set(width() + by * toward); }
      if (event.key === 'Home') set(least);
      if (event.key === 'End') set(most);
    });
  }
}
