#include "gateway/canaries.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/clock.h"
#include "base/file.h"
#include "base/small_file.h"
#include "rand/seed.h"

namespace permllm {
namespace {

using gateway::Json;

constexpr std::size_t k_owner = SIZE_MAX;  // of their conversations: no key's
constexpr std::size_t k_answer = 12;       // tokens of an answer that is not given
constexpr std::size_t k_most = 1000;       // canaries
constexpr std::uint64_t k_most_due = 4;    // while nobody is idle no more are saved up
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

// The tokens of an answer of which the model was sure, from the first on, as hex: a token may be part of a character.
std::vector<std::string> sure_tokens(const std::vector<Answer::Chance>& of, bool all) {
  std::vector<std::string> tokens;
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

Canaries::Canaries(AnswerDesk& desk, const Backend& backend, const CanaryOptions& options, Log& log)
    : desk_(desk),
      backend_(backend),
      options_(options),
      log_(log),
      canaries_(options.file.empty() ? own_canaries() : read_canaries(options.file)) {
  if (options.rate == 0) return;
  if (!options.kept.empty() && is_there(options.kept)) {
    const Json json = Json::parse(read_small_file(options.kept), nullptr, false);
    try {
      const Lock lock(mutex_);
      json.at("models").get_to(kept_);
    } catch (const Json::exception&) {
      throw Error(Code::file, options.kept.string(), "the canaries' first answers are damaged: remove it");
    }
  }
  next_ = random_number() % canaries_.size();
  thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

Canaries::~Canaries() = default;

void Canaries::asked() {
  if (options_.rate == 0 || std::ldexp(static_cast<double>(random_number()), -64) >= options_.rate) return;
  {
    const Lock lock(mutex_);
    due_ = std::min(due_ + 1, k_most_due);
  }
  due_changed_.notify_all();
}

Canaries::Counts Canaries::counts() const {
  const Lock lock(mutex_);
  return counts_;
}

void Canaries::run(const std::stop_token& stop) {
  for (;;) {
    {
      Lock lock(mutex_);
      if (!due_changed_.wait(lock, stop, [&]() REQUIRES(mutex_) { return due_ > 0; })) return;
    }
    const AnswerDesk::Now now = desk_.now();
    if (now.active + now.queued > 0) {  // others come first
      Lock lock(mutex_);
      due_changed_.wait_for(lock, stop, k_look, [] { return false; });
      if (stop.stop_requested()) return;
      continue;
    }
    {
      const Lock lock(mutex_);
      --due_;
    }
    const Canary& canary = canaries_[next_];
    next_ = (next_ + 1) % canaries_.size();
    try {
      ask(canary, stop);
    } catch (const Error& error) {
      log_.write(Log::Level::info, "canary_not_asked", error.what());
    } catch (const std::exception&) {  // what it says is not told: it may hold anything
      log_.write(Log::Level::warn, "canary_not_asked", "this program made a mistake");
    }
  }
}

// As any request: at the desk, by a conversation of the pool.
void Canaries::ask(const Canary& canary, const std::stop_token& stop) {
  gateway::Request request;
  request.messages = {{"user", canary.prompt}};
  request.answer.temperature = 0;
  request.answer.log_probabilities = true;
  request.max_tokens = k_answer;
  if (!canary.answer.empty()) {
    ConversationOptions raw;
    raw.chat_format = "none";
    request.max_tokens = backend_.tokenize({{"user", canary.answer}}, raw).size() + 4;  // text may be cut otherwise
  }
  const auto ticket = desk_.ask(k_owner, std::move(request), gateway::Head::of("", ""), "", "");
  AnswerJob& job = **ticket;
  const std::stop_callback cancel(stop, [&] { job.cancel(); });
  while (!job.done()) job.wait(SIZE_MAX, Clock::now() + std::chrono::seconds(1));
  if (const auto failure = job.failure()) {
    log_.write(Log::Level::info, "canary_not_asked", failure->code.empty() ? "it was not answered" : failure->code);
    return;
  }
  const gateway::Made made = job.made();
  bool first = false;
  const bool right = is_right(canary, made.choices.at(0), first);
  const Answer::Cost& cost = made.costs.cost;
  const auto sum = [](const Answer::Bytes& bytes) { return bytes.sent + bytes.received; };
  if (right) {
    log_.write(Log::Level::info, "canary",
               first ? "a canary's first answer is kept" : "a canary was answered as before");
  } else {
    log_.write(
        Log::Level::error, "canary_wrong",
        "a canary was answered otherwise than it should be: the provider does not serve the model that it did, or "
        "does not compute it rightly");
  }
  {
    const Lock lock(mutex_);
    ++counts_.asked;
    counts_.wrong += right ? 0 : 1;
    counts_.first += first ? 1 : 0;
    counts_.tokens += cost.prompt_tokens + cost.answer_tokens;
    counts_.online_bytes += sum(cost.online) + sum(cost.set_up);
    counts_.offline_bytes += sum(cost.offline_provider) + sum(cost.offline_helper);
  }
}

bool Canaries::is_right(const Canary& canary, const gateway::Choice& answer, bool& first) {
  if (!canary.answer.empty()) return trimmed(answer.text).starts_with(trimmed(canary.answer));
  const Lock lock(mutex_);
  std::vector<std::string>& before = kept_[backend_.model().name][canary.prompt];
  const std::vector<std::string> tokens = sure_tokens(answer.log_probabilities, true);
  if (before.empty()) {
    before = sure_tokens(answer.log_probabilities, false);
    first = true;
    keep();
    return true;
  }
  // An answer that ended early for want of material is not wrong for that.
  const std::size_t both = std::min(before.size(), tokens.size());
  return both > 0 && std::equal(before.begin(), before.begin() + static_cast<std::ptrdiff_t>(both), tokens.begin());
}

void Canaries::keep() const {
  if (options_.kept.empty()) return;
  replace_file(options_.kept, Json{{"models", kept_}}.dump() + "\n", 0600);
}

}  // namespace permllm
