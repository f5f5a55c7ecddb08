// An answer over TLS connections that are dropped in its middle.
#include <gtest/gtest.h>

#include "app/process.h"
#include "support/cutting_proxy.h"
#include "support/program.h"

namespace permllm::test {
namespace {

TEST(Resume, an_answer_over_connections_that_break_is_the_same) {
  const Scratch scratch;
  const std::string provider = (scratch / "provider").string(), helper = (scratch / "helper").string();
  const auto permllm = [](const std::vector<std::string>& arguments, const std::string& before = "") {
    const Result r = run(arguments, before);
    EXPECT_EQ(r.status, 0) << r.error;
    return r;
  };
  permllm({"keygen", "--role", "provider", "--name", "acme", "--out", provider});
  permllm({"keygen", "--role", "helper", "--out", helper});
  std::filesystem::copy(scratch / "provider/certificate.pem", scratch / "helper/peers/acme.pem");
  std::filesystem::copy(scratch / "helper/certificate.pem", scratch / "provider/peers/helper.pem");
  const auto port = [](Process& process) { return process.wait_for("ready").at("port").get<std::uint16_t>(); };
  const auto at = [](std::uint16_t number) { return "127.0.0.1:" + std::to_string(number); };
  Process helping({"helper", "--identity", helper, "--events"}, PERMLLM_BINARY);
  const std::string helper_address = at(port(helping));
  Process providing({"provider", "--identity", provider, "--events", "--helper", helper_address, "--model", PERMLLM_TEST_MODEL}, PERMLLM_BINARY);
  const std::uint16_t provider_port = port(providing);

  const auto chat = [&](const std::string& name, std::uint16_t through, const std::vector<std::string>& more = {}) {
    const std::string invite = (scratch / (name + ".invite")).string();
    permllm({"invite", name, "--identity", provider, "--provider-address", at(through), "--helper-address", helper_address, "--tokens", "100", "--out", invite});
    std::vector<std::string> arguments{"chat", "--invite", invite, "--max-tokens", "8", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments, "echo \"Is it so?\" | ");
  };
  const Result whole = chat("alice", provider_port);
  ASSERT_EQ(whole.status, 0) << whole.error;
  const auto want = events(whole.out).back();

  // Connection 0 hears what there is, 1 and 2 are those for the conversation and for offline material. The conversation's is dropped in the prompt, in the
  // middle of an answer's token, in a TLS handshake, and again.
  CuttingProxy proxy(provider_port, {{1, 6'000'000}, {3, 1'500'000}, {4, 700}, {5, 2'345'678}});
  const Result broken = chat("bob", proxy.port());
  ASSERT_EQ(broken.status, 0) << broken.error;
  const auto got = events(broken.out).back();
  EXPECT_EQ(got.at("text"), want.at("text"));
  EXPECT_EQ(got.at("output_ids"), want.at("output_ids"));
  EXPECT_EQ(proxy.cuts(), 4u);
  const auto all = events(broken.out);  // a program is told of a loss once
  EXPECT_EQ(std::count_if(all.begin(), all.end(), [](const auto& event) { return event.at("event") == "reconnecting"; }), 3);
  EXPECT_EQ(proxy.connections(), 7u);

  CuttingProxy once(provider_port, {{1, 6'000'000}});
  const Result ended = chat("carol", once.port(), {"--grace", "0"});
  EXPECT_EQ(ended.status, 1);
  EXPECT_NE(ended.error.find("the peer closed the connection"), std::string::npos) << ended.error;
}

}  // namespace
}  // namespace permllm::test
