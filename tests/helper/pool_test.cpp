// Where helpers of a pool say that a session's provider is with them.
#include "helper/pool.h"

#include <gtest/gtest.h>

#include "base/temporary_directory.h"
#include "permllm/error.h"

namespace permllm::test {
namespace {

HelperPool member(const TemporaryDirectory& store, const std::string& address) {
  return {store.path(), address,
          [](const std::string&) -> std::unique_ptr<Link> { throw Error(Code::closed, "pool", "nobody is there"); }};
}

TEST(HelperPool, one_withdraws_what_it_announced_and_nothing_of_others) {
  const TemporaryDirectory store;
  const HelperPool first = member(store, "10.0.0.1:7001"), second = member(store, "10.0.0.2:7001"),
                   third = member(store, "10.0.0.3:7001");
  first.announce("place");
  EXPECT_EQ(third.where("place"), "10.0.0.1:7001");
  EXPECT_EQ(first.where("place"), "");
  second.announce("place");  // the provider's connection broke, and it came back to another
  first.withdraw("place");
  EXPECT_EQ(third.where("place"), "10.0.0.2:7001");
  third.withdraw("place", "10.0.0.1:7001");
  EXPECT_EQ(third.where("place"), "10.0.0.2:7001");
  second.withdraw("place");
  EXPECT_EQ(third.where("place"), "");
  second.withdraw("place");
  EXPECT_TRUE(std::filesystem::is_empty(store.path() / "parked"));
}

TEST(HelperPool, one_that_starts_again_withdraws_what_it_announced_before) {
  const TemporaryDirectory store;
  member(store, "10.0.0.1:7001").announce("its own");
  member(store, "10.0.0.2:7001").announce("another's");
  const HelperPool again = member(store, "10.0.0.1:7001");
  EXPECT_EQ(again.where("another's"), "10.0.0.2:7001");
  EXPECT_FALSE(std::filesystem::exists(store.path() / "parked" / "its own"));
}

}  // namespace
}  // namespace permllm::test
