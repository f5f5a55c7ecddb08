// Time within a process, and in seconds.
#pragma once

#include <chrono>

namespace permllm {

using Clock = std::chrono::steady_clock;

inline double seconds_of(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }
inline double seconds_between(Clock::time_point begin, Clock::time_point end) { return seconds_of(end - begin); }
inline double seconds_since(Clock::time_point begin) { return seconds_between(begin, Clock::now()); }
inline Clock::duration duration_of(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

}  // namespace permllm
