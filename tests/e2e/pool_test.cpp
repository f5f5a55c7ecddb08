// Two helpers on one store behind a balancer that hands each connection to the next of them.
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <memory>
#include <thread>

#include "session/ledger.h"
#include "support/processes.h"
#include "support/relay.h"

namespace permllm::test {
namespace {

// A port that nobody listens at for now.
std::uint16_t free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in own = loopback(0);
  socklen_t size = sizeof own;
  EXPECT_EQ(bind(socket, reinterpret_cast<sockaddr*>(&own), size), 0);
  EXPECT_EQ(getsockname(socket, reinterpret_cast<sockaddr*>(&own), &size), 0);
  close(socket);
  return ntohs(own.sin_port);
}

Marks burnt(const std::filesystem::path& folder) {
  Marks sum{};
  for (const auto& chain : Ledger(folder / "ledger.sqlite").all()) {
    for (std::size_t kind = 0; kind < sum.first.size(); ++kind) sum.first[kind] += chain.burnt.first[kind];
  }
  return sum;
}

class Pool : public testing::Test {
 protected:
  Pool() { make_keys(scratch_.path()); }
  std::string path(const std::string& name) const { return (scratch_ / name).string(); }
  Process helper(std::uint16_t port, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments{"helper", "--identity", path("helper"), "--events",   "--listen",
                                       at(port), "--store",    path("store"),  "--patience", "20"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    std::string command = std::string("exec ") + PERMLLM_BINARY;
    for (const std::string& argument : arguments) command += " '" + argument + "'";
    return Process({"-c", command + " 2>>" + path("log" + std::to_string(port))}, "/bin/sh");
  }
  Process member(std::uint16_t port) const { return helper(port, {"--pool", at(port)}); }
  Process provider(const std::string& helper_address) const {
    return Process({"provider", "--identity", path("provider"), "--events", "--log-level", "error", "--helper",
                    helper_address, "--model", std::string(PERMLLM_TINY_MODELS) + "/llama.gguf", "--context", "64",
                    "--state", path("state"), "--patience", "20"},
                   PERMLLM_BINARY);
  }
  Result ask(const std::string& user, const std::string& ahead = "16") const {
    return run({"chat", "--invite", path(user + ".invite"), "--state", path(user), "--chat-format", "none",
                "--max-tokens", "6", "--ahead", ahead, "--json", "--patience", "20"},
               "echo \"Is it so?\" | ");
  }
  const Scratch scratch_;
};

TEST_F(Pool, whichever_gets_a_connection_answers_and_the_model_is_registered_once) {
  const std::uint16_t ports[] = {free_port(), free_port()};
  Process first = member(ports[0]), second = member(ports[1]);
  port_of(first);
  port_of(second);
  Balancer balancer({ports[0], ports[1]});
  Process providing = provider(at(balancer.port()));
  const std::uint16_t port = port_of(providing);
  nlohmann::json want;
  for (int i = 0; i < 6; ++i) {
    const std::string user = "user" + std::to_string(i);
    make_invite(scratch_.path(), user, at(port), at(balancer.port()), 100);
    const Result answered = ask(user);
    ASSERT_EQ(answered.status, 0) << answered.error;
    const auto done = events(answered.out).back();
    if (i == 0) want = done;
    EXPECT_EQ(done.at("output_ids"), want.at("output_ids"));
    EXPECT_EQ(done.at("tokens_left"), 94);
  }
  stop(providing);
  stop(first);
  stop(second);
  // One received the model, the other found it. Both dealt.
  std::string logs[] = {read_text(path("log" + std::to_string(ports[0]))),
                        read_text(path("log" + std::to_string(ports[1])))};
  const auto count = [&](const std::string& words) {
    int files = 0;
    for (const std::string& log : logs) files += log.find(words) != std::string::npos;
    return files;
  };
  EXPECT_EQ(count(" stored\n"), 1) << logs[0] << logs[1];
  EXPECT_EQ(count("stored by another helper of the pool"), 1) << logs[0] << logs[1];
  EXPECT_EQ(count("session begins"), 2) << logs[0] << logs[1];
  EXPECT_TRUE(std::filesystem::is_empty(path("store") + "/parked"));
}

TEST_F(Pool, one_that_is_killed_costs_the_order_that_it_had) {
  const std::uint16_t ports[] = {free_port(), free_port()};
  auto first = std::make_unique<Process>(member(ports[0])), second = std::make_unique<Process>(member(ports[1]));
  port_of(*first);
  port_of(*second);
  Balancer balancer({ports[0], ports[1]});
  Process providing = provider(at(balancer.port()));
  const std::uint16_t port = port_of(providing);
  constexpr int k_rounds = 6;
  make_invite(scratch_.path(), "alice", at(port), at(balancer.port()), 100);
  const Result whole = ask("alice");
  ASSERT_EQ(whole.status, 0) << whole.error;
  const auto want = events(whole.out).back();
  const Marks each = burnt(path("alice"));
  EXPECT_EQ(burnt(path("state/stock")), each);
  Marks all = each;
  int lost = 0;
  // While a user asks, one helper dies, now this one, now that, and comes back.
  for (int round = 1; round <= k_rounds; ++round) {
    const std::string user = "user" + std::to_string(round);
    make_invite(scratch_.path(), user, at(port), at(balancer.port()), 100);
    auto& victim = round % 2 == 0 ? first : second;
    const std::uint16_t its = ports[round % 2 == 0 ? 0 : 1];
    Result answered;
    {
      const std::jthread asking([&] { answered = ask(user, "40"); });
      std::this_thread::sleep_for(std::chrono::milliseconds(20 * round));  // anywhere: before, in and behind an order
      kill(victim->pid(), SIGKILL);
    }
    EXPECT_EQ(victim->wait(), -SIGKILL);
    if (answered.status != 0) {  // the order was this user's, who asks again
      EXPECT_EQ(answered.status, 1) << answered.error;
      ++lost;
      answered = ask(user, "40");
    }
    ASSERT_EQ(answered.status, 0) << "round " << round << ": " << answered.error;
    const auto done = events(answered.out).back();
    EXPECT_EQ(done.at("output_ids"), want.at("output_ids")) << round;
    EXPECT_EQ(done.at("tokens_left"), 94) << round;
    const Marks of_user = burnt(path(user));
    EXPECT_TRUE(within(each, of_user)) << round;
    for (std::size_t kind = 0; kind < all.first.size(); ++kind) all.first[kind] += of_user.first[kind];
    victim = std::make_unique<Process>(member(its));
    port_of(*victim);
  }
  stop(providing);
  EXPECT_EQ(burnt(path("state/stock")), all);  // both sides have burnt the same, and nothing twice
  RecordProperty("orders lost", lost);
}

TEST_F(Pool, only_who_says_so_shares_a_store) {
  const std::uint16_t port = free_port();
  Process alone = helper(port);
  port_of(alone);
  const std::string other = at(free_port());
  const auto start = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"helper", "--identity", path("helper"), "--store", path("store")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  };
  EXPECT_NE(start({}).error.find("another helper runs on this store"), std::string::npos);
  EXPECT_NE(start({"--pool", other}).error.find("a helper runs on this store that is in no pool"), std::string::npos);
  EXPECT_NE(run({"helper", "--identity", path("helper"), "--pool", other}).error.find("takes --store"),
            std::string::npos);
  stop(alone);
  Process in_pool = member(port);
  port_of(in_pool);
  EXPECT_NE(start({}).error.find("another helper runs on this store"), std::string::npos);
  stop(in_pool);
}

}  // namespace
}  // namespace permllm::test
