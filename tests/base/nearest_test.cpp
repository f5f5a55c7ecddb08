#include "base/nearest.h"

#include <gtest/gtest.h>

namespace permllm::test {
namespace {

TEST(Nearest, is_the_word_that_was_mistyped_and_none_where_all_are_far) {
  const std::vector<std::string> known{"provider", "helper", "plan", "--model", "--max-tokens"};
  EXPECT_EQ(nearest("provdier", known), "provider");
  EXPECT_EQ(nearest("heper", known), "helper");
  EXPECT_EQ(nearest("--modle", known), "--model");
  EXPECT_EQ(nearest("--max_tokens", known), "--max-tokens");
  EXPECT_EQ(nearest("pln", known), "plan");
  EXPECT_EQ(nearest("xyz", known), "");
  EXPECT_EQ(nearest("", known), "");
  EXPECT_EQ(nearest(std::string(1000, 'p'), known), "");
}

}  // namespace
}  // namespace permllm::test
