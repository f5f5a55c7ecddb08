// The public API over the user's side of the engine. A conversation keeps its session, and with it what the model was fed, from answer to answer.
#include "permllm/client.h"

#include <fmt/format.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <atomic>

#include "app/measure.h"
#include "app/user_state.h"
#include "engine/sampler.h"
#include "model/chat_format.h"
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
  Frame receive(Clock::time_point deadline, const char* awaited) override { return link_->receive(deadline, awaited); }
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

double seconds_between(Clock::time_point begin, Clock::time_point end) { return std::chrono::duration<double>(end - begin).count(); }
Answer::Bytes bytes_of(const Traffic& traffic) { return {traffic.sent.payload_bytes, traffic.received.payload_bytes}; }

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
  State(const std::filesystem::path& path, const ClientOptions& options)
      : invite(load_invite(path)), ledger(user_ledger(options.state)), patience(options.patience), executor(options.threads) {
    UserTraffic traffic;
    const Card card = read_card(links_of(invite, {}, patience, traffic), patience);
    tokens_left = card.tokens_left;
    const Plan& plan = card.plan;
    model = {plan.config.name, plan.config.architecture, name_of(plan.profile), name_of(plan.retrieval), plan.slots, plan.config.layers};
    views.provider = fmt::format("uniform words{}, lengths and timing: how many tokens prompt and answer have, nothing of what they are",
                                 plan.bfv() ? " and ciphertexts" : "");
    views.helper = "how much material was asked for; it takes no part in an answer";
    views.user = plan.open() ? "its own questions and answers, and all that the public weights make of them"
                             : fmt::format("its own questions and answers, {}the model's inner values in an order drawn afresh for each use, "
                                           "none of its weights (a barrier to extraction, not a guarantee)",
                                           plan.profile == Profile::fast ? "attention scores with their keys in order, other of " : "");
  }
  // One token of an answer less.
  void use_token() {
    std::uint64_t left = tokens_left;
    while (left > 0 && !tokens_left.compare_exchange_weak(left, left - 1)) {}
  }

  Invite invite;
  Ledger ledger;
  Clock::duration patience;
  Executor executor;
  Party provider{invite.provider_address, invite.provider_pin}, helper{invite.helper_address, invite.helper_pin};
  Model model;
  Views views;
  std::atomic<std::uint64_t> tokens_left = 0;  // of answers
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

struct Conversation::State {
  State(std::shared_ptr<Client::State> client_state, const ConversationOptions& with) : client(std::move(client_state)), options(with) { reset(); }

  bool raw() const { return options.chat_format == "none"; }
  void reset() {
    session = nullptr;
    messages.clear();
    if (!options.system.empty() && !raw()) messages.push_back({"system", options.system});
  }
  std::vector<ChatMessage> with(const std::string& text) const {
    std::vector<ChatMessage> all = messages;
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
  Answer ask(const std::vector<ChatMessage>& prompt, const AnswerOptions& how, const OnText& on_text);

  std::shared_ptr<Client::State> client;
  ConversationOptions options;
  std::vector<ChatMessage> messages;  // raw: none or one
  std::atomic<bool> cancelled = false, answering = false;
  UserTraffic traffic;
  std::unique_ptr<MeasuredConversation> session;  // with what the model was fed; null: none yet, or it was lost
};

void Conversation::State::open_session(std::size_t room) {
  session = nullptr;
  const auto links = [&](UserTraffic&) {
    const UserLinks all = links_of(client->invite, {}, client->patience, traffic);
    const auto cancellable = [&](const std::function<std::unique_ptr<Link>()>& dial) {
      return [this, dial]() -> std::unique_ptr<Link> { return std::make_unique<Cancellable>(dial(), cancelled, answering); };
    };
    return UserLinks{cancellable(all.online), cancellable(all.offline), cancellable(all.helper)};
  };
  session = std::make_unique<MeasuredConversation>(links, LinkShape{}, client->patience, true, client->executor, client->ledger, room);
}

Answer Conversation::State::ask(const std::vector<ChatMessage>& prompt, const AnswerOptions& how, const OnText& on_text) {
  Sampler sampler(sampling_of(how));
  if (client->tokens_left == 0) {
    throw Error(Code::usage, "tokens", fmt::format("all {} of the invite are used; ask the provider for another", client->invite.tokens));
  }
  const NoDenormals no_denormals;
  const Clock::time_point begin = Clock::now();
  Clock::time_point ready = begin, first = begin, last = begin;
  Traffic before;  // online traffic when the prompt's pass begins
  const UserTraffic start = traffic;
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
    const Tokenizer tokenizer(session->vocabulary());
    const ChatFormat format = options.chat_format.empty() ? ChatFormat::from_template(session->vocabulary().chat_template) : ChatFormat::named(options.chat_format);
    MeasuredConversation::Request request;
    request.ids = format.encode(tokenizer, prompt, options.think);
    if (request.ids.empty()) throw Error(Code::usage, "text", "has no tokens");
    answer.cost.prompt_tokens = request.ids.size();
    request.max_tokens = most_tokens(session->plan(), request.ids.size(), how.max_tokens);
    request.draft = options.draft;
    request.choose = [&](std::span<const std::int64_t> logits) { return sampler.choose(logits, frac::logit); };
    request.on_ready = [&] {
      ready = Clock::now();
      before = traffic.online;
    };
    Utf8Stream characters;
    request.on_token = [&](TokenId id) {
      answering = true;
      if (cancelled) return false;
      last = Clock::now();
      if (++answer.cost.answer_tokens == 1) first = last;
      client->use_token();
      if (tokenizer.is_end(id)) {
        answer.end = Answer::End::model;
        return false;
      }
      emit(stops.push(characters.push(answer.cost.answer_tokens == 1 ? tokenizer.decode({&id, 1}, true) : tokenizer.bytes(id))));
      if (stops.stopped()) answer.end = Answer::End::stop;
      return !stops.stopped() && client->tokens_left > 0;
    };
    // A session that has no room left, or that the provider ended while nobody asked, is begun again.
    if (!session->fits(request)) open_session(session->slots_afresh(request));
    const bool went_on = session->used();
    try {
      session->run(request);
    } catch (const Error& error) {
      if (!went_on || answering || cancelled || (error.code() != Code::closed && error.code() != Code::timeout)) throw;
      open_session(session->slots_afresh(request));
      session->run(request);
    }
    emit(stops.push(characters.finish()));
    emit(stops.finish());
    answer.cost.fed_tokens = session->prompted();
  } catch (...) {
    session = nullptr;  // what its last pass left is not known
    if (!cancelled) throw;
  }
  if (cancelled) answer.end = Answer::End::cancelled;
  const Traffic during = traffic.online - before;

  Answer::Cost& cost = answer.cost;
  cost.set_up = bytes_of(before - start.online);
  cost.online = bytes_of(during);
  cost.offline_provider = bytes_of(traffic.offline - start.offline);
  cost.offline_helper = bytes_of(traffic.helper - start.helper);
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
  std::vector<ChatMessage> messages = state_->with(text);
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

void Conversation::cancel() noexcept { state_->cancelled = true; }
void Conversation::reset() { state_->reset(); }

}  // namespace permllm
