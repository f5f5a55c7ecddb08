#include "service/log.h"

#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <utility>

#include "base/clock.h"
#include "base/text.h"

namespace permllm {
namespace {

spdlog::level::level_enum level_of(Log::Level level) {
  switch (level) {
    case Log::Level::debug:
      return spdlog::level::debug;
    case Log::Level::info:
      return spdlog::level::info;
    case Log::Level::warn:
      return spdlog::level::warn;
    case Log::Level::error:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

}  // namespace

Log::Log(const std::string& party, const LogOptions& options)
    : party_(party),
      json_(options.format == "json"),
      logger_(std::make_unique<spdlog::logger>(party, std::make_shared<spdlog::sinks::stderr_sink_mt>())) {
  const char* pattern =
      json_ ? R"({"time":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l",%v})" : "%Y-%m-%dT%H:%M:%S.%eZ %l %n: %v";
  logger_->set_formatter(std::make_unique<spdlog::pattern_formatter>(pattern, spdlog::pattern_time_type::utc));
  logger_->flush_on(spdlog::level::trace);
  set_level(options.level);
}

std::optional<std::size_t> LineBound::admit(const std::string& who, Clock::time_point now) {
  const Lock lock(mutex_);
  std::size_t before = 0;
  if (now - minute_ >= std::chrono::minutes(1)) {
    minute_ = now;
    lines_ = 0;
    of_.clear();
    before = std::exchange(left_out_, 0);
  }
  const auto found = of_.find(who);
  if (lines_ >= in_all_ || (found != of_.end() && found->second >= of_one_)) {
    ++left_out_;
    return std::nullopt;
  }
  ++lines_;
  ++of_[who];
  return before;
}

void LineBound::give_back(const std::string& who) {
  const Lock lock(mutex_);
  const auto found = of_.find(who);
  if (found == of_.end()) return;  // of an earlier minute
  --lines_;
  if (--found->second == 0) of_.erase(found);
}

Log::~Log() = default;

void Log::set_level(const std::string& level) { logger_->set_level(spdlog::level::from_str(level)); }

void Log::write(Level level, const char* event, const std::string& text, const nlohmann::ordered_json& fields) {
  if (!logger_->should_log(level_of(level))) return;
  std::string line;
  if (json_) {
    nlohmann::ordered_json all{{"party", party_}, {"event", event}, {"text", text}};
    all.update(fields);
    line = to_json_line(all).substr(1);
    line.pop_back();
  } else {
    line = text;
    for (const auto& [key, value] : fields.items()) {
      line += line.size() == text.size() ? " (" : ", ";
      line += key + ' ' + (value.is_string() ? value.get<std::string>() : to_json_line(value));
    }
    if (line.size() != text.size()) line += ')';
    line = for_terminal(line);  // it stays a line, whatever a peer's words hold
  }
  logger_->log(level_of(level), spdlog::string_view_t(line));
}

void Log::write(Level level, const char* event, const std::string& text, nlohmann::ordered_json fields,
                LineBound& bound, const std::string& who) {
  if (!logger_->should_log(level_of(level))) return;
  const std::optional<std::size_t> left_out = bound.admit(who);
  if (!left_out) return;
  if (*left_out != 0) fields["not_logged_before"] = *left_out;
  write(level, event, text, fields);
}

}  // namespace permllm
