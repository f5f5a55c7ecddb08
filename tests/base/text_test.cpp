// Text of others on its way to a terminal: what could draw, hide or turn around does not pass, in one piece or in many.
#include "base/text.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace permllm {
namespace {

const std::string k_gone = "\xef\xbf\xbd";  // U+FFFD

std::string in_pieces(std::string_view text, std::size_t size) {
  TerminalText shown;
  std::string out;
  for (std::size_t at = 0; at < text.size(); at += size) out += shown.push(text.substr(at, size));
  return out + shown.finish();
}

TEST(ForTerminal, a_name_is_one_line_that_draws_nothing) {
  EXPECT_EQ(for_terminal("Smollm2 135M, größer 模型 \xf0\x9f\xa6\x99"), "Smollm2 135M, größer 模型 \xf0\x9f\xa6\x99");
  EXPECT_EQ(for_terminal("X\x1b]0;pwn\x07"), "X" + k_gone + "]0;pwn" + k_gone);
  EXPECT_EQ(for_terminal("a\nprovider at b\r\tc"), "a" + k_gone + "provider at b" + k_gone + k_gone + "c");
  EXPECT_EQ(for_terminal(std::string("a\0b\x7f", 4)), "a" + k_gone + "b" + k_gone);
  EXPECT_EQ(for_terminal(""), "");
}

TEST(ForTerminal, all_controls_and_marks_of_direction_go_and_their_neighbours_stay) {
  const auto utf8 = [](char32_t code) {
    std::string text;
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else if (code < 0x800) {
      text += {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
    } else {
      text += {static_cast<char>(0xe0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 0x3f)),
               static_cast<char>(0x80 | (code & 0x3f))};
    }
    return text;
  };
  for (char32_t code = 0; code < 0x3000; ++code) {
    const bool goes = code < 0x20 || (code >= 0x7f && code <= 0x9f) || code == 0x61c || code == 0x200e ||
                      code == 0x200f || (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
    EXPECT_EQ(for_terminal(utf8(code)), goes ? k_gone : utf8(code)) << static_cast<std::uint32_t>(code);
  }
}

TEST(ForTerminal, what_is_no_utf8_goes_byte_by_byte) {
  EXPECT_EQ(for_terminal("\x9b"
                         "2J"),
            k_gone + "2J");                                           // C1 as a byte of its own
  EXPECT_EQ(for_terminal("\xc0\x9b"), k_gone + k_gone);               // ESC and C1 in overlong forms
  EXPECT_EQ(for_terminal("\xed\xa0\x80"), k_gone + k_gone + k_gone);  // half a surrogate pair
  EXPECT_EQ(for_terminal("a\xe2\x80"), "a" + k_gone + k_gone);
}

TEST(TerminalText, an_answer_keeps_its_lines_however_it_is_split) {
  const std::string text =
      "one\r\n\ttwo \xc2\x9b"
      "31m \xe2\x80\xaegnp.exe\x1b[8m \xf0\x9f\xa6\x99 \xff end\xe2";
  const std::string want = "one\n\ttwo " + k_gone + "31m " + k_gone + "gnp.exe" + k_gone + "[8m \xf0\x9f\xa6\x99 " +
                           k_gone + " end" + k_gone;
  for (std::size_t size = 1; size <= text.size(); ++size) EXPECT_EQ(in_pieces(text, size), want) << size;
}

TEST(JsonLine, is_ascii_without_controls_and_of_the_same_value) {
  const std::string text = "a\x7f\xc2\x9b\xe2\x80\xae\x1b é \xf0\x9f\xa6\x99";
  for (const std::string& line :
       {to_json_line(nlohmann::json{{"text", text}}), to_json_line(nlohmann::ordered_json{{"text", text}})}) {
    EXPECT_TRUE(std::all_of(line.begin(), line.end(), [](char c) { return c >= ' ' && c <= '~'; })) << line;
    EXPECT_EQ(nlohmann::json::parse(line).at("text"), text);
  }
  EXPECT_EQ(nlohmann::json::parse(to_json_line(nlohmann::json{{"text", "\xff"}})).at("text"), k_gone);
}

}  // namespace
}  // namespace permllm
