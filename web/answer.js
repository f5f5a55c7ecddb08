// An answer's markdown as elements. What the model writes is text to show, never markup to run:
//   - HTML is no part of the grammar here: its tags are characters like any other;
//   - images are not loaded, their words and address are shown;
//   - what marked makes of the rest passes DOMPurify, with the short list of tags and attributes that markdown needs.
// Where the two libraries were not built in, answers are plain text.
import {copyButton, el} from './dom.js';

const k_tags = ['p', 'br', 'strong', 'em', 'del', 'code', 'pre', 'blockquote', 'ul', 'ol', 'li', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'hr',
  'table', 'thead', 'tbody', 'tr', 'th', 'td', 'a', 'span'];
const k_purify = {
  ALLOWED_TAGS: k_tags, ALLOWED_ATTR: ['href', 'title', 'start', 'align', 'class'], ADD_URI_SAFE_ATTR: ['start', 'align'], ALLOW_DATA_ATTR: false, ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i, RETURN_DOM_FRAGMENT: true,
};

const escape = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

function parser() {
  const {marked, DOMPurify} = globalThis;
  if (!marked?.Marked || !DOMPurify?.isSupported) return null;
  return new marked.Marked({gfm: true}, {
    tokenizer: {html: () => undefined, tag: () => undefined},
    renderer: {
      html: ({text}) => escape(text),
      image: ({href, text}) => `<span class="image">${escape(`image: ${text ? `${text}, ` : ''}${href}`)}</span>`,
      link({href, tokens}) {
        const words = this.parser.parseInline(tokens);
        return /^(?:https?|mailto):/i.test(href) ? `<a href="${escape(href)}">${words}</a>` : words;
      },
      checkbox: ({checked}) => (checked ? '\u2611 ' : '\u2610 '),
    },
  });
}

export class Answer {
  #element;
  #parser = parser();
  #blocks = [];  // {raw, nodes}: what is shown now, block by block

  constructor(element) {
    this.#element = element;
    element.classList.toggle('plain', !this.#parser);
  }

  // Blocks that did not change keep their elements: nothing moves, and a selection lives on while the rest arrives.
  show(text) {
    if (this.#parser) {
      try { return this.#showBlocks(text); } catch { this.#parser = null; }  // nested deeper than the parser can follow
    }
    this.#element.classList.add('plain');
    this.#element.textContent = text;
  }

  #showBlocks(text) {
    const tokens = this.#parser.lexer(text).filter((token) => token.type !== 'space');
    let same = 0;
    while (same < tokens.length && this.#blocks[same]?.raw === tokens[same].raw) ++same;
    for (const {nodes} of this.#blocks.splice(same)) nodes.forEach((node) => node.remove());
    for (const token of tokens.slice(same)) {
      const fragment = globalThis.DOMPurify.sanitize(this.#parser.parser([token]), k_purify);
      for (const a of fragment.querySelectorAll('a')) Object.assign(a, {rel: 'noopener noreferrer', target: '_blank'});
      for (const wide of fragment.querySelectorAll('pre, table')) Object.assign(wide, {tabIndex: 0});  // it may scroll sideways
      for (const pre of fragment.querySelectorAll('pre')) {
        const block = el('div.code', {}, copyButton('Copy this code', () => pre.textContent));
        pre.replaceWith(block);
        block.prepend(pre);
      }
      const nodes = [...fragment.childNodes];
      this.#element.append(...nodes);
      this.#blocks.push({raw: token.raw, nodes});
    }
  }
}
