#include "structured/thoughts.h"

#include <gtest/gtest.h>

namespace permllm {
namespace {

// Told whole, and byte for byte.
std::pair<std::string, std::string> apart(const std::string& answer, bool within = false) {
  std::pair<std::string, std::string> out[2];
  for (const bool bytes : {false, true}) {
    ThoughtReader reader(within);
    auto& [thought, text] = out[bytes];
    const auto take = [&](const ThoughtReader::Parts& parts) {
      thought += parts.thought;
      text += parts.text;
    };
    if (bytes) {
      for (const char c : answer) take(reader.push({&c, 1}));
    } else {
      take(reader.push(answer));
    }
    take(reader.finish());
  }
  EXPECT_EQ(out[0], out[1]) << answer;
  return out[0];
}
using Parts = std::pair<std::string, std::string>;

TEST(Thoughts, stand_before_the_answer_between_their_marks) {
  EXPECT_EQ(apart("<think>\nSo \n it is.\n</think>\n\nYes.\n"), (Parts{"So \n it is.", "Yes.\n"}));
  EXPECT_EQ(apart("\n<think></think>Yes"), (Parts{"", "Yes"}));
  EXPECT_EQ(apart("So</think> Yes", true), (Parts{"So", "Yes"}));
  EXPECT_EQ(apart("<think>cut </thi"), (Parts{"cut </thi", ""}));
  EXPECT_EQ(apart("<think> \n"), (Parts{"", ""}));
}

TEST(Thoughts, a_mark_elsewhere_is_text) {
  EXPECT_EQ(apart("A <think> is a mark</think>"), (Parts{"", "A <think> is a mark</think>"}));
  EXPECT_EQ(apart("<thinking>"), (Parts{"", "<thinking>"}));
  EXPECT_EQ(apart(" <th"), (Parts{"", " <th"}));
  EXPECT_EQ(apart("<think>a</think>b</think>"), (Parts{"a", "b</think>"}));
}

TEST(Thoughts, are_told_as_they_come) {
  ThoughtReader reader(false);
  EXPECT_EQ(reader.push("<think>So ").thought, "So");  // blanks may stand before the mark
  EXPECT_EQ(reader.push("it</").thought, " it");
  EXPECT_EQ(reader.push("is").thought, "</is");
  EXPECT_EQ(reader.push("</think>").text, "");
  EXPECT_EQ(reader.push(" Yes ").text, "Yes ");
}

TEST(Thoughts, are_those_of_models_whose_template_has_the_marks) {
  EXPECT_TRUE(has_thoughts("{%- if x %}<think>\n\n</think>\n{% endif %}"));
  EXPECT_FALSE(has_thoughts("{{ messages }}"));
  EXPECT_TRUE(begins_thought("<|im_start|>assistant\n<think>\n"));
  EXPECT_FALSE(begins_thought("<think>\n\n</think>\n\n"));
}

}  // namespace
}  // namespace permllm
