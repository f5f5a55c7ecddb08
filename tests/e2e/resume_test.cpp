// Answers over TLS connections that are dropped in their middle, and of a provider that is killed in it.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "session/ledger.h"
#include "support/processes.h"
#include "support/relay.h"

namespace permllm::test {
namespace {

TEST(Resume, an_answer_over_connections_that_break_is_the_same) {
  const Scratch scratch;
  const std::string provider = (scratch / "provider").string(), helper = (scratch / "helper").string();
  make_keys(scratch.path());
  Process helping({"helper", "--identity", helper, "--events"}, PERMLLM_BINARY);
  const std::string helper_address = address_of(helping);
  Process providing(
      {"provider", "--identity", provider, "--events", "--helper", helper_address, "--model", PERMLLM_TEST_MODEL},
      PERMLLM_BINARY);
  const std::uint16_t provider_port = port_of(providing);

  const auto chat = [&](const std::string& name, std::uint16_t through, const std::vector<std::string>& more = {}) {
    const std::string invite = make_invite(scratch.path(), name, at(through), helper_address, 100);
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
  EXPECT_EQ(
      std::count_if(all.begin(), all.end(), [](const auto& event) { return event.at("event") == "reconnecting"; }), 3);
  EXPECT_EQ(proxy.connections(), 7u);

  CuttingProxy once(provider_port, {{1, 6'000'000}});
  const Result ended = chat("carol", once.port(), {"--grace", "0"});
  EXPECT_EQ(ended.status, 1);
  EXPECT_NE(ended.error.find("the peer closed the connection"), std::string::npos) << ended.error;
}

// What a chain is burnt to, in the ledger of a party that does not run. There is one chain.
Marks burnt(const std::filesystem::path& folder) {
  const auto chains = Ledger(folder / "ledger.sqlite").all();
  EXPECT_EQ(chains.size(), 1u) << folder;
  return chains.empty() ? Marks{} : chains.front().burnt;
}

// A provider that keeps its state, at a port; 0: any.
Process provider_of(const Scratch& scratch, const std::string& helper, const std::string& state, std::uint16_t on) {
  return Process({"provider", "--identity", (scratch / "provider").string(), "--events", "--log-level", "error",
                  "--helper", helper, "--state", state, "--model", std::string(PERMLLM_TINY_MODELS) + "/llama.gguf",
                  "--context", "64", "--listen", at(on)},
                 PERMLLM_BINARY);
}

// SIGKILL at several bytes of an answer. The provider comes back with the same --state, and the user asks again on
// the chain that was in use: it goes on behind what either side had burnt.
TEST(Resume, a_provider_that_is_killed_in_an_answer_uses_nothing_twice) {
  const Scratch scratch;
  make_keys(scratch.path());
  Process helping({"helper", "--identity", (scratch / "helper").string(), "--events", "--log-level", "error"},
                  PERMLLM_BINARY);
  const std::string helper_address = address_of(helping), state = (scratch / "state").string();
  const auto serve = [&](std::uint16_t on) { return provider_of(scratch, helper_address, state, on); };
  constexpr std::uint32_t k_tokens = 6;
  std::size_t users = 0;
  std::string user;
  const auto invite = [&](std::uint16_t through) {
    user = "user" + std::to_string(users++);
    make_invite(scratch.path(), user, at(through), helper_address, 100);
  };
  const auto ask = [&] {
    return run(
        {"chat", "--invite", (scratch / (user + ".invite")).string(), "--state", (scratch / user).string(),
         "--chat-format", "none", "--max-tokens", std::to_string(k_tokens), "--ahead", "16", "--grace", "0", "--json"},
        "echo \"Is it so?\" | ");
  };

  // Without a fault: what an answer burns, and how many bytes it brings.
  nlohmann::json want;
  std::uint32_t prompt = 0;
  Marks use;
  {
    Process providing = serve(0);
    invite(port_of(providing));
    const Result whole = ask();
    ASSERT_EQ(whole.status, 0) << whole.error;
    want = events(whole.out).back();
    stop(providing);
    use = burnt(scratch / user);
    EXPECT_EQ(burnt(scratch / "state/stock"), use);
    prompt = want.at("prompt_tokens").get<std::uint32_t>();
    EXPECT_EQ(use[k_slot_kind], prompt + k_tokens - 1);
  }
  const auto bytes = want.at("bytes").at("online").at("received").get<std::size_t>();
  std::size_t printed = 0, ahead = 0;
  for (std::size_t part = 2; part < 16; ++part) {
    std::filesystem::remove_all(state);
    Process killed = serve(0);
    const std::uint16_t number = port_of(killed);
    // Connection 0 hears what there is, 1 is the conversation's.
    const pid_t pid = killed.pid();
    CuttingProxy proxy(number, {{1, bytes * part / 16}}, {}, [pid] { kill(pid, SIGKILL); });
    invite(proxy.port());
    const Result ended = ask();
    EXPECT_EQ(killed.wait(), -SIGKILL);
    EXPECT_EQ(ended.status, 1);
    EXPECT_EQ(proxy.cuts(), 1u);
    const auto said = events(ended.out);
    const auto tokens = static_cast<std::uint32_t>(
        std::count_if(said.begin(), said.end(), [](const auto& event) { return event.at("event") == "token"; }));
    printed += tokens;
    const Marks own = burnt(scratch / user), his = burnt(scratch / "state/stock"), begin = later_of(own, his);
    for (const Marks& marks : {own, his}) {  // whatever gave these tokens was burnt
      EXPECT_GE(marks[k_pass_kind], tokens);
      EXPECT_GE(marks[k_slot_kind], tokens == 0 ? 0 : prompt + tokens - 1);
    }
    ahead = std::max<std::size_t>(ahead, between(use, begin)[k_slot_kind]);

    Process again = serve(number);
    port_of(again);
    const Result second = ask();
    EXPECT_EQ(second.status, 0) << second.error;
    EXPECT_EQ(events(second.out).back().at("output_ids"), want.at("output_ids"));
    stop(again);
    const Marks end = burnt(scratch / user);
    EXPECT_EQ(burnt(scratch / "state/stock"), end);
    EXPECT_EQ(between(begin, end), use) << "killed at " << part
                                        << " sixteenths: it began elsewhere than behind what was burnt";
  }
  EXPECT_GT(printed, k_tokens);
  fmt::print("{} tokens before the kills; at most {} slots burnt ahead of their use\n", printed, ahead);
}

// The words so far are fed to a new session, on material of its own; a person is told.
TEST(Resume, an_answer_goes_on_when_the_provider_is_killed_and_started_again) {
  const Scratch scratch;
  make_keys(scratch.path());
  Process helping({"helper", "--identity", (scratch / "helper").string(), "--events", "--log-level", "error"},
                  PERMLLM_BINARY);
  const std::string helper_address = address_of(helping), state = (scratch / "state").string();
  const auto serve = [&](std::uint16_t on) { return provider_of(scratch, helper_address, state, on); };
  const auto command = [&](const std::string& user, std::uint16_t through, const std::string& more) {
    const std::string invite = make_invite(scratch.path(), user, at(through), helper_address, 100);
    return std::string("echo 'Is it so?' | ") + PERMLLM_BINARY + " chat --invite " + invite + " --state " +
           (scratch / user).string() + " --chat-format none --max-tokens 12 --ahead 16 " + more;
  };
  const auto ask = [&](const std::string& text) { return Process({"-c", text}, "/bin/sh"); };
  Process first = serve(0);
  const std::uint16_t port = port_of(first);
  Process asking = ask(command("whole", port, "--json"));
  const auto want = asking.wait_for("done");
  stop(first);
  const auto bytes = want.at("bytes").at("online").at("received").get<std::size_t>();
  std::size_t told = 0;
  for (std::size_t part = 2; part < 16; part += 3) {
    Process killed = serve(port);
    port_of(killed);
    const pid_t pid = killed.pid();  // whoever waits for it forgets the number
    CuttingProxy proxy(port, {{1, bytes * part / 16}}, {}, [pid] { kill(pid, SIGKILL); });
    const std::string user = "user" + std::to_string(part);
    Process chatting = ask(command(user, proxy.port(), "--json"));
    EXPECT_EQ(killed.wait(), -SIGKILL);
    Process again = serve(port);
    port_of(again);
    std::size_t restarts = 0, tokens = 0;
    const auto done = chatting.wait_for("done", [&](const nlohmann::json& event) {
      restarts += event.at("event") == "restarted";
      tokens += event.at("event") == "token";
    });
    EXPECT_EQ(done.at("output_ids"), want.at("output_ids")) << part;
    EXPECT_EQ(done.at("text"), want.at("text")) << part;
    EXPECT_EQ(done.at("trusted_tokens"), want.at("trusted_tokens")) << part;
    EXPECT_EQ(done.at("tokens_left"), 100 - 12) << part;
    EXPECT_EQ(tokens, 12u) << part;
    EXPECT_LE(restarts, 1u) << part;
    told += restarts;
    EXPECT_EQ(chatting.wait(), 0);
    stop(again);
    // Nothing was used twice: each session burnt its own.
    const Marks own = burnt(scratch / user);
    const std::uint32_t prompt = want.at("prompt_tokens");
    EXPECT_GE(own[k_slot_kind], (restarts > 0 ? 2 : 1) * prompt + 12 - 1) << part;
  }
  EXPECT_GE(told, 3u);
  Process killed = serve(port);
  port_of(killed);
  const pid_t pid = killed.pid();
  CuttingProxy proxy(port, {{1, bytes * 3 / 4}}, {}, [pid] { kill(pid, SIGKILL); });
  const auto out = scratch / "out", error = scratch / "error";
  Process person = ask(command("person", proxy.port(), ">" + out.string() + " 2>" + error.string()));
  EXPECT_EQ(killed.wait(), -SIGKILL);
  Process again = serve(port);
  port_of(again);
  EXPECT_EQ(person.wait(), 0);
  EXPECT_NE(read_text(error).find("\n(the provider was restarted, going on)\n"), std::string::npos) << read_text(error);
  EXPECT_EQ(read_text(out), want.at("text").get<std::string>() + "\n");
}

}  // namespace
}  // namespace permllm::test
