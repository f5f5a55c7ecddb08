// Text for calibration: what people ask models, in several scripts. Each piece is cut to its first tokens, so that the work is the same whatever a
// vocabulary makes of a script.
#pragma once

#include <cstddef>
#include <ctime>
#include <string_view>

namespace permllm {

inline constexpr std::string_view k_calibration_pieces[] = {
    "The ferry left the harbour at 7:45, an hour late, and nobody on deck seemed to mind the rain.",
    "\ndef mean(values):\n    return sum(values) / len(values)\n",
    "for (int i = 0; i < n; ++i) { total += row[i] * 0x1F; }\n",
    "| year | litres |\n|------|-------:|\n| 1998 | 12,450.75 |\n",
    "清晨的渡轮晚了一个小时，码头上没有人着急。",
    "تأخرت العبارة ساعة كاملة هذا الصباح ولم ينزعج أحد.",
    "सुबह की नाव एक घंटा देर से चली।",
    "Паром вышел из гавани на час позже, и никто не торопился.",
    "Der Zug nach Zürich; el café está cerrado; 東京タワー.",
    " ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha ha",
};
inline constexpr std::size_t k_calibration_piece = 7;  // tokens

// As a dialogue, by the model's own template.
inline constexpr std::string_view k_calibration_question = "How many litres fit in a tank of 2 m x 1.5 m x 0.4 m?",
                                  k_calibration_answer = "1,200 litres.", k_calibration_further = "And half full?";
inline constexpr std::size_t k_calibration_chat = 36;  // tokens: as many from either end where there are more
// That day, whenever it is read: the same plan every day.
inline std::tm calibration_date() {
  std::tm date{};
  date.tm_mday = 15;
  date.tm_mon = 5;
  date.tm_year = 124;
  date.tm_wday = 6;
  date.tm_yday = 166;
  return date;
}

}  // namespace permllm
