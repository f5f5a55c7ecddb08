#include "net/units.h"

#include <fmt/format.h>

#include <cmath>
#include <map>

#include "permllm/error.h"

namespace permllm {
namespace {

double parse(const std::string& text, const std::string& flag, const std::map<std::string, double>& units,
             const char* examples) {
  std::size_t digits = 0;
  double number = -1;
  try {
    number = std::stod(text, &digits);
  } catch (const std::exception&) {
    digits = 0;
  }
  const auto unit = units.find(text.substr(digits));
  const bool bare_zero = number == 0 && digits == text.size();
  if (digits == 0 || !std::isfinite(number) || number < 0 || number > 1e12 || (unit == units.end() && !bare_zero)) {
    throw Error(Code::usage, flag, fmt::format("\"{}\" is not understood; write it like {}", text, examples));
  }
  return bare_zero ? 0 : number * unit->second;
}

}  // namespace

Clock::duration parse_duration(const std::string& text, const std::string& flag) {
  const double seconds = parse(text, flag, {{"s", 1}, {"ms", 1e-3}, {"us", 1e-6}}, "10ms, 250us, 1s or 0");
  if (seconds > 3600) throw Error(Code::usage, flag, "more than an hour");
  return duration_of(seconds);
}

double parse_bandwidth(const std::string& text, const std::string& flag) {
  return parse(text, flag, {{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}}, "1gbit, 100mbit or 0 (no limit)");
}

}  // namespace permllm
