// Canaries: prompts whose answers are known, asked among others' requests, so that a provider that answers otherwise than before is noticed.
// docs/serve.md, "Canaries".
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "gateway/desk.h"
#include "gateway/first_answers.h"

namespace permllm {

struct CanaryOptions {
  double rate = 0;  // canaries a request; 0: none
  std::string
      file;  // of {"prompt", "answer"}, one a line; empty: prompts of the program's own, whose first answers are kept
  std::filesystem::path kept;                // the folder of first answers; empty: in memory
  std::chrono::milliseconds patience{5000};  // how long one that is due waits for a moment in which nobody asks
};
// "1%" -> 0.01. Errors: usage.
double canary_rate(const std::string& text);

struct Canary {
  std::string prompt;
  std::string answer = {};  // that the model's begins with; empty: what was said first
};
// Errors: file, naming line and field.
std::vector<Canary> read_canaries(const std::string& file);

class Canaries {
 public:
  // provider: its key, as FirstAnswers has it. Desk, backend and log outlive it. Errors: those of read_canaries; file, where what is kept is damaged.
  Canaries(AnswerDesk& desk, const Backend& backend, const std::string& provider, const CanaryOptions& options,
           Log& log);
  ~Canaries();

  // A request has come: with the rate's chance a canary is due, which is asked once nobody asks, or, after some patience, among the others.
  void asked();

  // Each that was drawn is due, asked or dropped.
  struct Counts {
    std::uint64_t asked = 0;  // that were answered: right, wrong, first or unsure
    std::uint64_t wrong = 0, first = 0;
    std::uint64_t unsure = 0;   // not compared: the model was not sure of the first token when it was kept
    std::uint64_t due = 0;      // those that wait, and the one under way
    std::uint64_t dropped = 0;  // not answered, or not far enough; or due while as many were as may wait
    std::uint64_t tokens = 0, online_bytes = 0, offline_bytes = 0;  // that they took, prompts' tokens with them
    Counts& operator+=(const Counts& more);
  };
  Counts counts() const;

 private:
  enum class Verdict { right, wrong, first, unsure, cut };  // cut: it ended too early to tell

  void run(const std::stop_token& stop);
  // The next one. Errors: as AnswerDesk::ask, and file.
  Counts ask(const std::stop_token& stop);
  Verdict judge(const Canary& canary, const gateway::Choice& answer, bool cut);
  void tell(Verdict verdict);
  void tell_of_new_model(const std::string& model) const;
  void tell_where_none_is_checked();

  AnswerDesk& desk_;
  const Backend& backend_;
  const CanaryOptions options_;
  Log& log_;
  const std::vector<Canary> canaries_;
  mutable Mutex mutex_;
  std::condition_variable_any due_changed_;
  std::deque<std::chrono::steady_clock::time_point> due_ GUARDED_BY(mutex_);  // since when
  Counts counts_ GUARDED_BY(mutex_);
  // The thread's own, and before it the constructor's: the next canary, those that were told to be unsure, and whether all were.
  std::size_t next_ = 0;
  std::set<std::size_t> told_unsure_;
  bool told_none_is_checked_ = false;
  FirstAnswers kept_;  // of those without an answer
  std::jthread thread_;
};

}  // namespace permllm
