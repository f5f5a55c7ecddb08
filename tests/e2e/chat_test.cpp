// Strangers: keys, an invite, provider and helper as services, and a user who has the invite alone.
#include <gtest/gtest.h>

#include "support/gguf_writer.h"
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

// In its sandbox, and over several turns: the model that drafts is the one that answers, so nearly all of its guesses hold.
TEST(Chat, says_with_a_model_that_drafts_what_it_says_without) {
  const Scratch scratch;
  make_keys(scratch.path());
  const std::string model = PERMLLM_TEST_MODEL;
  Process helping({"helper", "--identity", (scratch / "helper").string(), "--events"}, PERMLLM_BINARY);
  const std::string helper_address = address_of(helping);
  Process providing({"provider", "--identity", (scratch / "provider").string(), "--helper", helper_address, "--model",
                     model, "--profile", "open", "--context", "256", "--events"},
                    PERMLLM_BINARY);
  const std::string invite = make_invite(scratch.path(), "alice", address_of(providing), helper_address, 1000);
  const auto answers = [&](const std::vector<std::string>& more) {
    std::vector<std::string> chat{"chat", "--invite", invite,    "--max-tokens",
                                  "24",   "--json",   "--state", (scratch / "kept").string()};
    chat.insert(chat.end(), more.begin(), more.end());
    std::vector<nlohmann::json> done;
    for (const auto& event : events(permllm(chat, "printf \"Is it so?\\nYes\\n/reset\\nWhy?\\n\" | ").out)) {
      if (event.at("event") == "done") done.push_back(event);
    }
    EXPECT_EQ(done.size(), 3u);
    return done;
  };
  const auto plain = answers({});
  for (const char* length : {"3", "auto"}) {
    const auto drafted = answers({"--draft", length, "--draft-model", model});
    for (std::size_t i = 0; i < std::min(plain.size(), drafted.size()); ++i) {
      EXPECT_EQ(drafted[i].at("output_ids"), plain[i].at("output_ids"));
      EXPECT_EQ(plain[i].at("drafts").at("tokens"), 0);
    }
    const auto& first = drafted.front().at("drafts");
    EXPECT_GT(first.at("tokens").get<int>(), 0);
    EXPECT_LT(first.at("passes").get<int>(), plain.front().at("drafts").at("passes").get<int>());
    EXPECT_LT(2 * first.at("rejected").get<int>(), first.at("tokens").get<int>());
  }
}

// A vocabulary of sentencepiece, whose texts begin with a blank; here all pieces do.
TEST(Chat, takes_lines_as_windows_writes_them_and_keeps_the_blank_that_a_raw_answer_begins_with) {
  const Scratch scratch;
  make_keys(scratch.path());
  const std::string model = (scratch / "pieces.gguf").string();
  write_text(model, llama_of_letters());
  Process helping({"helper", "--identity", (scratch / "helper").string(), "--events"}, PERMLLM_BINARY);
  const std::string helper_address = address_of(helping);
  Process providing({"provider", "--identity", (scratch / "provider").string(), "--helper", helper_address, "--model",
                     model, "--context", "64", "--events"},
                    PERMLLM_BINARY);
  const std::string invite = make_invite(scratch.path(), "bob", address_of(providing), helper_address, 60);
  const auto done = [&](const std::string& lines) {
    std::vector<nlohmann::json> all;
    for (const auto& event : events(
             permllm({"chat", "--invite", invite, "--max-tokens", "1", "--json"}, "printf '" + lines + "' | ").out)) {
      if (event.at("event") == "done") all.push_back(event);
    }
    return all;
  };
  const auto plain = done("a b\nc\n"), windows = done("\\357\\273\\277a b\r\nc\r\n");
  ASSERT_EQ(plain.size(), 2u);
  ASSERT_EQ(windows.size(), 2u);
  EXPECT_EQ(plain[0].at("prompt_tokens"), 2u);
  for (std::size_t turn = 0; turn < 2; ++turn) {
    EXPECT_EQ(windows[turn].at("prompt_tokens"), plain[turn].at("prompt_tokens"));
    EXPECT_EQ(windows[turn].at("text"), plain[turn].at("text"));
  }
  // What the model said is what the next prompt has it said.
  const std::string text = plain[0].at("text");
  EXPECT_EQ(text.substr(0, 1), " ") << text;
  EXPECT_EQ(text, " " + std::string(1, static_cast<char>('a' + plain[0].at("output_ids")[0].get<int>() - 3)));
  std::vector<std::string> generate{"generate", model, "--prompt", "a b", "--max-tokens", "1", "--json"},
      demo = generate;
  demo[0] = "demo";
  demo.insert(demo.end(), {"--context", "64"});
  for (const auto& command : {generate, demo}) {
    const auto same = events(permllm(command).out).back();
    EXPECT_EQ(same.at("output_ids"), plain[0].at("output_ids")) << command[0];
    EXPECT_EQ(same.at("text"), text) << command[0];
  }
}

// In the dialogue that holds the number, and no longer; to the person alone.
TEST(Chat, tells_of_numbers_that_leave_the_range_which_a_model_is_served_for) {
  const Scratch scratch;
  make_keys(scratch.path());
  const std::string model = (scratch / "growing.gguf").string();
  const auto bytes = tiny_llama({.context = 192, .growth = 1000}).finish();
  write_text(model, {bytes.begin(), bytes.end()});
  Process helping({"helper", "--identity", (scratch / "helper").string(), "--events"}, PERMLLM_BINARY);
  const std::string helper_address = address_of(helping);
  Process providing({"provider", "--identity", (scratch / "provider").string(), "--helper", helper_address, "--model",
                     model, "--context", "192", "--events"},
                    PERMLLM_BINARY);
  const std::string invite = make_invite(scratch.path(), "bob", address_of(providing), helper_address, 60);
  const std::vector<std::string> chat{"chat", "--invite", invite, "--max-tokens", "2"};
  auto json = chat;
  json.push_back("--json");
  std::vector<nlohmann::json> done;
  for (const auto& event : events(permllm(json, "printf 'a\n~\nb\n/reset\na\n' | ").out)) {
    if (event.at("event") == "done") done.push_back(event);
  }
  ASSERT_EQ(done.size(), 4u);
  const auto values = [&](std::size_t turn) { return done[turn].at("out_of_range").get<std::uint64_t>(); };
  EXPECT_EQ(values(0), 0u);
  EXPECT_EQ(done[0].at("trusted_tokens"), done[0].at("output_ids").size());
  EXPECT_GT(values(1), 0u);
  EXPECT_EQ(done[1].at("trusted_tokens"), 0u);
  EXPECT_GE(values(2), values(1));  // it rests on what came before
  EXPECT_EQ(values(3), 0u);
  EXPECT_NE(permllm(chat, "echo '~' | ").error.find("that it is served for: the answer is not to be trusted"),
            std::string::npos);
}

}  // namespace
}  // namespace permllm::test
