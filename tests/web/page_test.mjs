// The page of `permllm serve` in a real browser: node page_test.mjs URL CHROMIUM [FOLDER for screenshots]
// playwright-core and axe-core lie beside this file (tests/clients/run.sh puts it there).
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

const [url, executablePath, folder] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
const outside = [], faults = [];
let checks = 0, failed = 0;

async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, bypassCSP: false, ...options });
  const page = await context.newPage();
  page.on('request', (request) => { if (!/^(data:|blob:)/.test(request.url()) && new URL(request.url()).origin !== new URL(url).origin) outside.push(request.url()); });
  page.on('pageerror', (error) => faults.push(error.message));
  await page.goto(url);
  return page;
}
async function check(name, body) {
  ++checks;
  try {
    await body();
    console.log(`ok ${checks} ${name}`);
  } catch (error) {
    ++failed;
    console.log(`not ok ${checks} ${name}\n  ${String(error.stack).replaceAll('\n', '\n  ')}`);
  }
}
const k_patience = { timeout: 90_000 };
const answers = (page) => page.locator('#messages .answer');
const ask = async (page, text) => { await page.fill('#question', text); await page.press('#question', 'Enter'); };
const done = (page) => page.waitForFunction(() => { const all = document.querySelectorAll('#messages .answer'); return all.length && all[all.length - 1].getAttribute('aria-busy') === 'false'; }, null, k_patience);
// Does what begins an answer, and waits for the request: an answer may be over before anybody could look for its signs.
const begins = async (page, act) => { await Promise.all([page.waitForRequest('**/v1/chat/completions', k_patience), act()]); };
const words = async (page) => (await answers(page).last().locator('.prose').innerText()).trim();
// An answer in the gateway's place: texts, or the deltas of a stream. Resolves to the requests that came.
async function script(page, ...answers) {
  const asked = [];
  await page.unroute('**/v1/chat/completions');
  await page.route('**/v1/chat/completions', (route) => {
    asked.push(JSON.parse(route.request().postData()));
    const { deltas, finish = 'stop', fault, usage } = answers[Math.min(asked.length, answers.length) - 1];
    if (fault) return route.fulfill({ status: fault.status, contentType: 'application/json', body: JSON.stringify({ error: { message: 'it said so', type: '', param: null, ...fault } }) });
    const chunks = [...deltas.map((delta) => ({ choices: [{ index: 0, delta, finish_reason: null }] })), { choices: [{ index: 0, delta: {}, finish_reason: finish }] }, ...(usage ? [{ choices: [], usage }] : [])];
    return route.fulfill({ status: 200, contentType: 'text/event-stream', body: `${chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join('')}data: [DONE]\n\n` });
  });
  return asked;
}
const text = (content, more = {}) => ({ deltas: [{ content }], ...more });
const stored = (page) => page.evaluate(() => Object.entries(localStorage).filter(([k]) => k.startsWith('permllm.conversation.')).map(([, v]) => JSON.parse(v)));
const settle = async (page, tokens) => {  // short answers, which are the same each time
  await page.click('#settings');
  await page.fill('#set-max', String(tokens));
  await page.click('#settings-dialog .strong');
};

const page = await open();
await check('it opens on an empty conversation, with the parties in the panel', async () => {
  assert.match(await page.title(), /PermLLM/);
  assert.ok(await page.isVisible('#welcome'));
  await page.waitForSelector('.party', k_patience);
  for (const who of ['You', 'Provider', 'Helper']) assert.equal(await page.locator('.party h4', { hasText: who }).count() > 0, true, who);
});

let first = '';
await check('tokens appear one after the other, and the panel counts', async () => {
  const before = await page.innerText('#trips');
  await settle(page, 24);
  await page.evaluate(() => {
    globalThis.lengths = new Set();
    const look = () => lengths.add([...document.querySelectorAll('#messages .answer .prose')].at(-1)?.innerText.length);
    new MutationObserver(look).observe(document.getElementById('messages'), { subtree: true, childList: true, characterData: true });
  });
  await begins(page, () => ask(page, 'Count from one to ten in words.'));
  await done(page);
  first = await words(page);
  assert.ok(first.length > 0);
  const lengths = await page.evaluate(() => globalThis.lengths.size);
  assert.ok(lengths > 3, `seen ${lengths} lengths`);
  assert.equal(await page.locator('.cost').count(), 0);
  await answers(page).last().locator('.short').click();
  assert.match(await page.innerText('.cost'), /24 tokens[^]*MB sent[^]*MB received[^]*round trips[^]*Offline material/);
  await page.waitForFunction((was) => document.getElementById('trips').innerText !== was, before, k_patience);
});

await check('stop ends an answer and keeps what there is', async () => {
  await settle(page, 400);
  await ask(page, 'Tell a very long story of the sea.');
  await page.waitForFunction(() => [...document.querySelectorAll('#messages .answer .prose')].at(-1)?.innerText.length > 5, null, k_patience);
  await page.click('#stop');
  await done(page);
  assert.ok((await words(page)).length > 0);
  assert.match(await answers(page).last().locator('.meter').innerText(), /stopped/);
  await page.waitForSelector('#send:visible', k_patience);
  await answers(page).last().locator('.short').click();  // its cost comes with the gateway's next report
  assert.match(await page.locator('.cost').last().innerText(), /[1-9]\d* tokens?\n[^]*Online[^]*MB sent[^]*ended early/);
});

await check('an answer that was stopped is continued', async () => {
  const was = await words(page);
  await settle(page, 8);
  await begins(page, () => answers(page).last().getByRole('button', { name: 'Continue' }).click());
  await done(page);
  const now = await words(page);
  assert.ok(now.length > was.length && now.startsWith(was.slice(0, -1)), `${was} | ${now}`);
});

const versions = (page, item) => item.locator('.versions span').innerText();
await check('answering again makes another version, and one steps between them', async () => {
  const was = await words(page), count = await answers(page).count();
  await begins(page, () => answers(page).last().getByRole('button', { name: 'Answer again' }).click());
  await done(page);
  assert.equal(await answers(page).count(), count);
  const again = await words(page);
  assert.notEqual(again, was);
  assert.equal(await versions(page, answers(page).last()), '2 / 2');
  await answers(page).last().getByRole('button', { name: 'The version before' }).click();
  assert.deepEqual([await words(page), await versions(page, answers(page).last())], [was, '1 / 2']);
  await page.locator('#question').blur();
  await page.keyboard.press('.');
  assert.equal(await words(page), again);
});

await check('editing the first question keeps what came after in the version before', async () => {
  const count = await answers(page).count(), was = await words(page);
  const question = page.locator('#messages .question').first();
  await question.hover();
  await question.getByRole('button', { name: 'Edit this question' }).click();
  await page.fill('#messages .edit textarea', 'What is the capital of France?');
  await begins(page, () => page.press('#messages .edit textarea', 'Enter'));
  await done(page);
  assert.equal(await answers(page).count(), 1);
  assert.equal(await page.innerText('#title'), 'What is the capital of France?');
  await question.getByRole('button', { name: 'The version before' }).click();
  assert.deepEqual([await answers(page).count(), await words(page)], [count, was]);
  await question.getByRole('button', { name: 'The next version' }).click();
});

await check('a reload finds the conversation, and what was typed', async () => {
  const was = await words(page);
  await page.fill('#question', 'Not yet');
  await page.reload();
  await page.waitForSelector('#messages .answer', k_patience);
  assert.equal(await words(page), was);
  assert.equal(await page.inputValue('#question'), 'Not yet');
  assert.equal(await page.locator('#conversations li').count(), 1);
});

await check('HTML in an answer is shown as text, and nothing of it is loaded', async () => {
  const hostile = '<img src="http://outside.example/x.png" onerror="globalThis.pwned=1"><script>globalThis.pwned=1</' + 'script> **bold** ![i](http://outside.example/y.png) [l](javascript:globalThis.pwned=1)\n\n```js\nlet a = 1;\n```';
  await page.evaluate((text) => {
    const key = Object.keys(localStorage).find((k) => k.startsWith('permllm.conversation.'));
    const conversation = JSON.parse(localStorage[key]);
    conversation.messages.find(({ id }) => id === conversation.leaf).content = text;
    localStorage[key] = JSON.stringify(conversation);
  }, hostile);
  await page.reload();
  await page.waitForSelector('#messages .answer', k_patience);
  assert.match(await words(page), /<img src=/);
  assert.equal(await page.locator('.prose img, .prose script, .prose a[href^="javascript"]').count(), 0);
  assert.equal(await page.evaluate(() => globalThis.pwned), undefined);
});

await check('an answer of markdown is laid out and its code can be copied, where its packages are built in', async () => {
  const built = await page.evaluate(() => Boolean(globalThis.marked && globalThis.DOMPurify));
  assert.equal(await page.locator('.prose strong').count(), built ? 1 : 0);
  console.log(`# markdown ${built ? 'is' : 'is not'} built in`);
  if (!built) return;
  await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
  await page.getByRole('button', { name: 'Copy this code' }).click();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), 'let a = 1;\n');
});

// Elements and attributes that an answer may have; all else, and each script that runs, is a fault.
const k_seen = 'P BR STRONG EM DEL CODE PRE BLOCKQUOTE UL OL LI H1 H2 H3 H4 H5 H6 HR TABLE THEAD TBODY TR TH TD A SPAN DIV BUTTON SVG USE DETAILS SUMMARY'.split(' ');
const k_hostile = [
  '<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=globalThis.pwned=1&gt;">',
  '<svg><a xlink:href="javascript:globalThis.pwned=1"><text>x</text></a></svg> <form><math><mtext></form><form><mglyph><style></math><img src onerror=globalThis.pwned=1>',
  String.raw`$\href{javascript:globalThis.pwned=1}{x}$ $\url{javascript:globalThis.pwned=1}$ $\includegraphics{http://outside.example/z.png}$`,
  String.raw`$\htmlClass{scrim}{x}$ $\htmlId{question}{x}$ $\htmlStyle{position:fixed;inset:0}{x}$ $\htmlData{x=1}{x}$`,
  String.raw`$\text{<img src=x onerror=globalThis.pwned=1>}$ $\unicode{x}$ $\rule{10000em}{10000em}$ $$\def\a{\a\a}\a$$ $$\newcommand{\b}[1]{#1#1}\b{\b{\b{x}}}$$`,
  '```html"><img src=x onerror=globalThis.pwned=1>\n</code></pre><script>globalThis.pwned=1</' + 'script>\n```',
  '```js\nlet a = "</code></pre><img src=x onerror=globalThis.pwned=1>";\n```',
  '[x](javascript:globalThis.pwned=1) [y](data:text/html,<script>globalThis.pwned=1</script>) <javascript:globalThis.pwned=1> [z](java&#115;cript:globalThis.pwned=1)',
  '| a |\n|---|\n| <img src=x onerror=globalThis.pwned=1> |\n\n<think><img src=x onerror=globalThis.pwned=1></think>',
];
await check('what a hostile model writes runs nothing, whatever the library that lays it out', async () => {
  await page.click('#new');
  for (const [i, hostile] of k_hostile.entries()) {
    await script(page, { deltas: [{ reasoning_content: hostile }, { content: hostile }] });
    await ask(page, `Hostile ${i}`);
    await done(page);
    await page.evaluate(() => document.querySelectorAll('.thought').forEach((e) => { e.open = true; }));
    const odd = await page.evaluate((known) => [...document.querySelectorAll('#messages .answer .prose *')].filter((e) => (e.namespaceURI !== 'http://www.w3.org/1998/Math/MathML' &&
      !known.includes(e.tagName.toUpperCase())) || [...e.attributes].some((a) => /^on|^style$|^src|^id$|^data-/.test(a.name) || (/href$/.test(a.name) && !/^(https?:|mailto:|#i-)/.test(a.value))) ||
      e.getBoundingClientRect().height > 5000).filter((e) => !(e.localName === 'mtd' && e.style.length === 1 && e.style.textAlign)).map((e) => e.outerHTML.slice(0, 120)), k_seen);
    assert.deepEqual(odd, [], hostile);
    assert.equal(await page.evaluate(() => globalThis.pwned), undefined, hostile);
  }
  assert.equal(await page.locator('#messages .answer').count(), k_hostile.length);
});

await check('formulas and code are laid out, prices are none, and a wide table scrolls, where the packages are built in', async () => {
  if (!await page.evaluate(() => Boolean(globalThis.katex && globalThis.hljs && globalThis.marked))) return console.log('# KaTeX or highlight.js is not built in');
  await page.click('#new');
  await script(page, text(String.raw`Euler: $e^{i\pi} + 1 = 0$ for $5 and $10, \(x_1\).

$$
\begin{aligned} a &= b \\ &= c \end{aligned}
$$

\[ \frac{1}{2} \]

A broken one: $\frac{1$

` + '```python\ndef f():\n    return 1\n```\n\n```unknown\nplain\n```\n\n' + `|${' a long heading |'.repeat(12)}\n|${'---|'.repeat(12)}\n|${' value |'.repeat(12)}\n`));
  await ask(page, 'Lay it out');
  await done(page);
  const prose = answers(page).last().locator('.prose');
  assert.equal(await prose.locator('math').count(), 4);
  assert.equal(await prose.locator('.math.display').count(), 2);
  assert.match(await prose.innerText(), /for \$5 and \$10/);
  assert.match(await prose.innerText(), /A broken one: \$\\frac\{1\$/);
  assert.equal(await prose.locator('annotation').count(), 0);
  assert.equal(await prose.locator('pre .hljs-keyword').count(), 2);
  assert.deepEqual(await prose.locator('.language').allInnerTexts(), ['python', 'unknown']);
  assert.equal(await prose.locator('mtd').first().evaluate((e) => e.style.textAlign), 'right');
  await page.setViewportSize({ width: 390, height: 844 });
  const wide = await prose.locator('.wide').evaluate((e) => [e.scrollWidth > e.clientWidth + 100, e.getBoundingClientRect().right <= innerWidth]);
  assert.deepEqual(wide, [true, true]);
  await page.setViewportSize({ width: 1440, height: 900 });
});

await check('what a model thought is folded, and is not told with the next question', async () => {
  await page.click('#new');
  const asked = await script(page, text('<think>\nSecret steps.\n</think>\n\nForty-two.'), { deltas: [{ reasoning_content: 'Steps apart.' }, { content: 'Yes.' }] });
  await ask(page, 'Think');
  await done(page);
  assert.equal(await answers(page).last().locator('.thought').evaluate((e) => e.open), false);
  assert.equal((await answers(page).last().locator('> div > .prose').innerText()).trim(), 'Forty-two.');
  await page.locator('.thought summary').click();
  assert.match(await page.innerText('.thought'), /Secret steps/);
  await ask(page, 'Sure?');
  await done(page);
  assert.deepEqual(asked[1].messages.map((m) => m.content), ['Think', 'Forty-two.', 'Sure?']);
  assert.match(await answers(page).last().locator('.thought').textContent(), /Steps apart/);
});

await check('an answer that a limit ended goes on where it ended', async () => {
  await page.click('#new');
  const usage = (n) => ({ prompt_tokens: 5, completion_tokens: n, total_tokens: 5 + n, permllm: { tokens_left: 50, seconds: { total: 1 } } });
  const asked = await script(page, text('One, two', { finish: 'length', usage: usage(3) }), text(', three.', { usage: usage(4) }));
  await ask(page, 'Count');
  await done(page);
  assert.match(await answers(page).last().locator('.meter').innerText(), /ended at the limit/);
  await page.locator('#question').blur();
  await page.keyboard.press('c');
  await page.waitForFunction(() => /three/.test(document.querySelector('#messages .answer .prose').textContent), null, k_patience);
  await done(page);
  assert.equal(await words(page), 'One, two, three.');
  assert.deepEqual([asked[1].continue_final_message, asked[1].messages], [true, [{ role: 'user', content: 'Count' }, { role: 'assistant', content: 'One, two' }]]);
  await answers(page).last().locator('.short').click();
  assert.match(await page.innerText('.cost'), /Answer\n7 tokens/);
  assert.equal(await answers(page).last().getByRole('button', { name: 'Continue' }).count(), 0);
});

await check('settings are sent, and new conversations begin with those that were made the defaults', async () => {
  await page.click('#new');
  const asked = await script(page, text('Fine.'));
  await page.click('#settings');
  for (const [id, value] of [['set-top-p', '0.9'], ['set-temperature', '0.5'], ['set-draft', '4'], ['set-stop', 'END\nSTOP\n']]) await page.fill(`#${id}`, value);
  await page.selectOption('#set-think', 'no');
  await page.check('#set-defaults');
  await page.click('#settings-dialog .strong');
  await ask(page, 'First');
  await done(page);
  await page.reload();
  await page.waitForSelector('#messages .answer', k_patience);
  await page.click('#new');
  await ask(page, 'Second');
  await done(page);
  for (const one of asked) {
    assert.deepEqual([one.top_p, one.temperature, one.draft, one.stop, one.chat_template_kwargs, 'seed' in one], [0.9, 0.5, 4, ['END', 'STOP'], { enable_thinking: false }, false]);
  }
  assert.equal(asked.length, 2);
  await page.click('#settings');
  await page.click('#set-empty');
  await page.check('#set-defaults');
  await page.click('#settings-dialog .strong');
});

await check('conversations are saved to files and loaded from them, and what is none is refused', async () => {
  await page.click('#files');
  const [markdown] = await Promise.all([page.waitForEvent('download'), page.click('#save-markdown')]);
  assert.equal(markdown.suggestedFilename(), 'second.md');
  assert.equal(readFileSync(await markdown.path(), 'utf8'), '# Second\n\n## Question\n\nSecond\n\n## Answer\n\nFine.\n');
  const [json] = await Promise.all([page.waitForEvent('download'), page.click('#save-all')]);
  const all = JSON.parse(readFileSync(await json.path(), 'utf8'));
  const before = (await stored(page)).length;
  assert.equal(all.conversations.length, before);
  const load = (value) => page.setInputFiles('#load-file', { name: 'all.json', mimeType: 'application/json', buffer: Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)) });
  await load(all);
  await page.waitForFunction((n) => document.getElementById('files-told').textContent.startsWith(`${n} conversations loaded`), before, k_patience);
  assert.equal((await stored(page)).length, 2 * before);
  await load('no json');
  await page.waitForFunction(() => /no JSON/.test(document.getElementById('files-told').textContent), null, k_patience);
  all.conversations[0].id = '"><img src=x onerror=globalThis.pwned=1>';
  await load(all);
  await page.waitForFunction(() => /damaged/.test(document.getElementById('files-told').textContent), null, k_patience);
  const odd = { ...all, conversations: [{ ...all.conversations.find(({ messages }) => messages.length === 2 && messages[1].usages.length === 0), id: '00000000000000aa', title: '<img src=x onerror=globalThis.pwned=1>' }] };
  odd.conversations[0].messages[1].usages = [{ completion_tokens: 'x', permllm: { online_bytes: null, seconds: 'y', drafts: [] } }, { permllm: 5 }];
  await load(odd);
  await page.waitForFunction(() => /1 conversation loaded/.test(document.getElementById('files-told').textContent), null, k_patience);
  await page.click('#files-dialog .strong');
  await answers(page).last().locator('.short').click();
  assert.match(await page.innerText('.cost'), /Answer\n0 tokens/);
  assert.equal(await page.evaluate(() => globalThis.pwned), undefined);
});

await check('a search finds conversations by the words in any version, and shows the place', async () => {
  await page.keyboard.press('Control+k');
  await page.keyboard.type('forty secret');
  assert.equal(await page.locator('#conversations li').count(), 2);  // it was loaded a second time
  assert.match(await page.locator('#conversations .snippet').first().innerText(), /Secret steps\. Forty/);
  await page.keyboard.press('Enter');
  await page.keyboard.press('Enter');
  assert.equal(await page.innerText('#title'), 'Think');
  await page.fill('#search', 'no such words');
  assert.ok(await page.isVisible('#nothing'));
  await page.press('#search', 'Escape');
  assert.ok(await page.locator('#conversations li').count() > 2);
});

await check('list and panel are closed and made wider, and a reload finds them so', async () => {
  const width = (id) => page.locator(`#${id}`).evaluate((e) => e.getBoundingClientRect().width);
  const [before, panel] = [await width('list'), await width('panel')];
  const drag = async (id, by) => {
    const box = await page.locator(`#${id}`).boundingBox();
    await page.mouse.move(box.x + box.width / 2, 400);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width / 2 + by, 400, { steps: 3 });
    await page.mouse.up();
  };
  await drag('grip-list', 60);
  await drag('grip-panel', -50);
  assert.ok(Math.abs(await width('list') - before - 60) < 3 && Math.abs(await width('panel') - panel - 50) < 3);
  await page.focus('#grip-list');
  await page.keyboard.press('ArrowLeft');
  const now = await width('list');
  assert.ok(now < before + 50, `${before} ${now}`);
  await page.click('[data-close=panel]');
  await page.reload();
  await page.waitForSelector('#conversations li', k_patience);
  assert.deepEqual([await page.isVisible('#panel'), await width('list')], [false, now]);
  await page.locator('#question').blur();
  await page.keyboard.press('[');
  assert.equal(await page.isVisible('#list'), false);
  await page.click('#open-list');
  await page.click('#open-panel');
  assert.ok(await page.isVisible('#panel') && await page.isVisible('#list'));
});

await check('? shows the keys, and single keys can be switched off', async () => {
  await page.fill('#question', '');
  await page.keyboard.type('?');
  assert.deepEqual([await page.inputValue('#question'), await page.isVisible('#keys-dialog')], ['?', false]);
  await page.fill('#question', '');
  await page.keyboard.press('Escape');
  await page.keyboard.press('?');
  assert.match(await page.innerText('#keys-table'), /Answer again[^]*Settings/);
  await page.uncheck('#keys-single');
  await page.click('#keys-dialog .strong');
  await page.keyboard.press('s');
  assert.equal(await page.isVisible('#settings-dialog'), false);
  await page.click('#keys');
  await page.check('#keys-single');
  await page.keyboard.press('Escape');
  await page.keyboard.press('s');
  assert.ok(await page.isVisible('#settings-dialog'));
  await page.click('#settings-dialog [data-cancel]');
});

await check('each fault has its own headline', async () => {
  await page.click('#new');
  const k_faults = [
    [{ status: 503, code: 'out_of_stock', reason: 'out_of_stock' }, /No offline material is left/], [{ status: 503, code: 'out_of_stock', reason: 'helper_unreachable' }, /The helper is away/],
    [{ status: 503, code: 'provider_unreachable', reason: 'provider_unreachable' }, /The provider is away/], [{ status: 429, code: 'allowance_used_up' }, /allowance of your invite is used up/],
    [{ status: 429, code: 'queue_full' }, /Too many requests/], [{ status: 503, code: 'model_changed' }, /another model/], [{ status: 502, code: 'peer_fault', reason: 'invite_revoked' }, /invite is no longer accepted/],
    [{ status: 400, code: 'unsupported_parameter' }, /one of the settings/], [{ status: 400, code: null }, /does not take this request/], [{ status: 500, code: null }, /The gateway failed/],
  ];
  await script(page, ...k_faults.map(([fault]) => ({ fault: { plain: 'What to do.', ...fault } })));
  for (const [, headline] of k_faults) {
    await ask(page, 'Hello');
    await done(page);
    assert.match(await page.locator('.fault .headline').last().innerText(), headline);
    assert.match(await page.locator('.fault').last().innerText(), /What to do\./);
  }
  await page.unroute('**/v1/chat/completions');
  await page.route('**/v1/chat/completions', (route) => route.abort());
  await ask(page, 'Hello');
  await done(page);
  assert.match(await page.locator('.fault .headline').last().innerText(), /The gateway does not answer/);
  await page.unroute('**/v1/chat/completions');
  await page.click('#clear');
  await page.click('#ask-ok');
  await page.waitForFunction(() => document.querySelectorAll('#conversations li').length === 0, null, k_patience);
  await ask(page, 'One more');  // the gateway answers again; how long the answer would be is the model's affair
  await page.waitForFunction(() => [...document.querySelectorAll('#messages .answer .prose')].some((prose) => prose.innerText.trim()), null, k_patience);
  if (await page.isVisible('#stop')) await page.click('#stop', { timeout: 2000 }).catch(() => {});
  await done(page);
});

await check('a new conversation is another, and deleting asks first', async () => {
  await page.click('#new');
  assert.ok(await page.isVisible('#welcome'));
  await page.locator('#conversations li').first().hover();
  await page.locator('#conversations').getByRole('button', { name: 'Delete' }).first().click();
  await page.click('#ask-ok');
  await page.waitForFunction(() => document.querySelectorAll('#conversations li').length === 0, null, k_patience);
});

await check('an answer that is nested beyond its parser is shown as it is, after a reload too', async () => {
  const deep = '>'.repeat(4000) + ' end';
  await page.route('**/v1/chat/completions', (route) => route.fulfill({ status: 200, contentType: 'text/event-stream',
    body: `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content: deep }, finish_reason: 'stop' }] })}\n\ndata: [DONE]\n\n` }));
  await ask(page, 'Deep');
  await done(page);
  await page.unroute('**/v1/chat/completions');
  await page.reload();
  await page.waitForSelector('#messages .answer', k_patience);
  assert.equal(await words(page), deep);
  assert.equal(await page.locator('#conversations li').count(), 1);
  await page.click('#new');
});

await check('an error is told in plain words', async () => {
  await page.route('**/v1/chat/completions', (route) => route.fulfill({ status: 503, headers: { 'Retry-After': '30' }, contentType: 'application/json',
    body: JSON.stringify({ error: { message: 'none', type: 'server_error', param: null, code: 'out_of_stock', plain: 'No offline material is ready, and none can be made now. Try again.' } }) }));
  await ask(page, 'Hello');
  await page.waitForSelector('.fault', k_patience);
  assert.match(await page.innerText('.fault'), /No offline material is ready/);
  assert.match(await page.innerText('.fault button'), /Retry now/);
  await page.unroute('**/v1/chat/completions');
});

await check('a question that got no answer is not told with the next, and no Retry is offered where it cannot help', async () => {
  let told = null;
  await page.route('**/v1/chat/completions', (route) => {
    told = JSON.parse(route.request().postData()).messages.map((m) => m.content);
    return route.fulfill({ status: 400, contentType: 'application/json',
      body: JSON.stringify({ error: { message: 'long', type: 'invalid_request_error', param: null, code: 'context_length_exceeded', plain: 'This is longer than the model can read.' } }) });
  });
  await ask(page, 'Another');
  await page.waitForFunction(() => /longer than the model/.test([...document.querySelectorAll('.fault')].at(-1)?.textContent), null, k_patience);
  assert.deepEqual(told, ['Another']);
  assert.equal(await page.locator('.fault').last().getByRole('button').count(), 0);
  await page.unroute('**/v1/chat/completions');
});

// part: what is looked at for overflow.
async function fits(page, part) {
  await page.evaluate(() => Promise.allSettled(document.getAnimations().filter((a) => a.effect.getTiming().iterations !== Infinity).map((a) => a.finished)));
  assert.deepEqual(await page.evaluate((within) => [...document.querySelectorAll(`${within}, ${within} *`)].filter((e) => e.getBoundingClientRect().right > innerWidth + 1 &&
    e.checkVisibility() && !e.closest('.hidden, pre')).map((e) => e.outerHTML.slice(0, 80)), part), []);
  const source = await page.evaluate(`(() => { const module = undefined, exports = undefined, define = undefined; ${axe}; return axe.run(); })()`);
  const serious = source.violations.filter((v) => ['serious', 'critical'].includes(v.impact));
  assert.deepEqual(serious.map((v) => `${v.id}: ${v.nodes.map((n) => n.target).join(' ')}`), []);
}
const narrow = { viewport: { width: 390, height: 844 } };
for (const [name, options] of [['wide, light', {}], ['wide, dark', { colorScheme: 'dark' }], ['narrow', narrow], ['narrow, dark', { ...narrow, colorScheme: 'dark' }]]) {
  const other = await open(options);
  await other.waitForSelector('.party', { state: 'attached', ...k_patience });
  await settle(other, 16);
  await ask(other, 'Name three rivers.');
  await done(other);
  if (folder) await other.screenshot({ path: `${folder}/${name.replace(', ', '-')}.png` });
  const says = 'nothing is wider than the window, axe finds nothing serious';
  await check(`${name}: ${says}`, () => fits(other, 'main'));
  await check(`${name}, the settings open: ${says}`, async () => {
    await other.click('#settings');
    await fits(other, '#settings-dialog').finally(() => other.click('#settings-dialog [data-cancel]'));
  });
  await check(`${name}, with formulas, code, a table, a fault and a cost: ${says}`, async () => {
    await script(other, text('$$x^2$$\n\n```js\nlet a = 1; // one\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n<think>'), { fault: { status: 503, code: 'provider_unreachable', plain: 'What to do.' } });
    await ask(other, 'All of it');
    await done(other);
    await answers(other).first().locator('.short').click();
    await ask(other, 'And a fault');
    await done(other);
    if (folder) await other.screenshot({ path: `${folder}/${name.replace(', ', '-')}-parts.png` });
    await fits(other, 'main');
  });
  for (const [dialog, opener] of [['keys', '#keys'], ['files', '#files']]) {
    if (name.startsWith('narrow')) continue;
    await check(`${name}, the ${dialog} open: ${says}`, async () => {
      await other.click(opener);
      await fits(other, `#${dialog}-dialog`).finally(() => other.click(`#${dialog}-dialog .strong`));
    });
  }
  for (const drawer of name.startsWith('narrow') ? ['panel', 'list'] : []) {
    await check(`${name}, the ${drawer} open: ${says}`, async () => {
      await other.click(`#open-${drawer}`);
      if (drawer === 'panel') await other.click('#glimpse');
      await fits(other, `#${drawer}`).finally(() => other.click(`#${drawer} [data-close]`));
    });
  }
  await other.context().close();
}

await check('no request left the page\'s own origin, and nothing failed in it', async () => {
  assert.deepEqual(outside, []);
  assert.deepEqual(faults, []);
});

await check('another origin gets nothing, and a websocket is refused', async () => {
  const stranger = await (await browser.newContext()).newPage();
  await stranger.route('http://stranger.example/', (route) => route.fulfill({ contentType: 'text/html', body: '<!doctype html><p>hello' }));
  await stranger.goto('http://stranger.example/');
  const read = await stranger.evaluate(async (target) => {
    const tries = [[`${target}/v1/models`, {}], [`${target}/v1/chat/completions`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{}' }],
      [`${target}/v1/chat/completions`, { method: 'POST', body: '{}' }]];
    const results = [];
    for (const [to, how] of tries) results.push(await fetch(to, how).then((r) => r.status, () => 'refused'));
    results.push(await new Promise((resolve) => { const s = new WebSocket(target.replace('http', 'ws') + '/v1/activity'); s.onopen = () => resolve('open'); s.onerror = () => resolve('refused'); }));
    return results;
  }, url);
  assert.deepEqual(read, ['refused', 'refused', 'refused', 'refused']);
});

await browser.close();
console.log(`${checks - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
