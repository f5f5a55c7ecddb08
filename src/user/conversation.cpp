// A conversation keeps its session, and with it what the model was fed, from answer to answer.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <thread>
#include <utility>

#include "base/no_denormals.h"
#include "base/reason.h"
#include "base/text.h"
#include "model/chat_format.h"
#include "rand/seed.h"
#include "user/cancellable.h"
#include "user/client_state.h"
#include "user/named_choice.h"
#include "user/stops.h"

namespace permllm {
namespace {

constexpr auto k_pause = std::chrono::milliseconds(200);  // between two looks for a provider that is restarted
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
      : client(std::move(client_state)),
        options(with),
        drafts(drafts_of(client->draft_model ? &*client->draft_model : nullptr,
                         with.draft == k_draft_chosen ? std::nullopt : std::optional(with.draft), client->executor)) {
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
    drafts.by->forget();
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
    return std::min<std::uint64_t>({asked, 1 + (plan.slots - rows) / block(), client->tokens_left});
  }
  // Rows of a pass, at most.
  std::size_t block() const { return drafts.length.most() + 1; }
  void open_session(const std::function<Wanted(const Plan&)>& wanted);
  class Answering;
  Answer ask(std::span<const TokenId> prompt, const AnswerOptions& how, const OnText& on_text,
             const OnProgress& on_progress);
  std::vector<TokenId> encode(const std::vector<Message>& all) const { return client->encode(all, options); }
  static void check_draft(const Client::Model& model, std::size_t draft);
  void use_draft(std::size_t draft);

  std::shared_ptr<Client::State> client;
  ConversationOptions options;
  Drafts drafts;  // beyond a session's end: their length is chosen once
  void tell(const AnswerProgress& progress) const {
    if (told_of && *told_of) (*told_of)(progress);
  }
  const OnProgress* told_of = nullptr;  // who hears of the answer under way; null: none is
  std::vector<Message> messages;        // the dialogue so far; with raw text none, or one with all of it
  std::atomic<bool> cancelled = false, answering = false, leaving = false;
  UserTraffic traffic, told;  // what the links carried so far; what they had when the last answer's cost was counted
  std::unique_ptr<MeasuredConversation> session;  // with what the model was fed; null: none yet, or it was lost
};

void Conversation::State::check_draft(const Client::Model& model, std::size_t draft) {
  static_assert(k_most_draft + 1 == k_most_heads);
  if (draft > k_most_draft && draft != k_draft_chosen)
    throw Error(Code::usage, "draft", fmt::format("{}, expected at most {}, or k_draft_chosen", draft, k_most_draft));
  if (draft > 0 && !model.drafts) {
    throw Error(Code::usage, "draft",
                fmt::format("in profile {} needs a client whose conversations may draft (ClientOptions::drafts)",
                            model.profile));
  }
}

// Passes of one session have rows for the same drafts.
void Conversation::State::use_draft(std::size_t draft) {
  if (draft == options.draft) return;
  check_draft(client->model, draft);
  leave();
  options.draft = draft;
  drafts = drafts_of(client->draft_model ? &*client->draft_model : nullptr,
                     draft == k_draft_chosen ? std::nullopt : std::optional(draft), client->executor);
}

void Conversation::State::open_session(const std::function<Wanted(const Plan&)>& wanted) {
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
                                                   client->ledger, client->model.drafts, wanted, &client->products);
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
        choice_(how, *client_.tokenizer, sampler_),
        named_(client_.model.named_logits),
        stops_(how.stop),
        raw_(client_.format(state.options).raw()),
        begin_(Clock::now()),
        ready_(begin_),
        first_(begin_),
        last_(begin_),
        start_(state.traffic.online),
        behind_set_up_(start_) {
    Client::check(client_.model, how);
    if (client_.tokens_left == 0) throw allowance_used_up(Code::usage, "tokens");
    answer_.end = Answer::End::length;
  }
  // Whatever is thrown ends the session. Where the answer was cancelled, nothing is thrown on, and the answer is what there is of it.
  Answer run(std::span<const TokenId> prompt) {
    prompt_ = prompt;
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
    std::vector<TokenId> ids(prompt.begin(), prompt.end());
    answer_.cost.prompt_tokens = ids.size();
    for (bool again = false;;) {
      const std::size_t there = answer_.tokens.size();
      try {
        run_session(ids);
        break;
      } catch (const Error& error) {
        if (state_.cancelled) throw;
        if (is_of_stock(error.reason()) && !began_) {
          // The session's own chain cannot be filled: another one's material may do. What a pass is refused for is another matter.
          if (out_of_stock_ && answer_.tokens.empty()) std::rethrow_exception(out_of_stock_);
          if (out_of_stock_) return end_with(Answer::End::stock);
          out_of_stock_ = std::current_exception();
        } else {
          // A provider that was restarted knows nothing of the session. Each session but the second brings a token, so there is an end.
          if (!is_over(error) || (again && answer_.tokens.size() == there)) throw;
          again = true;
          if (complete()) return end_with(answer_.end);
          ids.insert(ids.end(), answer_.tokens.begin() + static_cast<std::ptrdiff_t>(there), answer_.tokens.end());
          if (!answer_.tokens.empty()) restart();
        }
        state_.leave();
      }
    }
    note_range();
    if (answer_.end == Answer::End::length && (state_.session->out_of_stock() || short_))
      answer_.end = Answer::End::stock;
    finish_text();
    answer_.cost.fed_tokens = state_.session->prompted();
    if (state_.options.next_prompt > 0 && !state_.cancelled)
      state_.session->prepare(state_.options.next_prompt, k_start);
  }
  // What there is of the answer is all of it, and its session is of no more use.
  void end_with(Answer::End end) {
    answer_.end = end;
    finish_text();
    state_.leave();
  }
  // What is there of a character that a limit cut through is left out.
  void finish_text() {
    const std::string rest = characters_.finish();
    if (answer_.end == Answer::End::model) emit(stops_.push(rest));
    emit(stops_.finish());
  }
  // Whether the session came to an end that is none of the answer's: the provider ended it while nobody asked (perhaps to make room for others), or
  // was restarted; or it is new, and its connection was lost before its first pass, so that the provider does not keep it. An answer that has begun
  // goes on where the provider has forgotten its session, or is away so that no material can be made.
  bool is_over(const Error& error) const {
    if (error.reason() == Reason::allowance_used_up || !state_.session) return false;
    const bool closed = error.code() == Code::closed;
    if (closed && error.reason() == Reason::session_ended) return true;
    if (!answer_.tokens.empty()) return closed && error.field() == "stock" && client_.options.grace.count() > 0;
    return closed ? went_on_ || !state_.session->began()
                  : went_on_ && (error.code() == Code::timeout || error.code() == Code::resource);
  }
  bool complete() const { return ended_ || answer_.tokens.size() - said_before_ == most_; }
  void restart() {
    state_.tell({AnswerProgress::Stage::restarted, 0, 0, 0, 0});
    state_.answering = false;  // so that it can be given up while the new session reads
    trusted_ = trusted_ && answer_.trusted_tokens == answer_.tokens.size();
    said_before_ = answer_.tokens.size();
  }
  void run_session(const std::vector<TokenId>& ids) {
    // A session that has no room left is begun again.
    if (state_.session && room_for(ids) == 0) state_.leave();
    began_ = false;
    if (!state_.session) open(ids.size());
    went_on_ = state_.session->used();
    chances_.clear();  // what an earlier session sampled and did not tell is sampled anew
    taken_ = false;
    rejected_ = 0;
    state_.session->run(request_of(ids));
    charge_rejected();
  }
  // A provider that is restarted is away for a while, so it is tried for the time of grace.
  void open(std::size_t prompt) {
    const auto wanted = [&](const Plan& plan) {
      const std::size_t most = most_of(plan, prompt), enough = enough_of(most);
      return Wanted{prompt, out_of_stock_ ? most : enough, enough, state_.block() - 1, out_of_stock_ != nullptr};
    };
    for (const Clock::time_point end = Clock::now() + client_.options.grace;;) {
      try {
        return state_.open_session(wanted);
      } catch (const Error& error) {
        const Reason reason = reason_for_user(error);
        const bool away = reason == Reason::provider_unreachable || reason == Reason::busy;
        if (!away || said_before_ == 0 || state_.cancelled || Clock::now() >= end) throw;
      }
      std::this_thread::sleep_for(k_pause);
    }
  }
  // The longest answer that may still come.
  std::size_t most_of(const Plan& plan, std::size_t prompt) const {
    const std::size_t most = state_.most_tokens(plan, prompt, how_.max_tokens - answer_.tokens.size());
    if (most == 0) throw allowance_used_up(Code::usage, "tokens");  // by another conversation, meanwhile
    return most;
  }
  // Of it, tokens for which a session must have room.
  std::size_t enough_of(std::size_t most) const {
    return out_of_stock_ ? 1 : how_.enough_tokens == 0 ? most : std::min(how_.enough_tokens, most);
  }
  // How long an answer the session has room for; 0: not for a long enough one.
  std::size_t room_for(std::span<const TokenId> ids) const {
    const std::size_t most = most_of(state_.session->plan(), ids.size());
    const std::size_t room = std::min(most, state_.session->answer_room(ids, state_.block()));
    return room >= enough_of(most) ? room : 0;
  }

  MeasuredConversation::Request request_of(const std::vector<TokenId>& ids) {
    MeasuredConversation::Request request;
    request.ids = ids;
    request.max_tokens = most_ = std::max<std::size_t>(room_for(ids), 1);
    short_ = out_of_stock_ && most_ < most_of(state_.session->plan(), ids.size());
    request.drafts = &state_.drafts;
    request.ahead = state_.options.ahead;
    request.start = out_of_stock_ ? 1 : k_start;
    request.on_material = [this](const OfflineProgress& made) { state_.tell(progress_of(made)); };
    request.rows_left = [this] {
      charge_rejected();
      // The token that was sampled last is charged, and taken with the next pass.
      return static_cast<std::size_t>(client_.tokens_left - std::min<std::uint64_t>(client_.tokens_left, 1));
    };
    request.cancelled = [this] { return state_.cancelled.load(); };
    request.choose = [this, unit = state_.session->plan().choice_frac()](std::span<const std::int64_t> logits) {
      const std::size_t position = named_ && choice_.wanted() ? choice_.choose(logits, unit, prompt_, answer_.tokens)
                                                              : sampler_.choose(logits, unit);
      if (how_.hidden_state && answer_.hidden_state.empty()) answer_.hidden_state = state_.session->hidden_state();
      if (how_.log_probabilities) {
        if (std::exchange(taken_, false)) chances_.clear();  // of rows of a draft that are not kept
        chances_.push_back({{}, Sampler::log_probability(logits, unit, position), choice_.likeliest(logits, unit)});
      }
      return position;
    };
    request.on_ready = [this] {
      began_ = true;
      state_.tell({AnswerProgress::Stage::prompt, 0, 0, 0, 0});
      if (!answer_.tokens.empty()) return;
      ready_ = Clock::now();
      behind_set_up_ = state_.traffic.online;
    };
    request.on_read = [this](double share) {
      const double seconds = seconds_between(ready_, Clock::now());
      state_.tell({AnswerProgress::Stage::prompt, share, seconds, seconds * (1 / share - 1), 0});
    };
    request.on_token = [this](TokenId id) { return !(ended_ = !take(id)); };
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
    if (how_.log_probabilities) {
      answer_.log_probabilities.push_back(std::move(chances_.front()));
      answer_.log_probabilities.back().bytes = tokenizer.bytes(id);
      chances_.pop_front();
      taken_ = true;
    }
    note_range();
    client_.use_tokens(1);
    client_.set_ready(state_.session->chain(), tokens_of(state_.session->plan(), state_.session->ready()));
    state_.tell({AnswerProgress::Stage::answer, 0, 0, 0, id});
    if (tokenizer.is_end(id)) {
      answer_.end = Answer::End::model;
      return false;
    }
    const bool begins = answer_.cost.answer_tokens == 1 && !raw_ && !how_.goes_on;
    emit(stops_.push(characters_.push(begins ? tokenizer.decode({&id, 1}, true) : tokenizer.bytes(id))));
    if (how_.form) how_.form->add(tokenizer.bytes(id));
    const bool stopped = stops_.stopped() || (how_.form && how_.form->is_over());
    if (stopped) answer_.end = Answer::End::stop;
    if (stops_.stopped()) answer_.stop = stops_.by();
    return !stopped;
  }
  // The provider charges every row that an answer samples from: tokens of drafts that did not hold, too.
  void charge_rejected() {
    const std::size_t rejected = state_.session->drafted().rejected();
    client_.use_tokens(rejected - std::exchange(rejected_, rejected));
  }
  void note_range() {
    answer_.out_of_range = state_.session->out_of_range();
    if (trusted_) answer_.trusted_tokens = said_before_ + state_.session->trusted_tokens();
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
    if (state_.session) {
      const MeasuredConversation::Drafted& drafted = state_.session->drafted();
      cost.passes = drafted.passes;
      cost.drafted_tokens = drafted.drafted;
      cost.rejected_tokens = drafted.rejected();
      cost.rejected_bytes = drafted.rejected_bytes;
    }
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
  NamedChoice choice_;
  const bool named_;
  Stops stops_;
  const bool raw_;  // the answer goes on with the question's text
  std::span<const TokenId> prompt_;
  Utf8Stream characters_;
  Answer answer_;
  std::exception_ptr
      out_of_stock_;      // why the first session's chain could not be filled: from then on what is in stock has to do
  std::size_t most_ = 0;  // tokens of the answer in this session
  bool short_ = false;    // these are fewer than the answer may have, because no other material is there
  std::size_t rejected_ = 0;     // tokens of drafts that are charged
  std::size_t said_before_ = 0;  // in sessions before it that the provider forgot
  bool trusted_ = true;          // all of these
  bool went_on_ = false;         // the session was used by an answer before
  bool began_ = false;           // in this session, the material that it begins with being there
  // Of tokens that were chosen and not taken yet, where AnswerOptions::log_probabilities asks for it; whether one was taken since the last was chosen.
  std::deque<Answer::Chance> chances_;
  bool taken_ = false;
  bool ended_ = false;  // nothing is to come behind the answer's last token
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
  if (how.draft) use_draft(*how.draft);
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
  Conversation::State::check_draft(state_->model, options.draft);
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
  return state_->session && !ids.empty() ? state_->session->answer_room(ids, state_->block()) : 0;
}

void Conversation::cancel() noexcept { state_->cancelled = true; }
void Conversation::reset() { state_->reset(); }

}  // namespace permllm
