// Durations and bandwidths as people write them.
#pragma once

#include <string>

#include "wire/link.h"

namespace permllm {

// "10ms", "250us", "1s", "0". Errors: usage, naming `flag`.
Clock::duration parse_duration(const std::string& text, const std::string& flag);
// Bits per second of "1gbit", "100mbit", "64kbit"; "0" is unlimited. Errors: usage, naming `flag`.
double parse_bandwidth(const std::string& text, const std::string& flag);

}  // namespace permllm
