// The table of leaks by itself: its words agree with its data, and the documents that print it print this one. With PERMLLM_WRITE_TABLES
// set, the documents are written.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <vector>

#include "plan/leak.h"
#include "support/tiny_plan.h"

namespace permllm::test {
namespace {

const std::filesystem::path k_source = PERMLLM_SOURCE_DIR;

TEST(LeakTable, says_in_words_what_it_says_as_data) {
  for (const Leak& leak : all_leaks()) {
    const std::string sees = leak.sees;
    const auto says = [&](const char* words) { return sees.find(words) != std::string::npos; };
    if (leak.disguise) {
      EXPECT_EQ(says("fresh order"), leak.disguise->order) << sees;
      EXPECT_EQ(says("in order"), !leak.disguise->order) << sees;
      EXPECT_EQ(says("sign"), leak.disguise->sign) << sees;
      EXPECT_EQ(says("less a level"), leak.disguise->level) << sees;
    }
    EXPECT_EQ(leak.disguise.has_value() && leak.role != Role::user, false) << sees;
    EXPECT_EQ(std::string(leak.where).empty(), leak.holds == nullptr) << sees;
    EXPECT_TRUE(std::string(leak.box).empty() ||
                std::filesystem::exists(k_source / "src/protocol" / (std::string(leak.box) + ".h")))
        << leak.box;
    EXPECT_EQ(sees.find('|'), std::string::npos);
  }
}

TEST(LeakTable, has_everything_that_may_be_shown) {
  std::set<int> there;
  for (const Leak& leak : all_leaks()) there.insert(static_cast<int>(leak.shown));
  for (int shown = 1; shown <= static_cast<int>(k_last_shown); ++shown) EXPECT_TRUE(there.contains(shown)) << shown;
  EXPECT_FALSE(there.contains(static_cast<int>(Shown::undeclared)));
}

// Under one plan a role has one entry for a thing: it is not both hidden and shown.
TEST(LeakTable, says_one_thing_of_each) {
  for (const Profile profile : {Profile::paper, Profile::fast, Profile::open}) {
    for (unsigned with = 0; with < 128; ++with) {
      Plan plan = tiny_plan(profile, false);
      plan.fused = (with & 1) != 0 && !plan.open();
      plan.config.qk_norm = (with & 2) != 0;
      plan.config.post_norm = (with & 4) != 0;
      plan.config.gated = (with & 8) != 0;
      plan.config.score_cap = plan.config.logit_cap = (with & 16) != 0 ? 30 : 0;
      plan.checked = (with & 64) != 0 && plan.open();
      plan.retrieval = (with & 32) != 0 && !plan.open() ? Retrieval::bfv : Retrieval::linear;
      for (const Role role : {Role::provider, Role::user, Role::helper}) {
        std::set<Shown> once;
        for (const Leak& leak : leaks_of(plan, role)) EXPECT_TRUE(once.insert(leak.shown).second) << leak.sees;
        EXPECT_FALSE(once.empty());
      }
      EXPECT_EQ(seen_by(Role::user, plan).size(), leaks_of(plan, Role::user).size());
    }
  }
}

// --- Documents ----------------------------------------------------------------------------------------------------------

std::string profiles_of(const Leak& leak) {
  std::vector<std::string> names;
  for (const Profile profile : {Profile::paper, Profile::fast, Profile::open}) {
    if ((leak.profiles & in_profile(profile)) != 0) names.push_back(fmt::format("`{}`", name_of(profile)));
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

// SECURITY.md: the whole table.
std::string whole_table() {
  std::string text = "| who | sees | in | where |\n|---|---|---|---|\n";
  for (const Leak& leak : all_leaks())
    text += fmt::format("| {} | {} | {} | {} |\n", name_of(leak.role), leak.sees, profiles_of(leak), leak.where);
  return text;
}

// docs/guide.md: of a Llama, norms not fused, retrieval linear.
std::string short_table() {
  std::string text = "| party | owns | sees |\n|---|---|---|\n";
  const auto row = [&](const char* party, const char* owns, const char* first, const std::vector<std::string>& sees) {
    text += fmt::format("| {} | {} | {}{} |\n", party, owns, first, fmt::join(sees, "; "));
  };
  const Plan paper = tiny_plan(Profile::paper), fast = tiny_plan(Profile::fast), open = tiny_plan(Profile::open);
  const std::vector<std::string> of_paper = seen_by(Role::user, paper);
  std::vector<std::string> of_fast = seen_by(Role::user, fast);
  std::erase_if(of_fast, [&](const std::string& what) {
    return std::find(of_paper.begin(), of_paper.end(), what) != of_paper.end();
  });
  row("provider", "the weights", "", seen_by(Role::provider, paper));
  row("helper", "nothing", "", seen_by(Role::helper, paper));
  row("helper in `open`", "", "", seen_by(Role::helper, open));
  row("user in `paper`", "prompt, answer, tokenizer", "", of_paper);
  row("user in `fast`", "", "as in `paper`, but ", of_fast);
  row("user in `open`", "", "", seen_by(Role::user, open));
  return text;
}

// What stands between the two marks of a document is the table.
void expect_printed(const std::string& document, const std::string& table) {
  const std::string begin = "<!-- leaks: printed from src/plan/leak.cpp by tests/protocol/leak_table_test.cpp -->\n",
                    end = "<!-- end of leaks -->\n";
  const std::filesystem::path path = k_source / document;
  std::ifstream in(path);
  std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const std::size_t from = text.find(begin), to = text.find(end);
  ASSERT_TRUE(from != std::string::npos && to != std::string::npos && from < to) << document << " has no marks";
  if (std::getenv("PERMLLM_WRITE_TABLES") != nullptr) {
    std::ofstream(path) << text.substr(0, from + begin.size()) << table << text.substr(to);
    return;
  }
  EXPECT_EQ(text.substr(from + begin.size(), to - from - begin.size()), table)
      << document << ": PERMLLM_WRITE_TABLES=1 writes it";
}
TEST(LeakTable, is_printed_in_the_guide) { expect_printed("docs/guide.md", short_table()); }
TEST(LeakTable, is_printed_in_security) { expect_printed("SECURITY.md", whole_table()); }

}  // namespace
}  // namespace permllm::test
