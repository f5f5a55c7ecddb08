#include "gateway/canaries.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "base/clock.h"
#include "base/small_file.h"
#include "rand/seed.h"

namespace permllm {
namespace {

using gateway::Json;

constexpr std::size_t k_owner = SIZE_MAX;  // of their conversations: no key's
constexpr std::size_t k_answer = 12;       // tokens of an answer that is not given
constexpr std::size_t k_most = 1000;       // canaries
constexpr std::size_t k_most_due = 4;      // while all are busy no more are saved up
constexpr auto k_look = std::chrono::milliseconds(100);
// A token that has less than this of the model's likelihood may be another in the next run: the last bits of a private answer are noise.
constexpr double k_sure = 0.6;

// Everyday questions of several lengths with answers that models are sure of.
constexpr const char* k_prompts[] = {
    "What is the capital of France? Answer with one word.",
    "Count from one to five in words.",
    "Which planet do we live on?",
    "Repeat after me: the quick brown fox jumps over the lazy dog.",
    "What colour is the sky on a clear day? Answer in one word.",
    "Write the first three letters of the alphabet, separated by commas, and nothing else.",
    "How many days are there in a week? Answer with a number only.",
    "Say hello in Spanish.",
};

std::vector<Canary> own_canaries() {
  std::vector<Canary> canaries;
  for (const char* prompt : k_prompts) canaries.push_back({prompt});
  return canaries;
}

std::string trimmed(const std::string& text) {
  const char* blank = " \t\r\n";
  const std::size_t begin = text.find_first_not_of(blank);
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(blank) - begin + 1);
}

// Of an answer that was cut: a character of which a part was not made is no part of it.
std::string without_broken_end(std::string text) {
  constexpr std::string_view broken = "\xef\xbf\xbd";
  while (text.ends_with(broken)) text.resize(text.size() - broken.size());
  return text;
}

// The tokens of an answer of which the model was sure, from the first on, as hex: a token may be part of a character.
FirstAnswers::Tokens sure_tokens(const std::vector<Answer::Chance>& of, bool all) {
  FirstAnswers::Tokens tokens;
  for (const Answer::Chance& token : of) {
    if (!all && token.log_probability < std::log(k_sure)) break;
    tokens.push_back(hex({reinterpret_cast<const std::uint8_t*>(token.bytes.data()), token.bytes.size()}));
  }
  return tokens;
}

}  // namespace

double canary_rate(const std::string& text) {
  double percent = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, percent);
  if (error != std::errc() || std::string(rest, end) != "%" || !(percent >= 0 && percent <= 100))
    throw Error(Code::usage, "--canaries", fmt::format("\"{:.20}\", expected 0% to 100%, like 1%", text));
  return percent / 100;
}

std::vector<Canary> read_canaries(const std::string& file) {
  std::vector<Canary> canaries;
  const std::string text = read_small_file(file);
  for (std::size_t at = 0, line = 1; at < text.size(); ++line) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string one = trimmed(text.substr(at, end - at));
    at = end + 1;
    if (one.empty()) continue;
    const auto fail = [&](const std::string& why) {
      throw Error(Code::file, file, fmt::format("line {}: {}", line, why));
    };
    const Json json = Json::parse(one, nullptr, false);
    if (!json.is_object()) fail("expected an object like {\"prompt\": \"...\", \"answer\": \"...\"}");
    Canary canary;
    for (const auto& [name, to] : {std::pair{"prompt", &canary.prompt}, {"answer", &canary.answer}}) {
      const auto found = json.find(name);
      if (found == json.end() || !found->is_string() || trimmed(found->get<std::string>()).empty())
        fail(fmt::format("{}: expected a text", name));
      *to = found->get<std::string>();
    }
    canaries.push_back(std::move(canary));
    if (canaries.size() > k_most) fail(fmt::format("expected at most {} canaries", k_most));
  }
  if (canaries.empty()) throw Error(Code::file, file, "has no canary, expected one a line");
  return canaries;
}

Canaries::Canaries(AnswerDesk& desk, const Backend& backend, const std::string& provider, const CanaryOptions& options,
                   Log& log)
    : desk_(desk),
      backend_(backend),
      options_(options),
      log_(log),
      canaries_(options.file.empty() ? own_canaries() : read_canaries(options.file)),
      kept_(options.kept, provider, backend.model().name) {
  if (options.rate == 0) return;
  if (options.file.empty()) {
    tell_of_new_model(backend.model().name);
    tell_where_none_is_checked();
  }
  next_ = random_number() % canaries_.size();
  thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

Canaries::~Canaries() = default;

void Canaries::asked() {
  if (options_.rate == 0 || std::ldexp(static_cast<double>(random_number()), -64) >= options_.rate) return;
  {
    const Lock lock(mutex_);
    if (due_.size() < k_most_due) {
      due_.push_back(Clock::now());
    } else {
      ++counts_.dropped;
    }
  }
  due_changed_.notify_all();
}

Canaries::Counts& Canaries::Counts::operator+=(const Counts& more) {
  for (std::uint64_t Counts::*count :
       {&Counts::asked, &Counts::wrong, &Counts::first, &Counts::unsure, &Counts::due, &Counts::dropped,
        &Counts::tokens, &Counts::online_bytes, &Counts::offline_bytes})
    this->*count += more.*count;
  return *this;
}

Canaries::Counts Canaries::counts() const {
  const Lock lock(mutex_);
  Counts counts = counts_;
  counts.due = due_.size();
  return counts;
}

void Canaries::run(const std::stop_token& stop) {
  bool full = false;  // the desk took no more when it was asked last
  for (;;) {
    Clock::time_point since;
    {
      Lock lock(mutex_);
      if (!due_changed_.wait(lock, stop, [&]() REQUIRES(mutex_) { return !due_.empty(); })) return;
      since = due_.front();
    }
    const AnswerDesk::Now now = desk_.now();
    if (full || (now.active + now.queued > 0 && Clock::now() < since + options_.patience)) {  // others come first
      full = false;
      Lock lock(mutex_);
      due_changed_.wait_for(lock, stop, k_look, [] { return false; });
      if (stop.stop_requested()) return;
      continue;
    }
    std::optional<Counts> counts;
    try {
      counts = ask(stop);
    } catch (const Error& error) {
      if (error.reason() == Reason::queue_full) {
        full = true;
        continue;
      }
      log_.write(Log::Level::info, "canary_not_asked", error.what());
    } catch (const std::exception&) {  // what it says is not told: it may hold anything
      log_.write(Log::Level::warn, "canary_not_asked", "this program made a mistake");
    }
    next_ = (next_ + 1) % canaries_.size();
    const Lock lock(mutex_);
    due_.pop_front();
    counts_ += counts.value_or(Counts{.dropped = 1});
  }
}

// As any request: at the desk, by a conversation of the pool.
Canaries::Counts Canaries::ask(const std::stop_token& stop) {
  const Canary& canary = canaries_[next_];
  gateway::Request request;
  request.messages = {{"user", canary.prompt}};
  request.answer.temperature = 0;
  request.answer.log_probabilities = true;
  std::size_t most = k_answer;
  if (!canary.answer.empty()) {
    ConversationOptions raw;
    raw.chat_format = "none";
    most = backend_.tokenize({{"user", canary.answer}}, raw).size() + 4;  // text may be cut otherwise
  }
  request.max_tokens = most;
  const auto ticket = desk_.ask(k_owner, std::move(request), gateway::Head::of("", ""), "", "");
  AnswerJob& job = **ticket;
  const std::stop_callback cancel(stop, [&] { job.cancel(); });
  while (!job.done()) job.wait(SIZE_MAX, Clock::now() + std::chrono::seconds(1));
  if (const auto failure = job.failure()) {
    log_.write(Log::Level::info, "canary_not_asked", failure->code.empty() ? "it was not answered" : failure->code);
    return {.dropped = 1};
  }
  const gateway::Made made = job.made();
  const gateway::Choice& answer = made.choices.at(0);
  const Answer::Cost& cost = made.costs.cost;
  // For want of material, of allowance or of room in the context.
  const bool cut = answer.end == Answer::End::stock || (answer.end == Answer::End::length && cost.answer_tokens < most);
  const Verdict verdict = judge(canary, answer, cut);
  tell(verdict);
  const auto sum = [](const Answer::Bytes& bytes) { return bytes.sent + bytes.received; };
  const auto one_if = [](bool holds) { return std::uint64_t{holds}; };
  return {.asked = one_if(verdict != Verdict::cut),
          .wrong = one_if(verdict == Verdict::wrong),
          .first = one_if(verdict == Verdict::first),
          .unsure = one_if(verdict == Verdict::unsure),
          .dropped = one_if(verdict == Verdict::cut),
          .tokens = cost.prompt_tokens + cost.answer_tokens,
          .online_bytes = sum(cost.online) + sum(cost.set_up),
          .offline_bytes = sum(cost.offline_provider) + sum(cost.offline_helper)};
}

// An answer that was cut is wrong where what there is of it is other than it should be: else a provider could cut those that it cannot give.
Canaries::Verdict Canaries::judge(const Canary& canary, const gateway::Choice& answer, bool cut) {
  if (!canary.answer.empty()) {
    const std::string known = trimmed(canary.answer);
    const std::string said = trimmed(cut ? without_broken_end(answer.text) : answer.text);
    if (said.starts_with(known)) return Verdict::right;
    return cut && known.starts_with(said) ? Verdict::cut : Verdict::wrong;
  }
  const FirstAnswers::Tokens said = sure_tokens(answer.log_probabilities, true);
  const auto before = kept_.find(canary.prompt);
  if (!before) {
    if (cut) return Verdict::cut;
    const FirstAnswers::Tokens sure = sure_tokens(answer.log_probabilities, false);
    kept_.keep(canary.prompt, sure);
    return sure.empty() ? Verdict::unsure : Verdict::first;
  }
  if (before->empty()) return Verdict::unsure;
  const std::size_t both = std::min(before->size(), said.size());
  if (both == 0) return cut ? Verdict::cut : Verdict::wrong;
  return std::equal(said.begin(), said.begin() + static_cast<std::ptrdiff_t>(both), before->begin()) ? Verdict::right
                                                                                                     : Verdict::wrong;
}

void Canaries::tell(Verdict verdict) {
  switch (verdict) {
    case Verdict::right:
      return log_.write(Log::Level::info, "canary", "a canary was answered as before");
    case Verdict::first:
      return log_.write(Log::Level::info, "canary", "a canary's first answer is kept");
    case Verdict::cut:
      return log_.write(Log::Level::info, "canary_not_asked",
                        "its answer ended early, for want of material, allowance or context");
    case Verdict::wrong:
      return log_.write(
          Log::Level::error, "canary_wrong",
          "a canary was answered otherwise than it should be: the provider does not serve the model that it did, or "
          "does not compute it rightly");
    case Verdict::unsure:
      if (told_unsure_.insert(next_).second) {
        log_.write(Log::Level::warn, "canary_unsure",
                   fmt::format("canary {} of {} is not compared: the model was not sure of its answer's first token",
                               next_ + 1, canaries_.size()));
      }
      return tell_where_none_is_checked();
  }
}

void Canaries::tell_of_new_model(const std::string& model) const {
  const std::vector<std::string> models = kept_.models();
  if (models.empty() || std::find(models.begin(), models.end(), model) != models.end()) return;
  log_.write(
      Log::Level::warn, "canary_model_new",
      fmt::format("no answer by \"{}\" is kept, but those of \"{}\" are, of the same provider ({} in all): what it "
                  "serves under a new name is not compared with what it served before",
                  model, models.front(), models.size()));
}

void Canaries::tell_where_none_is_checked() {
  const auto unsure = [&](const Canary& canary) {
    const auto kept = kept_.find(canary.prompt);
    return kept && kept->empty();
  };
  if (told_none_is_checked_ || !std::all_of(canaries_.begin(), canaries_.end(), unsure)) return;
  told_none_is_checked_ = true;
  log_.write(Log::Level::error, "canaries_unsure",
             "no canary checks anything: the model was not sure of the first token of any answer; give a "
             "--canary-file with answers of a run that you trust");
}

}  // namespace permllm
