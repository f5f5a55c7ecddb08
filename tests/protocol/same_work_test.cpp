// What the user does between two messages must not depend on what it alone knows: the provider can time it.
#include <gtest/gtest.h>

#include <array>

#include "net/memory_link.h"
#include "protocol/attention.h"
#include "support/instructions.h"
#include "support/rig.h"

namespace permllm::test {
namespace {

constexpr std::size_t k_keys = 60;

// For the scores of one row behind k_keys others, of which some are live.
std::optional<std::size_t> work_of(std::size_t window, bool hidden, bool (*live)(std::size_t)) {
  return instructions_of([&](const auto& begin) {
    HeadShape s;
    s.heads = 2;
    s.kv_heads = 1;
    s.head_dim = 8;
    s.window = window;
    s.hidden = hidden;
    s.qk = {Ring{40}, 12};
    s.dead_bits = 34;
    Executor executor(1);
    const auto [near, far] = memory_links();
    Channel channel(*near, 1, std::chrono::seconds(5));
    AesCoins coins(seed_of(1));
    Timeline timeline;
    for (std::size_t i = 0; i < k_keys; ++i) timeline.append(live(i));
    timeline.append(true);
    std::vector<UserKeys> keys(1);
    for (Words* words : {&keys[0].mask, &keys[0].shown}) words->assign((k_keys + 1) * s.kv_rows(), 3);
    User user{channel, coins, timeline, keys, executor};
    user.batch = {k_keys, 1};
    const ShownQueries eq{Words(s.q_rows(), 7)};
    begin();
    const Mask shares = score_shares(user, s, eq, 0);
    if (shares.words.size() + unseen_keys(user, s, k_keys) < shares.words.size()) _exit(2);
  });
}

bool all(std::size_t) { return true; }
bool all_but_one(std::size_t i) { return i != 30; }
bool three_of_five(std::size_t i) { return i % 5 > 1; }
bool the_first(std::size_t i) { return i < 3; }

TEST(SameWork, of_scores_whichever_keys_are_dead_where_the_user_alone_knows) {
  for (const std::size_t window : {0, 20}) {
    const std::array works{work_of(window, true, all), work_of(window, true, all_but_one),
                           work_of(window, true, three_of_five), work_of(window, true, the_first)};
    if (!works[0]) GTEST_SKIP() << "no process may trace another here";
    EXPECT_GT(*works[0], 1000u);
    for (const auto& work : works) EXPECT_EQ(work, works[0]) << window;
  }
  // The measure tells them apart: where the provider knows the keys, they may tell.
  const std::array known{work_of(0, false, all), work_of(0, false, three_of_five)};
  EXPECT_NE(known[0], known[1]);
}

}  // namespace
}  // namespace permllm::test
