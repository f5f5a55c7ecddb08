// A party's log: one line an event on standard error, as text or as a JSON object. It holds numbers, times, names and error codes,
// never content.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/mutex.h"

namespace spdlog {
class logger;
}

namespace permllm {

struct LogOptions {
  std::string format = "text", level = "info";
};

// How many lines a minute peers may cause at will, of one kind: in all, and each peer by itself, so that none fills the disk or keeps the others'
// lines out. Thread-safe.
class LineBound {
 public:
  LineBound(std::size_t in_all, std::size_t of_one) : in_all_(in_all), of_one_(of_one) {}
  // A line that `who` causes: how many were left out in the minutes before, where it may be written, and was counted; nothing where it is left out.
  std::optional<std::size_t> admit(const std::string& who, Clock::time_point now = Clock::now());
  // A line of `who` that was written does not count after all.
  void give_back(const std::string& who);

 private:
  const std::size_t in_all_, of_one_;
  Mutex mutex_;
  Clock::time_point minute_ GUARDED_BY(mutex_){};
  std::size_t lines_ GUARDED_BY(mutex_) = 0, left_out_ GUARDED_BY(mutex_) = 0;
  std::map<std::string, std::size_t> of_ GUARDED_BY(mutex_);  // of those who caused a line in this minute
};

class Log {
 public:
  enum class Level { debug, info, warn, error };
  Log(const std::string& party, const LogOptions& options);
  ~Log();
  // A line: `event` is its fixed name, `text` says it in words; `fields`, an object, are keys of the JSON and stand in brackets in a text.
  void write(Level level, const char* event, const std::string& text,
             const nlohmann::ordered_json& fields = nlohmann::ordered_json::object());
  // A line that `who` causes at will: left out beyond the bound; not_logged_before tells how many were.
  void write(Level level, const char* event, const std::string& text, nlohmann::ordered_json fields, LineBound& bound,
             const std::string& who);
  // level: a value of --log-level. May be called while others write.
  void set_level(const std::string& level);

 private:
  std::string party_;
  bool json_;
  std::unique_ptr<spdlog::logger> logger_;
};

}  // namespace permllm
