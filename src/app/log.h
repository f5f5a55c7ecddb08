// A party's log: one line an event on standard error, as text or as a JSON object. It holds numbers, times, names and error codes,
// never content.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

namespace spdlog {
class logger;
}

namespace permllm {

struct LogOptions {
  std::string format = "text", level = "info";
};
// --log, --log-level
void add_log_options(CLI::App& command, LogOptions& options);

class Log {
 public:
  enum class Level { debug, info, warn, error };
  Log(const std::string& party, const LogOptions& options);
  ~Log();
  // A line: `event` is its fixed name, `text` says it in words; `fields`, an object, are keys of the JSON and stand in brackets in a text.
  void write(Level level, const char* event, const std::string& text, const nlohmann::ordered_json& fields = nlohmann::ordered_json::object());
  // As --log-level. May be called while others write.
  void set_level(const std::string& level);

 private:
  std::string party_;
  bool json_;
  std::unique_ptr<spdlog::logger> logger_;
};

}  // namespace permllm
