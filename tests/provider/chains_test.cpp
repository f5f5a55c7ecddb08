// Which of a user's chains give way to which, at the provider, by its ledger and files alone.
#include "provider/chains.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/temporary_directory.h"
#include "support/errors.h"
#include "support/tiny_plan.h"

namespace permllm::test {
namespace {

struct Kept {
  TemporaryDirectory folder;
  Plan plan = tiny_plan();
  ProviderChains chains{folder.path() / "stock", "model", std::span(&plan, 1), [](const std::string&) {}};
  UserLimits limits;

  std::shared_ptr<ProviderChains::Chain> open(std::uint64_t chain) {
    return chains.open("alice", {plan.hash(), chain, true});
  }
  // One of which something is made, that was last filled then.
  void keep(std::uint64_t chain, std::uint64_t seconds, std::uint32_t burnt = 0) {
    {
      const auto session = open(chain);
      chains.ledger().set_made("alice", chain, {}, Marks{{4, 4, 4, 0}}, {});
      if (burnt > 0) chains.ledger().move_burnt("alice", chain, {}, Marks{{burnt, burnt, 1, 0}});
    }
    Database(folder.path() / "stock" / "ledger.sqlite")
        .query("UPDATE chains SET used = ? WHERE chain = ?")
        .bind(seconds)
        .bind(chain)
        .step();
  }
  std::set<std::uint64_t> there() {
    std::set<std::uint64_t> numbers;
    for (const ChainState& state : chains.of("alice")) numbers.insert(state.chain);
    return numbers;
  }
  std::size_t files() const {
    return static_cast<std::size_t>(std::count_if(std::filesystem::directory_iterator(folder.path() / "stock"),
                                                  std::filesystem::directory_iterator(), [](const auto& entry) {
                                                    return entry.path().extension() == ".helper" ||
                                                           entry.path().extension() == ".user";
                                                  }));
  }
};
constexpr std::uint64_t k_files = 2 * 4096;  // bytes of a chain's two, at least
using Numbers = std::set<std::uint64_t>;

// A user whose folder is lost: the provider keeps chains of which nobody has the other part, and a new one has no room beside them.
TEST(Chains, fresh_ones_give_way_last_the_one_filled_longest_ago_first) {
  Kept k;
  k.keep(1, 300);
  k.keep(2, 100);
  k.keep(3, 200);
  k.keep(4, 400, 2);  // used in part: goes first, however lately it was
  EXPECT_EQ(k.chains.bytes("alice"), 4 * k_files);
  k.limits.stock = 5 * k_files;
  const auto session = k.open(5), other = k.open(2);
  const auto need = [&](std::uint64_t bytes) { ProviderChains::Chain::Room(*session, bytes, k.limits); };
  need(1);
  EXPECT_EQ(k.there(), (Numbers{1, 2, 3, 5}));
  need(k_files + 1);
  EXPECT_EQ(k.there(), (Numbers{1, 2, 5}));  // 2 was filled longest ago, but a session has it
  EXPECT_EQ(reason_of([&] { need(3 * k_files + 1); }), "stock_full");
  EXPECT_EQ(k.there(), (Numbers{1, 2, 5}));  // what would not be enough does not go
  need(3 * k_files);
  EXPECT_EQ(k.there(), (Numbers{2, 5}));
}

TEST(Chains, a_user_has_a_bounded_number_of_them) {
  Kept k;
  const std::size_t most = ProviderChains::k_most_chains;
  const auto session = k.open(1000);
  for (std::uint64_t chain = 1; chain <= most + 10; ++chain) k.keep(chain, 1000 + chain);
  const Numbers there = k.there();
  EXPECT_EQ(there.size(), most);
  EXPECT_TRUE(there.contains(1000));
  EXPECT_EQ(*there.begin(), 12u);  // of the others the oldest went
  EXPECT_EQ(k.files(), 2 * most);
  EXPECT_EQ(k.chains.bytes(), most * k_files);
}

TEST(Chains, what_is_filled_counts_as_used_then) {
  Kept k;
  k.keep(1, 1);
  k.keep(2, 2);
  k.chains.ledger().set_made("alice", 1, Marks{{4, 4, 4, 0}}, Marks{{5, 5, 5, 0}}, {});
  EXPECT_EQ(k.chains.ledger().chains("alice", "model").front().chain, 1u);
}

}  // namespace
}  // namespace permllm::test
