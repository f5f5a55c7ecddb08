// Canaries as `permllm serve` asks them: a provider that serves another model is noticed.
#include <fstream>

#include "base/temporary_directory.h"
#include "gateway/harness.h"
#include "support/program.h"

namespace permllm::gateway_test {
namespace {

// Of the gateway's activity, once so many canaries were answered; and of its metrics.
Json canaries_of(const Service& gateway, int asked) {
  const Json event = activity_until(gateway, [&](const Json& e) { return e["canaries"]["asked"] >= asked; });
  const std::string metrics = get(gateway, "/metrics").text;
  EXPECT_NE(metrics.find("permllm_gateway_canaries_total{result=\"wrong\"} " + event["canaries"]["wrong"].dump()),
            std::string::npos)
      << metrics;
  EXPECT_GT(event["canaries"]["tokens"], 0);
  EXPECT_GT(event["canaries"]["online_bytes"], 0);
  EXPECT_GT(event["canaries"]["offline_bytes"], 0);
  return event["canaries"];
}

TEST(CanariesServed, answers_of_a_trusted_run_are_right_of_that_model_alone) {
  const TemporaryDirectory folder;
  const std::string canaries = folder.path() / "canaries.jsonl";
  {
    std::ofstream out(canaries);
    for (const char* prompt : {"Is it so?", "Why is it so?"}) {
      const auto said = test::events(test::permllm({"generate", PERMLLM_TINY_MODELS "/llama.gguf", "--prompt", prompt,
                                                    "--max-tokens", "2", "--json"})
                                         .out);
      out << Json{{"prompt", prompt}, {"answer", said.back().at("text")}}.dump() << "\n";
    }
  }
  for (const char* model : {"llama", "mistral3"}) {
    Parties parties(folder.path() / model, "", model);
    const auto gateway = parties.gateway("--canaries 100% --canary-file " + canaries);
    for (int i = 1; i <= 2; ++i) {
      EXPECT_EQ(post(*gateway, k_chats, chat()).status, 200);
      const Json counts = canaries_of(*gateway, i);
      EXPECT_EQ(counts["wrong"], std::string(model) == "llama" ? 0 : i) << model;
      EXPECT_EQ(counts["first"], 0);
    }
    EXPECT_EQ(parties.logged().find("a canary was answered otherwise") != std::string::npos,
              std::string(model) != "llama");
    EXPECT_EQ(parties.logged().find("Why is it so"), std::string::npos);
    EXPECT_EQ(gateway->end(), 0);
  }
}

TEST(CanariesServed, what_is_asked_for_wrongly_is_refused_at_the_start) {
  const TemporaryDirectory folder;
  const std::string file = folder.path() / "canaries.jsonl";
  std::ofstream(file) << "x\n";
  struct Case {
    std::vector<std::string> arguments;
    const char* says;
  };
  for (const Case& c : {Case{{"--canaries", "2"}, "--canaries: \"2\", expected 0% to 100%, like 1%"},
                        Case{{"--canary-file", file}, "--canary-file: is for --canaries"},
                        Case{{"--canaries", "1%", "--canary-file", file}, "line 1: expected an object"}}) {
    std::vector<std::string> all{"serve", "--demo", PERMLLM_TINY_MODELS "/llama.gguf"};
    all.insert(all.end(), c.arguments.begin(), c.arguments.end());
    const test::Result result = test::run(all);
    EXPECT_EQ(result.status, 2);
    EXPECT_NE(result.error.find(c.says), std::string::npos) << result.error;
  }
}

}  // namespace
}  // namespace permllm::gateway_test
