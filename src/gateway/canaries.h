// Canaries: prompts whose answers are known, asked among others' requests, so that a provider that answers otherwise than before is noticed.
// docs/serve.md, "Canaries".
#pragma once

#include <condition_variable>
#include <filesystem>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "gateway/desk.h"

namespace permllm {

struct CanaryOptions {
  double rate = 0;  // canaries a request; 0: none
  std::string
      file;  // of {"prompt", "answer"}, one a line; empty: prompts of the program's own, whose first answers are kept
  std::filesystem::path kept;  // the file of first answers; empty: in memory
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
  // Desk, backend and log outlive it. Errors: those of read_canaries; file, where what is kept is damaged.
  Canaries(AnswerDesk& desk, const Backend& backend, const CanaryOptions& options, Log& log);
  ~Canaries();

  // A request has come: with the rate's chance a canary follows, once nobody asks.
  void asked();

  struct Counts {
    std::uint64_t asked = 0;  // that were answered: right, wrong or first
    std::uint64_t wrong = 0, first = 0;
    std::uint64_t tokens = 0, online_bytes = 0, offline_bytes = 0;  // that they took, prompts' tokens with them
  };
  Counts counts() const;

 private:
  void run(const std::stop_token& stop);
  void ask(const Canary& canary, const std::stop_token& stop);
  bool is_right(const Canary& canary, const gateway::Choice& answer, bool& first);
  void keep() const REQUIRES(mutex_);

  AnswerDesk& desk_;
  const Backend& backend_;
  const CanaryOptions options_;
  Log& log_;
  const std::vector<Canary> canaries_;
  mutable Mutex mutex_;
  std::condition_variable_any due_changed_;
  std::uint64_t due_ GUARDED_BY(mutex_) = 0;
  Counts counts_ GUARDED_BY(mutex_);
  std::size_t next_ = 0;  // the thread's own
  // By model and prompt: the tokens of the first answer, as hex, up to the first of which the model was not sure.
  std::map<std::string, std::map<std::string, std::vector<std::string>>> kept_ GUARDED_BY(mutex_);
  std::jthread thread_;
};

}  // namespace permllm
