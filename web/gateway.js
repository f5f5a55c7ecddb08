// The gateway that served this page: each request of the page goes through here, and to the page's own origin.
import {ask} from './dom.js';

const k_key = 'permllm.key';  // in sessionStorage: gone with the tab

export class GatewayError extends Error {
  constructor(message, {status = 0, type = '', code = '', plain = '', retryAfter = null} = {}) {
    super(message);
    Object.assign(this, {status, type, code, told: plain, retryAfter});
  }

  // To ask the same again would not help.
  get lasting() { return this.status >= 400 && this.status < 500 && ![401, 408, 409, 429].includes(this.status); }

  // What a person can do about it, in the gateway's words where it knows; its message is shown below.
  get plain() {
    return this.told || ({
      gateway_unreachable: 'The gateway does not answer. Is permllm serve still running on this machine?',
      stream_cut: 'The connection to the gateway ended before the answer did.',
      invalid_api_key: 'The gateway asks for a key, and has none that it accepts.',
      foreign_host: 'The gateway does not serve this address. Open the one that permllm serve printed.',
      foreign_origin: 'The gateway does not serve this address. Open the one that permllm serve printed.',
      body_too_large: 'That is more text than the gateway takes at once.',
    }[this.code] ?? {
      429: 'Too many requests are waiting already.',
      502: 'The provider or the helper failed during this request.',
      503: 'The gateway cannot answer now.',
    }[this.status] ?? (this.status >= 500 || !this.message ? 'The gateway failed.' : this.message));
  }
}

function fault(body, status = 0, retryAfter = null) {
  const {message = '', type = '', code = '', plain = ''} = body?.error ?? {};
  return new GatewayError(message, {status, type, code: code ?? '', plain, retryAfter});
}

// The data of server-sent events; comments (pings) are passed over.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const {value, done} = await reader.read();
      if (done) return;
      const blocks = (rest + value).replaceAll('\r\n', '\n').split('\n\n');
      rest = blocks.pop();
      for (const block of blocks) {
        const data = block.split('\n').filter((line) => line.startsWith('data:')).map((line) => line.slice(5).trimStart());
        if (data.length) yield data.join('\n');
      }
    }
  } finally {
    reader.cancel().catch(() => {});  // it may have failed already
  }
}

export class Gateway {
  #asking = null;    // one dialog for all requests that wait for a key
  #declined = false; // then what runs in the background asks no more

  async privacy() { return (await this.#fetch('/v1/privacy')).json(); }

  async model(signal) { return (await (await this.#fetch('/v1/models', {signal, foreground: true})).json()).data?.[0]?.id; }

  // Yields {text}, {finish} and {usage} until the answer is whole.
  async *chat(body, signal) {
    const response = await this.#fetch('/v1/chat/completions', {
      method: 'POST', signal, foreground: true,
      headers: {'Content-Type': 'application/json'},
      body: JSON.stringify({...body, stream: true, stream_options: {include_usage: true}}),
    });
    try {
      for await (const data of events(response)) {
        if (data === '[DONE]') return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw fault(chunk);
        const choice = chunk.choices?.[0];
        if (choice?.delta?.content) yield {text: choice.delta.content};
        if (choice?.finish_reason) yield {finish: choice.finish_reason};
        if (chunk.usage) yield {usage: chunk.usage};
      }
    } catch (error) {
      if (signal.aborted || error instanceof GatewayError) throw error;
      throw new GatewayError(error.message, {code: 'stream_cut'});
    }
    throw new GatewayError('', {code: 'stream_cut'});
  }

  // Calls back with each event for as long as the page lives, and with null while there is no connection. A hidden page does not
  // listen: a browser has only six connections for all of its tabs.
  async watch(callback) {
    let controller;
    const silent = () => controller.abort();
    document.addEventListener('visibilitychange', () => { if (document.hidden) silent(); });
    for (let pause = 1000; ; pause = Math.min(2 * pause, 10000)) {
      while (document.hidden) await new Promise((resolve) => document.addEventListener('visibilitychange', resolve, {once: true}));
      controller = new AbortController();
      let timer = setTimeout(silent, 15000);  // the gateway speaks every 5 s at least
      try {
        for await (const data of events(await this.#fetch('/v1/activity', {signal: controller.signal}))) {
          clearTimeout(timer);
          timer = setTimeout(silent, 15000);
          pause = 500;
          callback(JSON.parse(data));
        }
        callback(null);
      } catch (error) {
        if (!document.hidden) callback(null, error.status === 401 ? 'It asks for a key' : 'Trying again');
      }
      clearTimeout(timer);
      if (!document.hidden) await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }

  async #fetch(path, {foreground = false, headers = {}, ...options} = {}) {
    for (;;) {
      const key = sessionStorage.getItem(k_key);
      let response;
      try {
        response = await fetch(path, {
          ...options, headers: key ? {...headers, Authorization: `Bearer ${key}`} : headers,
          mode: 'same-origin', redirect: 'error', cache: 'no-store', referrerPolicy: 'no-referrer',
        });
      } catch (error) {
        if (options.signal?.aborted) throw error;
        throw new GatewayError('', {code: 'gateway_unreachable'});
      }
      if (response.ok) return response;
      const body = await response.json().catch(() => null);
      if (response.status !== 401) {
        const wait = Number.parseInt(response.headers.get('Retry-After') ?? '', 10);
        throw fault(body, response.status, Number.isFinite(wait) ? wait : null);
      }
      if (key === sessionStorage.getItem(k_key) && !(await this.#newKey(key, foreground))) throw fault(body, 401);
    }
  }

  async #newKey(refused, foreground) {
    if (this.#declined && !foreground) return false;
    this.#asking ??= ask({
      title: 'This gateway asks for a key', ok: 'Use it', secret: true,
      words: `${refused ? 'That key was not accepted. ' : ''}permllm serve was given it at its start. It is kept until this tab closes.`,
    }).then((key) => {
      this.#asking = null;
      this.#declined = key === null;
      if (key !== null) sessionStorage.setItem(k_key, key);
      return key !== null;
    });
    return this.#asking;
  }
}
