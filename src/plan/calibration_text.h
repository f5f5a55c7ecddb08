// Text for calibration: prose, a chat turn, code, numbers, other languages.
#pragma once

#include <string_view>

namespace permllm {

inline constexpr std::string_view k_calibration_text =
    "The ferry left the harbour at 7:45, an hour late, and nobody on deck seemed to mind. "
    "User: How many litres fit in a tank of 2 m x 1.5 m x 0.4 m? Assistant: 1,200 litres.\n"
    "def mean(values):\n    return sum(values) / len(values)\n"
    "Der Zug nach Z\xc3\xbcrich; el caf\xc3\xa9 est\xc3\xa1 cerrado; \xe6\x9d\xb1\xe4\xba\xac.";

}  // namespace permllm
