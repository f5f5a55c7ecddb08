// Strangers: keys, an invite, provider and helper as services, and a user who has the invite alone.
#include <gtest/gtest.h>

#include "support/processes.h"

namespace permllm::test {
namespace {

TEST(Chat, an_invite_is_enough_for_the_answer_that_demo_gives) {
  const Scratch scratch;
  const std::string provider = (scratch / "provider").string(), helper = (scratch / "helper").string();
  const std::string model = PERMLLM_TEST_MODEL;
  make_keys(scratch.path());
  EXPECT_EQ(run({"keygen", "--role", "helper", "--out", helper}).status, 2);

  // A party's settings come from a file here.
  const auto config = scratch / "permllm.toml";
  write_text(config, "[helper]\nidentity = \"" + helper + "\"\nevents = true\n[provider]\nidentity = \"" + provider +
                         "\"\nmodel = \"" + model + "\"\nevents = true\n");
  Process helping({"helper", "--config", config.string()}, PERMLLM_BINARY);
  const std::string helper_address = address_of(helping);
  // A record of a user that cannot be read lets nobody in, and keeps nobody out.
  const std::filesystem::path damaged = std::filesystem::path(provider) / "users/damaged.toml";
  std::filesystem::create_directory(damaged.parent_path());
  write_text(damaged, "nonsense");
  Process providing({"provider", "--config", config.string(), "--helper", helper_address}, PERMLLM_BINARY);
  const std::string provider_address = address_of(providing);
  std::filesystem::remove(damaged);

  const std::string invite = make_invite(scratch.path(), "alice", provider_address, helper_address, 60);
  EXPECT_NE(permllm({"invite", "--list", "--identity", provider}).out.find("alice"), std::string::npos);

  const std::vector<std::string> request{"--max-tokens", "8", "--json"};
  auto demo = std::vector<std::string>{"demo", model, "--prompt", "Is it so?"};
  auto chat = std::vector<std::string>{"chat", "--invite", invite};
  demo.insert(demo.end(), request.begin(), request.end());
  chat.insert(chat.end(), request.begin(), request.end());
  const auto want = events(permllm(demo).out).back();
  // Two turns: the second has the first in its prompt, and gets what the invite has left.
  const auto all = events(permllm(chat, "printf \"Is it so?\\nYes\\n\" | ").out);
  std::vector<nlohmann::json> done;
  for (const auto& event : all) {
    if (event.at("event") == "done") done.push_back(event);
  }
  ASSERT_EQ(done.size(), 2u);
  EXPECT_EQ(done[0].at("output_ids"), want.at("output_ids"));
  EXPECT_EQ(done[0].at("text"), want.at("text"));
  EXPECT_GT(done[1].at("prompt_tokens"), done[0].at("prompt_tokens"));
  EXPECT_EQ(done[1].at("tokens_left"), 60 - done[0].at("output_ids").size() - done[1].at("output_ids").size());

  // Nothing is restarted.
  permllm({"keygen", "--renew", "--out", provider});
  permllm({"keygen", "--renew", "--out", helper});
  EXPECT_EQ(events(permllm(chat, "echo \"Is it so?\" | ").out).back().at("output_ids"), want.at("output_ids"));
  permllm({"invite", "--revoke", "alice", "--identity", provider});
  const Result refused = run(chat, "echo \"Is it so?\" | ");
  EXPECT_EQ(refused.status, 1);
  EXPECT_NE(refused.error.find("its invite is revoked"), std::string::npos) << refused.error;
}

}  // namespace
}  // namespace permllm::test
