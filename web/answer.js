// An answer's Markdown as elements, with formulas (KaTeX, as MathML) and code in colours (highlight.js). What the model writes is text to show, never
// markup to run:
//   - HTML is no part of the grammar here: its tags are characters like any other;
//   - images are not loaded, their words and address are shown;
//   - formulas have no links, pictures, classes or styles (KaTeX without trust), no macro that grows without bound, and no size beyond a few lines;
//   - what the libraries make of the rest passes DOMPurify, with the short lists of tags and attributes that it needs.
// A library that was not built in is done without: without the first two answers are plain text.
import {copyButton, el} from './dom.js';

const k_tags = ['p', 'br', 'strong', 'em', 'del', 'code', 'pre', 'blockquote', 'ul', 'ol', 'li', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'hr',
  'table', 'thead', 'tbody', 'tr', 'th', 'td', 'a', 'span'];
const k_math_tags = ['math', 'mrow', 'mi', 'mn', 'mo', 'ms', 'mspace', 'mtext', 'mfrac', 'msqrt', 'mroot', 'mstyle', 'mpadded', 'mphantom', 'menclose', 'merror',
  'msub', 'msup', 'msubsup', 'munder', 'mover', 'munderover', 'mmultiscripts', 'mtable', 'mtr', 'mtd'];
const k_math_attributes = ['accent', 'accentunder', 'columnalign', 'columnspacing', 'depth', 'display', 'displaystyle', 'fence', 'height', 'largeop', 'linethickness',
  'lspace', 'mathbackground', 'mathcolor', 'mathsize', 'mathvariant', 'maxsize', 'minsize', 'movablelimits', 'notation', 'rowspacing', 'rspace', 'scriptlevel',
  'separator', 'stretchy', 'symmetric', 'voffset', 'width'];
const k_purify = {
  ALLOWED_TAGS: [...k_tags, ...k_math_tags], ALLOWED_ATTR: ['href', 'title', 'start', 'align', 'class', ...k_math_attributes],
  ADD_URI_SAFE_ATTR: ['start', 'align', ...k_math_attributes], ALLOW_DATA_ATTR: false, ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i, FORBID_CONTENTS: ['annotation'], RETURN_DOM_FRAGMENT: true,
};
const k_katex = {output: 'mathml', trust: false, strict: 'ignore', throwOnError: true, maxExpand: 300, maxSize: 10};
const k_most_code = 50000;  // characters, beyond which code has one colour

const escape = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

// A formula that KaTeX cannot read is shown as it was written.
function formula({raw, tex, display}) {
  if (!globalThis.katex) return `<code>${escape(raw.trim())}</code>`;
  try {
    const math = globalThis.katex.renderToString(tex, {...k_katex, displayMode: display});
    return `<span class="math${display ? ' display' : ''}">${math}</span>`;
  } catch { return `<code>${escape(raw.trim())}</code>`; }
}

// $$...$$ and \[...\] stand by themselves, \(...\) and $...$ within a line. A dollar sign that begins a formula has no blank behind it, one that ends it
// neither a blank before it nor a digit behind: "$5 and $10" are prices.
const k_display = /^(?:\$\$([^]{1,8000}?)\$\$|\\\[([^]{1,8000}?)\\\])/;
const k_inline = /^(?:\\\(([^]{1,2000}?)\\\)|\$(?![\s$])((?:\\[^]|[^\\$\n])*?(?:\\[^]|[^\\$\s]))\$(?!\d))/;
const math = {
  extensions: [{
    name: 'block_math', level: 'block',
    start: (source) => source.match(/^ {0,3}(?:\$\$|\\\[)/m)?.index,
    tokenizer(source) {
      const [indent] = source.match(/^ {0,3}/);
      const found = source.slice(indent.length).match(k_display);
      const rest = found && source.slice(indent.length + found[0].length).match(/^[ \t]*(?:\n|$)/);
      return rest ? {type: 'block_math', raw: indent + found[0] + rest[0], tex: found[1] ?? found[2], display: true} : undefined;
    },
    renderer: (token) => `<p>${formula(token)}</p>`,
  }, {
    name: 'inline_math', level: 'inline',
    start(source) {
      const at = source.search(/\$|\\[([]/);
      return at < 0 ? undefined : at;
    },
    tokenizer(source) {
      const display = source.match(k_display), found = display ?? source.match(k_inline);
      return found ? {type: 'inline_math', raw: found[0], tex: found[1] ?? found[2], display: Boolean(display)} : undefined;
    },
    renderer: formula,
  }],
};

function codeBlock({text, lang}) {
  const name = /^[\w+#.-]*/.exec(lang ?? '')[0].toLowerCase();
  const {hljs} = globalThis;
  let html = escape(text);
  if (hljs?.getLanguage(name) && text.length <= k_most_code) {
    try { html = hljs.highlight(text, {language: name, ignoreIllegals: true}).value; } catch { /* in one colour */ }
  }
  return `${name ? `<span class="language">${escape(name)}</span>` : ''}<pre><code>${html}\n</code></pre>`;
}

function parser() {
  const {marked, DOMPurify} = globalThis;
  if (!marked?.Marked || !DOMPurify?.isSupported) return null;
  return new marked.Marked({gfm: true}, math, {
    tokenizer: {html: () => undefined, tag: () => undefined},
    renderer: {
      html: ({text}) => escape(text),
      code: codeBlock,
      image: ({href, text}) => `<span class="image">${escape(`image: ${text ? `${text}, ` : ''}${href}`)}</span>`,
      link({href, tokens}) {
        const words = this.parser.parseInline(tokens);
        return /^(?:https?|mailto):/i.test(href) ? `<a href="${escape(href)}">${words}</a>` : words;
      },
      checkbox: ({checked}) => (checked ? '\u2611 ' : '\u2610 '),
    },
  });
}

// What a person may do with the parts of a block, once they are elements.
function equip(fragment) {
  for (const a of fragment.querySelectorAll('a')) Object.assign(a, {rel: 'noopener noreferrer', target: '_blank'});
  for (const pre of fragment.querySelectorAll('pre')) {
    const language = pre.previousElementSibling?.matches('.language') ? [pre.previousElementSibling] : [];
    const block = el('div.code', {}, ...language, copyButton('Copy this code', () => pre.textContent));
    pre.tabIndex = 0;  // it may scroll sideways, as may tables and formulas
    pre.replaceWith(block);
    block.prepend(pre);
  }
  for (const table of fragment.querySelectorAll('table')) {
    const wide = el('div.wide', {tabIndex: 0, role: 'region', 'aria-label': 'Table'});
    table.replaceWith(wide);
    wide.append(table);
  }
  for (const display of fragment.querySelectorAll('.math.display')) Object.assign(display, {tabIndex: 0});
  // Browsers pass over this attribute of MathML; a style that is set so is none that the policy of this page forbids.
  for (const table of fragment.querySelectorAll('mtable[columnalign]')) {
    const ways = table.getAttribute('columnalign').split(' ');
    for (const row of table.children) [...row.children].forEach((cell, i) => { cell.style.textAlign = ways[i % ways.length]; });
  }
}

export class Prose {
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
      equip(fragment);
      const nodes = [...fragment.childNodes];
      this.#element.append(...nodes);
      this.#blocks.push({raw: token.raw, nodes});
    }
  }
}

// What a model thought before it answered: some gateways send it apart, some models write it between marks. Of a template that begins to think in the
// model's place there is the second mark alone.
export function parts({content, thought = ''}) {
  const begins = /^\s*<think>\n*/.exec(content);
  const ends = content.indexOf('</think>');
  if (!begins && ends < 0) return {thought, text: content, thinking: false};
  const from = begins?.[0].length ?? 0;
  const inside = content.slice(from, ends < 0 ? undefined : ends).trim();
  return {thought: [thought, inside].filter(Boolean).join('\n\n'), text: ends < 0 ? '' : content.slice(ends + 8).trimStart(), thinking: ends < 0};
}

// An answer, its thoughts folded above it.
export class Answer {
  #prose;
  #folded = null;  // {fold, words, prose}: there once there is a thought
  #element;

  constructor(element) {
    this.#element = element;
    const words = el('div.prose', {});
    element.append(words);
    this.#prose = new Prose(words);
  }

  show(message, running) {
    const {thought, text, thinking} = parts(message);
    if (thought) {
      this.#folded ??= this.#fold();
      const now = running && (thinking || !text) ? 'Thinking' : 'What it thought';
      if (this.#folded.words.textContent !== now) this.#folded.words.textContent = now;
      this.#folded.prose.show(thought);
    }
    this.#prose.show(text);
  }

  #fold() {
    const words = el('summary', {});
    const inside = el('div.prose', {});
    const fold = el('details.thought', {}, words, inside);
    this.#element.prepend(fold);
    return {fold, words, prose: new Prose(inside)};
  }
}
