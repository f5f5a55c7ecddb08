// Text that others wrote (a peer, a file, a model), on its way to a person.
//
// Within the program, in JSON, in HTTP bodies and in files it stays as it is. Where a terminal shows it, it goes through for_terminal, or TerminalText for
// an answer that comes in pieces: an escape would draw over what this program says, set the window's title or fill the clipboard, and a
// bidirectional mark turn a line around. JSON lines, which people look at too, have such characters escaped (to_json_line).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace permllm {

// What some editors and shells put before a text: U+FEFF in UTF-8.
inline constexpr std::string_view k_byte_order_mark = "\xef\xbb\xbf";

// The text with every byte that is no UTF-8 replaced by U+FFFD.
std::string valid_utf8(std::string_view bytes);

// Complete UTF-8 text out of bytes that may end in the middle of a character.
class Utf8Stream {
 public:
  std::string push(std::string_view bytes);  // what is complete so far
  std::string finish();                      // the rest, invalid bytes as U+FFFD

 private:
  std::string pending_;
};

// A name, an error, a path: as one line. Controls (C0 with line ends and tabs, DEL, C1), bidirectional marks and what is no UTF-8 become U+FFFD.
std::string for_terminal(std::string_view text);

// An answer, piece by piece: line ends and tabs stay, carriage returns go, the rest as above. A character may be split between pieces.
class TerminalText {
 public:
  std::string push(std::string_view bytes);
  std::string finish();

 private:
  Utf8Stream characters_;
};

// One line of JSON in ASCII: what is beyond it is escaped, what is no UTF-8 replaced.
std::string to_json_line(const nlohmann::json& json);
std::string to_json_line(const nlohmann::ordered_json& json);

}  // namespace permllm
