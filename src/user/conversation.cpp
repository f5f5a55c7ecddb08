// A conversation keeps its session, and with it what the model was fed, from answer to answer.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>

#include "base/no_denormals.h"
#include "base/reason.h"
#include "base/text.h"
#include "model/chat_format.h"
#include "rand/seed.h"
#include "user/cancellable.h"
#include "user/client_state.h"
#include "user/sampler.h"
#include "user/stops.h"

namespace permllm {
namespace {

constexpr std::size_t k_start =
    16;  // tokens of an answer for which material is there before it begins; the rest is made beside it

SamplingOptions sampling_of(const AnswerOptions& o) {
  const SamplingOptions sampling{.temperature = o.temperature,
                                 .top_k = o.top_k,
                                 .top_p = o.top_p,
                                 .min_p = o.min_p,
                                 .seed = o.seed ? *o.seed : random_number()};
  sampling.check();
  if (o.max_tokens < 1) throw Error(Code::usage, "max_tokens", "0, expected 1 or more");
  for (const std::string& text : o.stop) {
    if (text.empty()) throw Error(Code::usage, "stop", "a text is empty");
  }
  return sampling;
}

}  // namespace

struct Conversation::State {
  State(std::shared_ptr<Client::State> client_state, const ConversationOptions& with)
      : client(std::move(client_state)), options(with) {
    reset();
  }

  ~State() { leave(); }
  bool raw() const { return options.chat_format == "none"; }
  // Ends the session in order, where it still stands.
  void leave() {
    leaving = true;  // so that no connection is dialled again only to say goodbye
    try {
      if (session) session->end();
    } catch (const Error&) {  // of no interest: the answers are there
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
  // How long an answer may be: the least of what was asked for, what the context has room for and what the invite allows.
  std::size_t most_tokens(const Plan& plan, std::size_t prompt, std::size_t asked) const {
    plan.check_prompt(prompt);
    const std::size_t rows = plan.prompt_rows(prompt);
    if (rows >= plan.slots) {
      throw Error(Code::usage, Reason::context_exceeded, "conversation",
                  fmt::format("{} tokens do not fit the context of {}", prompt, plan.slots));
    }
    return std::min<std::uint64_t>({asked, 1 + (plan.slots - rows) / (options.draft + 1), client->tokens_left});
  }
  void open_session(std::size_t room = 1);
  class Answering;
  Answer ask(std::span<const TokenId> prompt, const AnswerOptions& how, const OnText& on_text,
             const OnProgress& on_progress);
  std::vector<TokenId> encode(const std::vector<Message>& all) const { return client->encode(all, options); }

  std::shared_ptr<Client::State> client;
  ConversationOptions options;
  void tell(const AnswerProgress& progress) const {
    if (told_of && *told_of) (*told_of)(progress);
  }
  const OnProgress* told_of = nullptr;  // who hears of the answer under way; null: none is
  std::vector<Message> messages;        // the dialogue so far; with raw text none, or one with all of it
  std::atomic<bool> cancelled = false, answering = false, leaving = false;
  UserTraffic traffic, told;  // what the links carried so far; what they had when the last answer's cost was counted
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
  session = std::make_unique<MeasuredConversation>(links, LinkShape{}, client->options.patience, client->executor,
                                                   client->ledger, room);
  client->know(session->card());
  if (session->plan().hash() != client->plan_hash) {
    session = nullptr;
    throw Error(Code::mismatch, Reason::model_changed, "model",
                "the provider serves another model, or the same otherwise, than when this program began");
  }
}

// One answer, from its question on.
class Conversation::State::Answering {
 public:
  Answering(State& state, const AnswerOptions& how, const OnText& on_text)
      : state_(state),
        client_(*state.client),
        how_(how),
        on_text_(on_text),
        sampler_(sampling_of(how)),
        stops_(how.stop),
        raw_(client_.format(state.options).raw()),
        begin_(Clock::now()),
        ready_(begin_),
        first_(begin_),
        last_(begin_),
        start_(state.traffic.online),
        behind_set_up_(start_) {
    if (client_.tokens_left == 0) throw allowance_used_up(Code::usage, "tokens");
    answer_.end = Answer::End::length;
  }
  // Whatever is thrown ends the session. Where the answer was cancelled, nothing is thrown on, and the answer is what there is of it.
  Answer run(std::span<const TokenId> prompt) {
    try {
      ask(prompt);
    } catch (...) {
      state_.session = nullptr;  // nobody knows in which state its last pass left it
      if (!state_.cancelled) throw;
    }
    if (state_.cancelled) answer_.end = Answer::End::cancelled;
    count_cost();
    return std::move(answer_);
  }

 private:
  void ask(std::span<const TokenId> prompt) {
    if (!state_.session) state_.open_session();
    const MeasuredConversation::Request request = request_of(prompt);
    // A session that has no room left, or that the provider ended while nobody asked (perhaps to make room for others), is begun again; so is a
    // new one whose connection is lost before its first pass, which the provider does not keep.
    if (!state_.session->fits(request)) begin_again(request);
    const bool went_on = state_.session->used();
    try {
      state_.session->run(request);
    } catch (const Error& error) {
      const bool gone = error.code() == Code::closed
                            ? went_on || !state_.session->began()
                            : went_on && (error.code() == Code::timeout || error.code() == Code::resource);
      if (state_.answering || state_.cancelled || !gone || error.reason() == Reason::allowance_used_up) throw;
      begin_again(request);
      state_.session->run(request);
    }
    note_range();
    emit(stops_.push(characters_.finish()));
    emit(stops_.finish());
    answer_.cost.fed_tokens = state_.session->prompted();
    if (state_.options.next_prompt > 0 && !state_.cancelled)
      state_.session->prepare(state_.options.next_prompt, k_start);
  }
  void begin_again(const MeasuredConversation::Request& request) {
    state_.open_session(state_.session->slots_afresh(request));
  }

  MeasuredConversation::Request request_of(std::span<const TokenId> prompt) {
    MeasuredConversation::Request request;
    request.ids.assign(prompt.begin(), prompt.end());
    answer_.cost.prompt_tokens = request.ids.size();
    request.max_tokens = state_.most_tokens(state_.session->plan(), request.ids.size(), how_.max_tokens);
    if (request.max_tokens == 0) throw allowance_used_up(Code::usage, "tokens");  // by another conversation, meanwhile
    request.draft = state_.options.draft;
    request.ahead = state_.options.ahead;
    request.start = k_start;
    request.on_material = [this](const OfflineProgress& made) { state_.tell(progress_of(made)); };
    request.choose = [this, unit = state_.session->plan().choice_frac()](std::span<const std::int64_t> logits) {
      return sampler_.choose(logits, unit);
    };
    request.on_ready = [this] {
      ready_ = Clock::now();
      state_.tell({AnswerProgress::Stage::prompt, 0, 0, 0, 0});
      behind_set_up_ = state_.traffic.online;
    };
    request.on_read = [this](double share) {
      const double seconds = seconds_between(ready_, Clock::now());
      state_.tell({AnswerProgress::Stage::prompt, share, seconds, seconds * (1 / share - 1), 0});
    };
    request.on_token = [this](TokenId id) { return take(id); };
    return request;
  }
  // Takes a token of the answer; returns whether another is wanted.
  bool take(TokenId id) {
    state_.answering = true;
    if (state_.cancelled) return false;
    const Tokenizer& tokenizer = *client_.tokenizer;
    last_ = Clock::now();
    if (++answer_.cost.answer_tokens == 1) first_ = last_;
    answer_.tokens.push_back(id);
    note_range();
    client_.use_token();
    client_.set_ready(state_.session->chain(), tokens_of(state_.session->plan(), state_.session->ready()));
    state_.tell({AnswerProgress::Stage::answer, 0, 0, 0, id});
    if (tokenizer.is_end(id)) {
      answer_.end = Answer::End::model;
      return false;
    }
    const bool begins = answer_.cost.answer_tokens == 1 && !raw_;
    emit(stops_.push(characters_.push(begins ? tokenizer.decode({&id, 1}, true) : tokenizer.bytes(id))));
    if (stops_.stopped()) answer_.end = Answer::End::stop;
    return !stops_.stopped() && client_.tokens_left > 0;
  }
  void note_range() {
    answer_.out_of_range = state_.session->out_of_range();
    answer_.trusted_tokens = state_.session->trusted_tokens();
  }
  void emit(const std::string& text) {
    answer_.text += text;
    if (on_text_ && !text.empty()) on_text_(text);
  }
  void count_cost() {
    const permllm::Traffic during = state_.traffic.online - behind_set_up_;
    const UserTraffic now = state_.traffic;
    Answer::Cost& cost = answer_.cost;
    cost.set_up = bytes_of(behind_set_up_ - start_);
    cost.online = bytes_of(during);
    cost.offline_provider = bytes_of(now.offline - state_.told.offline);
    cost.offline_helper = bytes_of(now.helper - state_.told.helper);
    state_.told = now;
    cost.round_trips = during.round_trips;
    cost.offline_seconds = seconds_between(begin_, ready_);
    cost.first_token_seconds = seconds_between(ready_, std::max(ready_, first_));
    cost.token_seconds =
        cost.answer_tokens < 2 ? 0 : seconds_between(first_, last_) / static_cast<double>(cost.answer_tokens - 1);
    cost.seconds = seconds_between(begin_, Clock::now());
    cost.tokens_left = client_.tokens_left;
  }

  State& state_;
  Client::State& client_;
  const AnswerOptions& how_;
  const OnText& on_text_;
  Sampler sampler_;
  Stops stops_;
  const bool raw_;  // the answer goes on with the question's text
  Utf8Stream characters_;
  Answer answer_;
  const Clock::time_point begin_;
  Clock::time_point ready_, first_, last_;
  const permllm::Traffic start_;
  permllm::Traffic behind_set_up_;  // where the prompt's pass begins
};

Answer Conversation::State::ask(std::span<const TokenId> prompt, const AnswerOptions& how, const OnText& on_text,
                                const OnProgress& on_progress) {
  if (prompt.empty()) throw Error(Code::usage, "text", "has no tokens");
  const std::size_t vocabulary = client->vocabulary.tokens.size();
  if (std::any_of(prompt.begin(), prompt.end(), [&](TokenId id) { return id >= vocabulary; }))
    throw Error(Code::usage, "ids", fmt::format("one is none of the vocabulary, which has {}", vocabulary));
  const NoDenormals no_denormals;
  answering = false;
  told_of = &on_progress;
  const std::unique_ptr<State, void (*)(State*)> until_it_ends(this, [](State* state) { state->told_of = nullptr; });
  return Answering(*this, how, on_text).run(prompt);
}

Conversation Client::conversation(const ConversationOptions& options) const {
  // A template that is none is refused here, not with the first question.
  state_->format(options);
  if (options.chat_format == "none" && !options.system.empty())
    throw Error(Code::usage, "system", "needs a chat format other than none");
  if (options.draft > 63) throw Error(Code::usage, "draft", fmt::format("{}, expected at most 63", options.draft));
  if (options.draft > 0 && !state_->model.drafts) throw no_drafts(profile_of(state_->model.profile));
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
  Answer answer = state_->ask(state_->encode(messages), options, on_text, state_->options.on_progress);
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
  return state_->ask(state_->encode(messages), options, on_text, state_->options.on_progress);
}
Answer Conversation::answer(std::span<const std::uint32_t> ids, const AnswerOptions& options, const OnText& on_text,
                            const OnProgress& on_progress) {
  state_->cancelled = false;
  return state_->ask(ids, options, on_text, on_progress ? on_progress : state_->options.on_progress);
}

std::size_t Conversation::in_common(const std::vector<Message>& messages) const {
  return state_->session ? in_common(state_->encode(messages)) : 0;
}
std::size_t Conversation::in_common(std::span<const std::uint32_t> ids) const {
  return state_->session && !ids.empty() ? state_->session->in_common(ids) : 0;
}

std::size_t Conversation::room(const std::vector<Message>& messages) const {
  return state_->session ? room(state_->encode(messages)) : 0;
}
std::size_t Conversation::room(std::span<const std::uint32_t> ids) const {
  return state_->session && !ids.empty() ? state_->session->answer_room(ids, state_->options.draft) : 0;
}

void Conversation::cancel() noexcept { state_->cancelled = true; }
void Conversation::reset() { state_->reset(); }

}  // namespace permllm
