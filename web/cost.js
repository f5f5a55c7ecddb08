// What an answer cost, as the gateway counted it.
import {count, el, megabytes, plural, seconds, speed} from './dom.js';

const number = (value) => (Number.isFinite(value) ? value : 0);

// The gateway's counters, as its activity has them.
function counters({online, offline_provider: provider, offline_helper: helper, tokens}) {
  return {
    completion_tokens: tokens, sent: online.sent, received: online.received, round_trips: online.round_trips,
    to_provider: provider.sent, from_provider: provider.received, to_helper: helper.sent, from_helper: helper.received,
  };
}

// Of an answer that ended without a count of its own: what the gateway's counters grew by between two of its reports. `shared`: others were answered, too.
export function between(before, after, shared) {
  const [from, to] = [counters(before), counters(after)];
  const grown = Object.fromEntries(Object.entries(to).map(([name, value]) => [name, Math.max(0, number(value) - number(from[name]))]));
  const {completion_tokens: tokens, sent, received, round_trips: trips, ...offline} = grown;
  return {completion_tokens: tokens, counted: true, shared, permllm: {online_bytes: {sent, received}, offline_bytes: offline, round_trips: trips}};
}

// What was asked for several times adds up.
function sum(usages) {
  const all = {prompt: 0, cached: 0, tokens: 0, sent: 0, received: 0, offline: 0, setUp: 0, trips: 0, drafted: 0, rejected: 0, material: 0, first: 0, total: 0};
  for (const usage of usages) {
    const own = usage.permllm ?? {};
    const time = own.seconds ?? {};
    all.prompt += number(usage.prompt_tokens);
    all.cached += number(usage.prompt_tokens_details?.cached_tokens);
    all.tokens += number(usage.completion_tokens);
    all.sent += number(own.online_bytes?.sent);
    all.received += number(own.online_bytes?.received);
    for (const part of ['to_provider', 'from_provider', 'to_helper', 'from_helper']) all.offline += number(own.offline_bytes?.[part]);
    all.setUp += number(own.set_up_bytes?.sent) + number(own.set_up_bytes?.received);
    all.trips += number(own.round_trips);
    all.drafted += number(own.drafts?.tokens);
    all.rejected += number(own.drafts?.rejected);
    all.material += number(time.offline);
    all.first += number(time.first_token);
    all.total += number(time.total);
  }
  const last = usages.at(-1)?.permllm ?? {};
  return {...all, perToken: number(last.seconds?.per_token), profile: last.profile, left: last.tokens_left, counted: usages.some(({counted}) => counted), shared: usages.some(({shared}) => shared)};
}

// On one line: what a person looks for first.
export function inShort({usages, seconds: whole}) {
  const parts = [];
  const all = sum(usages);
  if (usages.length) parts.push(plural(all.tokens, 'token'));
  if (all.total || whole) parts.push(seconds(all.total || whole));
  return parts.join('  \u00b7  ');
}

// What there is to say of how it ended.
export function remarks({usages, finish, stopped}) {
  const own = usages.at(-1)?.permllm ?? {};
  const all = [];
  if (number(own.out_of_range) > 0) {
    all.push(number(own.trusted_tokens) > 0 ? `not to be trusted behind its first ${plural(own.trusted_tokens, 'token')}: inner numbers left the model's range`
      : "not to be trusted: inner numbers left the model's range");
  }
  if (stopped) all.push('stopped');
  else if (finish === 'length') all.push(own.tokens_left === 0 ? 'ended: the allowance of the invite is used up' : 'ended at the limit of tokens');
  return all.join('  \u00b7  ');
}

// All of it, as a list of terms.
export function table({usages}) {
  const all = sum(usages);
  const rows = [];
  const row = (name, ...words) => rows.push([name, words.filter(Boolean).join(', ')]);
  if (all.prompt) row('Question, with what came before', plural(all.prompt, 'token'), all.cached && `${count(all.cached)} of them kept from before`);
  row('Answer', plural(all.tokens, 'token'), all.perToken > 0 && `${speed(1 / all.perToken)} a second`);
  if (all.total) row('Time', seconds(all.total), `${seconds(all.material)} for material`, `${seconds(all.first)} to the first token`);
  row('Online, with the provider', `${megabytes(all.sent)} MB sent`, `${megabytes(all.received)} MB received`, plural(all.trips, 'round trip'));
  row('Offline material', `${megabytes(all.offline)} MB`);
  if (all.setUp) row('Set-up', `${megabytes(all.setUp)} MB`);
  if (all.drafted) row('Drafts', plural(all.drafted, 'token'), `${count(all.rejected)} rejected`);
  if (all.profile) row('Profile', String(all.profile));
  if (Number.isFinite(all.left)) row('Left of the invite', plural(all.left, 'token'));
  const note = all.counted ? [el('p.caption', {}, `It ended early, so this is what the gateway's counters grew by meanwhile${all.shared ? ', other answers included' : ''}.`)] : [];
  return el('div.cost', {}, el('dl', {}, ...rows.map(([name, words]) => el('div', {}, el('dt', {}, name), el('dd', {}, words)))), ...note);
}
