// The public API over the user's side of the engine. A conversation keeps its session, and with it what the model was fed, from answer to answer.
#include "permllm/client.h"

#include <fmt/format.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>

#include "user/measure.h"
#include "user/user_state.h"
#include "base/text.h"
#include "user/sampler.h"
#include "model/chat_format.h"
#include "plan/leak.h"
#include "rand/seed.h"

namespace permllm {
namespace {

// While it lives, numbers too small for the usual format count as 0 in this thread and those that it starts: their slow path
// would tell of values in time.
class NoDenormals {
 public:
#if defined(__SSE2__)
  NoDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~NoDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#else
  NoDenormals() {}
#endif
};

// A link that gives up once the answer is cancelled, while there is no token yet by which it could end in order.
class Cancellable : public Link {
 public:
  Cancellable(std::unique_ptr<Link> link, const std::atomic<bool>& cancelled, const std::atomic<bool>& answering)
      : link_(std::move(link)), cancelled_(cancelled), answering_(answering) {}
  void send(Frame frame) override {
    if (cancelled_ && !answering_ && !is_of_link(frame.tag)) throw Error(Code::usage, "answer", "cancelled");  // closed would be a cut that the link mends
    link_->send(std::move(frame));
  }
  void flush() override { link_->flush(); }
  Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) override { return link_->receive(deadline, awaited, most); }
  void close() override { link_->close(); }

 private:
  std::unique_ptr<Link> link_;
  const std::atomic<bool>&cancelled_, &answering_;
};

// Lets text through up to the first stop text; holds back what may become one.
class Stops {
 public:
  explicit Stops(const std::vector<std::string>& texts) : texts_(texts) {}

  std::string push(std::string_view piece) {
    if (stopped_) return {};
    held_ += piece;
    std::size_t end = std::string::npos;
    for (const std::string& text : texts_) end = std::min(end, held_.find(text));
    stopped_ = end != std::string::npos;
    if (!stopped_) {
      end = held_.size();
      for (const std::string& text : texts_) {
        for (std::size_t size = std::min(text.size() - 1, held_.size()); size > 0; --size) {
          if (!held_.ends_with(std::string_view(text).substr(0, size))) continue;
          end = std::min(end, held_.size() - size);
          break;
        }
      }
    }
    std::string out = held_.substr(0, end);
    held_.erase(0, end);
    return out;
  }
  std::string finish() { return stopped_ ? std::string() : std::exchange(held_, {}); }
  bool stopped() const { return stopped_; }

 private:
  const std::vector<std::string>& texts_;
  std::string held_;
  bool stopped_ = false;
};

constexpr std::size_t k_start = 16;  // tokens of an answer for which material is there before it begins; the rest is made beside it

double seconds_between(Clock::time_point begin, Clock::time_point end) { return std::chrono::duration<double>(end - begin).count(); }
Answer::Bytes bytes_of(const permllm::Traffic& traffic) { return {traffic.sent.payload_bytes, traffic.received.payload_bytes}; }

AnswerProgress progress_of(const OfflineProgress& made) {
  return {AnswerProgress::Stage::material, made.fraction, made.seconds, made.fraction > 0 ? made.seconds * (1 / made.fraction - 1) : 0, 0};
}

// Of a question and its answer, for which this much material is enough. A question takes entries where the weights are not public, an answer
// passes, both slots.
std::size_t tokens_of(const Plan& plan, const Marks& made) {
  if (plan.open()) return made[k_slot_kind];
  const std::size_t entries = made[k_entry_kind], passes = made[k_pass_kind];
  return entries == 0 || passes == 0 ? 0 : std::min<std::size_t>(made[k_slot_kind], entries + passes);
}

// Ids of a whole conversation, up to where the answer begins.
std::vector<TokenId> encode(const Tokenizer& tokenizer, const Vocabulary& vocabulary, const std::vector<Message>& messages, const ConversationOptions& options) {
  const ChatFormat format = options.chat_format.empty() ? ChatFormat::from_template(vocabulary.chat_template) : ChatFormat::named(options.chat_format);
  std::vector<ChatMessage> all;
  for (const Message& message : messages) all.push_back({message.role, message.content});
  return format.encode(tokenizer, all, options.think);
}

// The i-th of the chains that no session has used, the fullest first; a new one where there are not so many.
UserClient::Choose fresh_chain(std::size_t i) {
  return [i, fresh = std::vector<ChainChoice>{}](std::span<const ChainChoice> chains) mutable -> const ChainChoice* {
    fresh.clear();
    std::copy_if(chains.begin(), chains.end(), std::back_inserter(fresh), [](const ChainChoice& chain) { return chain.fresh(); });
    std::sort(fresh.begin(), fresh.end(), [](const ChainChoice& a, const ChainChoice& b) { return a.ready() > b.ready(); });
    return i < fresh.size() ? &fresh[i] : nullptr;
  };
}

SamplingOptions sampling_of(const AnswerOptions& o) {
  const SamplingOptions sampling{o.temperature, o.top_k, o.top_p, o.min_p, o.seed ? *o.seed : random_number()};
  sampling.check();
  if (o.max_tokens < 1) throw Error(Code::usage, "max_tokens", "0, expected 1 or more");
  for (const std::string& text : o.stop) {
    if (text.empty()) throw Error(Code::usage, "stop", "a text is empty");
  }
  return sampling;
}

}  // namespace

struct Client::State {
  State(const std::filesystem::path& path, const ClientOptions& with)
      : invite(load_invite(path)), ledger(user_ledger(with.state)), options(with), executor(with.threads) {
    Card card = read_card(links(spent), options.patience);
    tokens_left = card.tokens_left;
    know(card);
    plan_hash = card.plan.hash();
    const Plan& plan = card.plan;
    model = {for_terminal(plan.config.name), for_terminal(plan.config.architecture), card.model_id, name_of(plan.profile), name_of(plan.retrieval), plan.slots,
             plan.config.layers};
    views = {seen_by(Role::provider, plan), seen_by(Role::helper, plan), seen_by(Role::user, plan)};
    views.user.insert(views.user.begin(), "your own questions and answers");
    vocabulary = std::move(card.vocabulary);
    tokenizer.emplace(vocabulary);
  }
  UserLinks links(UserTraffic& counted) {
    UserLinks all = links_of(invite, {}, options.patience, counted, &traffic);
    all.grace = options.grace;
    return all;
  }
  // What a card says of the chains. Its count of tokens is for a start: sessions under way are charged some ahead.
  void know(const Card& card) {
    const std::lock_guard lock(mutex);
    ready.clear();
    for (const Chain& chain : chains_of(card)) ready[chain.number] = chain.tokens;
  }
  std::vector<Chain> chains_of(const Card& card) {
    std::vector<Chain> chains;
    for (const ChainRecord& own : ledger.chains({}, card.model_id)) {
      const auto there = std::find_if(card.chains.begin(), card.chains.end(), [&](const ChainState& s) { return s.chain == own.chain; });
      if (there == card.chains.end()) continue;
      const Marks burnt = later_of(own.burnt, there->burnt), made = between(burnt, there->made);
      const std::size_t used = burnt[k_slot_kind];
      chains.push_back({own.chain, tokens_of(card.plan, made), card.plan.open() ? made[k_slot_kind] : made[k_entry_kind], made[k_pass_kind], used,
                        card.plan.slots - std::min(card.plan.slots, used), there->busy || ledger.held(own.chain)});
    }
    return chains;
  }
  void set_ready(std::uint64_t chain, std::size_t tokens) {
    const std::lock_guard lock(mutex);
    ready[chain] = tokens;
  }
  // One token of an answer less.
  void use_token() {
    std::uint64_t left = tokens_left;
    while (left > 0 && !tokens_left.compare_exchange_weak(left, left - 1)) {}
  }

  Invite invite;
  Ledger ledger;
  ClientOptions options;
  Executor executor;
  UserTraffic traffic;  // of all conversations
  UserTraffic spent;    // of links that belong to none
  Party provider{invite.provider_address, invite.provider_pin}, helper{invite.helper_address, invite.helper_pin};
  std::string plan_hash;
  Model model;
  Views views;
  Vocabulary vocabulary;
  std::optional<Tokenizer> tokenizer;
  std::atomic<std::uint64_t> tokens_left = 0;  // of answers
  std::mutex mutex;
  std::map<std::uint64_t, std::size_t> ready;  // tokens of each chain
};

Client::Client(const std::filesystem::path& invite, const ClientOptions& options) {
  const NoDenormals no_denormals;
  state_ = std::make_shared<State>(invite, options);
}
Client::~Client() = default;
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;

const Client::Party& Client::provider() const { return state_->provider; }
const Client::Party& Client::helper() const { return state_->helper; }
const Client::Model& Client::model() const { return state_->model; }
const Client::Views& Client::views() const { return state_->views; }
std::uint64_t Client::tokens_left() const { return state_->tokens_left; }

std::vector<std::uint32_t> Client::tokenize(std::string_view text) const { return state_->tokenizer->encode(text, false); }
std::vector<std::uint32_t> Client::tokenize(const std::vector<Message>& messages, const ConversationOptions& options) const {
  return encode(*state_->tokenizer, state_->vocabulary, messages, options);
}

std::vector<Client::Chain> Client::stock() const {
  const Card card = read_card(state_->links(state_->spent), state_->options.patience);
  state_->know(card);
  return state_->chains_of(card);
}

std::size_t Client::ready_tokens() const {
  const std::lock_guard lock(state_->mutex);
  std::size_t tokens = 0;
  for (const auto& [chain, of_it] : state_->ready) tokens += of_it;
  return tokens;
}

double Client::fill(std::size_t i, std::size_t tokens, std::size_t answer_tokens, const OnProgress& on_progress) const {
  const NoDenormals no_denormals;
  UserTraffic counted;
  UserClient client(state_->links(counted), state_->ledger, state_->executor, state_->options.patience, fresh_chain(i));
  const Plan& plan = client.card().plan;
  const auto slots = static_cast<std::uint32_t>(std::min(tokens, plan.slots));
  auto answers = static_cast<std::uint32_t>(std::min<std::size_t>(answer_tokens, slots)), entries = slots;
  if (plan.prompt_slots != 0) {  // one prompt of that length: the rest is its answer's
    entries = static_cast<std::uint32_t>(std::min<std::size_t>(slots, plan.prompt_slots + 1));
    answers = std::max(answers, slots - entries);
  }
  const Marks target{{slots, plan.open() ? 0 : entries, answers, plan.bfv() ? answers : 0}};
  client.fill(target, [&](const OfflineProgress& made) {
    if (on_progress) on_progress(progress_of(made));
  });
  const double seconds = client.filler().seconds();
  state_->set_ready(client.chain(), tokens_of(plan, client.filler().made()));
  client.end();
  return seconds;
}

Client::Traffic Client::traffic() const {
  const UserTraffic& t = state_->traffic;
  return {bytes_of(t.online), bytes_of(t.offline), bytes_of(t.helper), t.online.round_trips};
}

struct Conversation::State {
  State(std::shared_ptr<Client::State> client_state, const ConversationOptions& with) : client(std::move(client_state)), options(with) { reset(); }

  ~State() { leave(); }
  bool raw() const { return options.chat_format == "none"; }
  // Ends the session in order, where it still stands.
  void leave() {
    leaving = true;  // a connection that is lost by now is not made again
    try {
      if (session) session->end();
    } catch (const Error&) {  // the answers are there
    }
    session = nullptr;
    leaving = false;
  }
  void reset() {
    leave();
    messages.clear();
    if (!options.system.empty() && !raw()) messages.push_back({"system", options.system});
  }
  std::vector<Message> with(const std::string& text) const {
    std::vector<Message> all = messages;
    if (raw() && !all.empty()) {
      all.back().content += text;
    } else {
      all.push_back({"user", text});
    }
    return all;
  }
  // How long an answer may be: as asked, as the model has room, as the invite allows.
  std::size_t most_tokens(const Plan& plan, std::size_t prompt, std::size_t asked) const {
    plan.check_prompt(prompt);
    const std::size_t rows = plan.prompt_rows(prompt);
    if (rows >= plan.slots) {
      throw Error(Code::usage, "conversation", fmt::format("{} tokens do not fit the context of {}; reset it or begin another", prompt, plan.slots));
    }
    return std::min<std::uint64_t>({asked, 1 + (plan.slots - rows) / (options.draft + 1), client->tokens_left});
  }
  void open_session(std::size_t room = 1);
  Answer ask(const std::vector<Message>& prompt, const AnswerOptions& how, const OnText& on_text);

  std::shared_ptr<Client::State> client;
  ConversationOptions options;
  void tell(const AnswerProgress& progress) const {
    if (!options.on_progress) return;
    const std::lock_guard lock(telling);
    options.on_progress(progress);
  }
  mutable std::mutex telling;     // one thread after the other
  std::vector<Message> messages;  // raw: none or one
  std::atomic<bool> cancelled = false, answering = false, leaving = false;
  UserTraffic traffic, told;  // so far; and when the last answer's cost was told
  std::unique_ptr<MeasuredConversation> session;  // with what the model was fed; null: none yet, or it was lost
};

void Conversation::State::open_session(std::size_t room) {
  leave();
  tell({AnswerProgress::Stage::connecting, 0, 0, 0, 0});
  const auto links = [&](UserTraffic&) {
    const UserLinks all = client->links(traffic);
    const auto cancellable = [&](const std::function<std::unique_ptr<Link>()>& dial) {
      return [this, dial]() -> std::unique_ptr<Link> {
        if (leaving) throw Error(Code::usage, "session", "is over");
        return std::make_unique<Cancellable>(dial(), cancelled, answering);
      };
    };
    const auto online = [this, dial = cancellable(all.online)] {
      const bool again = session != nullptr && !leaving;
      if (again && cancelled) throw Error(Code::usage, "answer", "cancelled");
      if (again) tell({AnswerProgress::Stage::reconnecting, 0, 0, 0, 0});
      auto link = dial();
      if (again && !answering) tell({AnswerProgress::Stage::prompt, 0, 0, 0, 0});
      return link;
    };
    return UserLinks{online, cancellable(all.offline), cancellable(all.helper), all.grace};
  };
  session = std::make_unique<MeasuredConversation>(links, LinkShape{}, client->options.patience, client->executor, client->ledger, room);
  client->know(session->card());
  if (session->plan().hash() != client->plan_hash) {
    session = nullptr;
    throw Error(Code::mismatch, "model", "the provider serves another model, or the same otherwise, than when this program began; start it again");
  }
}

Answer Conversation::State::ask(const std::vector<Message>& prompt, const AnswerOptions& how, const OnText& on_text) {
  Sampler sampler(sampling_of(how));
  const auto used_up = [&] { return Error(Code::usage, "tokens", fmt::format("all {} of the invite are used; ask the provider for another", client->invite.tokens)); };
  if (client->tokens_left == 0) throw used_up();
  const NoDenormals no_denormals;
  const Clock::time_point begin = Clock::now();
  Clock::time_point ready = begin, first = begin, last = begin;
  const permllm::Traffic start = traffic.online;
  permllm::Traffic before = start;  // the prompt's pass
  answering = false;

  Answer answer;
  answer.end = Answer::End::length;
  Stops stops(how.stop);
  const auto emit = [&](const std::string& text) {
    answer.text += text;
    if (on_text && !text.empty()) on_text(text);
  };
  try {
    if (!session) open_session();
    const Tokenizer& tokenizer = *client->tokenizer;
    MeasuredConversation::Request request;
    request.ids = encode(tokenizer, client->vocabulary, prompt, options);
    if (request.ids.empty()) throw Error(Code::usage, "text", "has no tokens");
    answer.cost.prompt_tokens = request.ids.size();
    request.max_tokens = most_tokens(session->plan(), request.ids.size(), how.max_tokens);
    if (request.max_tokens == 0) throw used_up();  // by another conversation, meanwhile
    request.draft = options.draft;
    request.ahead = options.ahead;
    request.start = k_start;
    request.on_material = [this](const OfflineProgress& made) { tell(progress_of(made)); };
    request.choose = [&](std::span<const std::int64_t> logits) { return sampler.choose(logits, frac::logit); };
    request.on_ready = [&] {
      ready = Clock::now();
      tell({AnswerProgress::Stage::prompt, 0, 0, 0, 0});
      before = traffic.online;
    };
    request.on_read = [&](double share) {
      const double seconds = seconds_between(ready, Clock::now());
      tell({AnswerProgress::Stage::prompt, share, seconds, seconds * (1 / share - 1), 0});
    };
    Utf8Stream characters;
    request.on_token = [&](TokenId id) {
      answering = true;
      if (cancelled) return false;
      last = Clock::now();
      if (++answer.cost.answer_tokens == 1) first = last;
      answer.tokens.push_back(id);
      client->use_token();
      client->set_ready(session->chain(), tokens_of(session->plan(), session->ready()));
      tell({AnswerProgress::Stage::answer, 0, 0, 0, id});
      if (tokenizer.is_end(id)) {
        answer.end = Answer::End::model;
        return false;
      }
      emit(stops.push(characters.push(answer.cost.answer_tokens == 1 ? tokenizer.decode({&id, 1}, true) : tokenizer.bytes(id))));
      if (stops.stopped()) answer.end = Answer::End::stop;
      return !stops.stopped() && client->tokens_left > 0;
    };
    // A session that has no room left, or that the provider ended while nobody asked (perhaps to make room for others), is begun again; so is a
    // new one whose connection is lost before its first pass, which the provider does not keep.
    if (!session->fits(request)) open_session(session->slots_afresh(request));
    const bool went_on = session->used();
    try {
      session->run(request);
    } catch (const Error& error) {
      const bool gone = error.code() == Code::closed ? went_on || !session->began()
                                                     : went_on && (error.code() == Code::timeout || error.code() == Code::resource);
      if (answering || cancelled || !gone) throw;
      open_session(session->slots_afresh(request));
      session->run(request);
    }
    emit(stops.push(characters.finish()));
    emit(stops.finish());
    answer.cost.fed_tokens = session->prompted();
    if (options.next_prompt > 0 && !cancelled) session->prepare(options.next_prompt, k_start);
  } catch (...) {
    session = nullptr;  // what its last pass left is not known
    if (!cancelled) throw;
  }
  if (cancelled) answer.end = Answer::End::cancelled;
  const permllm::Traffic during = traffic.online - before;

  Answer::Cost& cost = answer.cost;
  cost.set_up = bytes_of(before - start);
  cost.online = bytes_of(during);
  const UserTraffic now = traffic;
  cost.offline_provider = bytes_of(now.offline - told.offline);
  cost.offline_helper = bytes_of(now.helper - told.helper);
  told = now;
  cost.round_trips = during.round_trips;
  cost.offline_seconds = seconds_between(begin, ready);
  cost.first_token_seconds = seconds_between(ready, std::max(ready, first));
  cost.token_seconds = cost.answer_tokens < 2 ? 0 : seconds_between(first, last) / static_cast<double>(cost.answer_tokens - 1);
  cost.seconds = seconds_between(begin, Clock::now());
  cost.tokens_left = client->tokens_left;
  return answer;
}

Conversation Client::conversation(const ConversationOptions& options) const {
  if (!options.chat_format.empty()) ChatFormat::named(options.chat_format);
  if (options.chat_format == "none" && !options.system.empty()) throw Error(Code::usage, "system", "needs a chat format other than none");
  if (options.draft > 63) throw Error(Code::usage, "draft", fmt::format("{}, expected at most 63", options.draft));
  if (options.draft > 0 && state_->model.profile != name_of(Profile::open)) {
    throw Error(Code::usage, "draft", fmt::format("needs profile open, this provider serves {}", state_->model.profile));
  }
  return Conversation(std::make_unique<Conversation::State>(state_, options));
}

Conversation::Conversation(std::unique_ptr<State> state) : state_(std::move(state)) {}
Conversation::~Conversation() = default;
Conversation::Conversation(Conversation&&) noexcept = default;
Conversation& Conversation::operator=(Conversation&&) noexcept = default;

Answer Conversation::ask(const std::string& text, const AnswerOptions& options, const OnText& on_text) {
  if (text.empty()) throw Error(Code::usage, "text", "is empty");
  state_->cancelled = false;
  std::vector<Message> messages = state_->with(text);
  Answer answer = state_->ask(messages, options, on_text);
  if (answer.text.empty() && answer.end == Answer::End::cancelled) return answer;
  if (state_->raw()) {
    messages.back().content += answer.text;
  } else {
    messages.push_back({"assistant", answer.text});
  }
  state_->messages = std::move(messages);
  return answer;
}

Answer Conversation::answer(const std::vector<Message>& messages, const AnswerOptions& options, const OnText& on_text) {
  state_->cancelled = false;
  return state_->ask(messages, options, on_text);
}

std::size_t Conversation::in_common(const std::vector<Message>& messages) const {
  if (!state_->session) return 0;
  const auto ids = encode(*state_->client->tokenizer, state_->client->vocabulary, messages, state_->options);
  return ids.empty() ? 0 : state_->session->in_common(ids);
}

std::size_t Conversation::room(const std::vector<Message>& messages) const {
  if (!state_->session) return 0;
  const auto ids = encode(*state_->client->tokenizer, state_->client->vocabulary, messages, state_->options);
  return ids.empty() ? 0 : state_->session->answer_room(ids, state_->options.draft);
}

void Conversation::cancel() noexcept { state_->cancelled = true; }
void Conversation::reset() { state_->reset(); }

}  // namespace permllm
