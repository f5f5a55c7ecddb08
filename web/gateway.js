// The gateway that served this page: each request of the page goes through here, and to the page's own origin.
import {ask} from './dom.js';

const k_key = 'permllm.key';  // in sessionStorage: gone with the tab

// What happened, in a line, by the gateway's reason; where it names none, by its code, else by the status.
const k_headlines = {
  allowance_used_up: 'The allowance of your invite is used up', context_exceeded: 'This is longer than the model can read',
  context_length_exceeded: 'This is longer than the model can read', queue_full: 'Too many requests are waiting', busy: 'The provider or the helper is busy',
  provider_busy: 'The provider is busy', session_ended: 'The provider ended the session', provider_unreachable: 'The provider is away',
  helper_unreachable: 'The helper is away, and no offline material is left', out_of_stock: 'No offline material is left',
  stock_full: 'The provider keeps no more offline material for you', disk_full: 'A disk for offline material is full',
  model_changed: 'The provider serves another model than before', model_missing: "The helper does not hold the provider's model",
  version: 'The programs are of different releases', invite_revoked: 'Your invite is no longer accepted', certificate_expired: 'A certificate has expired',
  not_trusted: "A party's certificate is not trusted", peer_fault: 'The provider or the helper failed', model_not_found: 'The gateway does not serve this model',
  invalid_api_key: 'The gateway asks for a key', gateway_unreachable: 'The gateway does not answer', stream_cut: 'The connection ended before the answer did',
  foreign_host: 'The gateway does not serve this address', foreign_origin: 'The gateway does not serve this address', body_too_large: 'That is more text than the gateway takes',
  unsupported_parameter: 'The gateway does not take one of the settings', cancelled: 'The answer was cancelled at the gateway',
};
const k_by_status = {400: 'The gateway does not take this request', 429: 'Too many requests are waiting', 502: 'The provider or the helper failed', 503: 'The gateway cannot answer now'};
const k_remedies = {
  gateway_unreachable: 'Is permllm serve still running on this machine?', stream_cut: 'What came of it is kept.',
  invalid_api_key: 'It has none that it accepts. Ask whoever started permllm serve.', foreign_host: 'Open the one that permllm serve printed.',
  foreign_origin: 'Open the one that permllm serve printed.', unsupported_parameter: 'Leave it empty.',
};

export class GatewayError extends Error {
  constructor(message, {status = 0, type = '', code = '', reason = '', plain = '', retryAfter = null} = {}) {
    super(message);
    Object.assign(this, {status, type, code, reason, plain, retryAfter});
  }

  // To ask the same again would not help.
  get lasting() {
    return this.code === 'allowance_used_up' || (this.status >= 400 && this.status < 500 && ![401, 408, 409, 429].includes(this.status));
  }

  // For a person: what happened, what can be done about it, in the gateway's words where it knows, and its message.
  told() {
    const headline = k_headlines[this.reason] ?? k_headlines[this.code] ?? k_by_status[this.status] ?? 'The gateway failed';
    const plain = this.plain || k_remedies[this.code] || '';
    return {headline, plain, detail: this.message === plain ? '' : this.message, lasting: this.lasting};
  }
}

function fault(body, status = 0, retryAfter = null) {
  const {message, type, code, reason, plain} = body?.error ?? {};
  const text = (value) => (typeof value === 'string' ? value : '');
  return new GatewayError(text(message), {status, type: text(type), code: text(code), reason: text(reason), plain: text(plain), retryAfter});
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

  // Yields {thought}, {text}, {finish} and {usage} until the answer is whole.
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
        if (choice?.delta?.reasoning_content) yield {thought: choice.delta.reasoning_content};
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
