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
const words = async (page) => (await answers(page).last().locator('.prose').innerText()).trim();
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
  await ask(page, 'Count from one to ten in words.');
  const lengths = new Set();
  for (const begin = Date.now(); Date.now() - begin < 90_000;) {
    lengths.add((await words(page)).length);
    if (await answers(page).last().getAttribute('aria-busy') === 'false') break;
    await page.waitForTimeout(30);
  }
  await done(page);
  first = await words(page);
  assert.ok(first.length > 0);
  assert.ok(lengths.size > 3, `seen ${lengths.size} lengths`);
  assert.match(await answers(page).last().locator('.meter').innerText(), /\d+ tokens.*MB online.*MB offline.*round trips/);
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
});

await check('regenerating replaces the last answer', async () => {
  await settle(page, 8);
  const count = await answers(page).count();
  await answers(page).last().getByRole('button', { name: 'Answer again' }).click();
  await page.waitForSelector('#stop:visible', k_patience);
  await done(page);
  assert.equal(await answers(page).count(), count);
  assert.ok((await words(page)).length > 0);
});

await check('editing the first question drops what came after', async () => {
  const question = page.locator('#messages .question').first();
  await question.hover();
  await question.getByRole('button', { name: 'Edit this question' }).click();
  await page.fill('#messages .edit textarea', 'What is the capital of France?');
  await page.press('#messages .edit textarea', 'Enter');
  await page.waitForSelector('#stop:visible', k_patience);
  await done(page);
  assert.equal(await answers(page).count(), 1);
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
    conversation.messages.at(-1).content = text;
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
  for (const drawer of name.startsWith('narrow') ? ['panel', 'list'] : []) {
    await check(`${name}, the ${drawer} open: ${says}`, async () => {
      await other.click(`[data-open-drawer=${drawer}]`);
      if (drawer === 'panel') await other.click('#glimpse');
      await fits(other, `#${drawer}`).finally(() => other.click(`#${drawer} [data-close-drawer]`));
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
