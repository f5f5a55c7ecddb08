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

// A model of arbitrary weights is sure of nothing, which is told; and the provider's key has the answers, not the name that it gives the model.
TEST(CanariesServed, what_is_not_compared_is_told) {
  const TemporaryDirectory folder;
  Parties parties(folder.path() / "parties");
  const auto invite = parties.invite();
  const auto state = folder.path() / "state";
  const auto ask = [&] {
    const auto gateway = parties.serve(invite, state, "--canaries 100%");
    Json counts{{"asked", 0}};
    for (int i = 1; i <= 8 && counts["asked"] == 0; ++i) {  // some of the prompts do not fit the context
      EXPECT_EQ(post(*gateway, k_chats, chat(k_question, {{"model", "permllm"}})).status, 200);
      counts = activity_until(*gateway, [&](const Json& e) {
        return e["canaries"]["asked"].get<int>() + e["canaries"]["dropped"].get<int>() == i;
      })["canaries"];
    }
    EXPECT_EQ(counts["asked"], 1);
    EXPECT_EQ(counts["wrong"], 0);
    EXPECT_EQ(counts["unsure"], 1);
    EXPECT_EQ(counts["due"], 0);
    const std::string metrics = get(*gateway, "/metrics").text;
    for (const std::string& line :
         {std::string("permllm_gateway_canaries_total{result=\"right\"} 0\n"),
          std::string("permllm_gateway_canaries_total{result=\"unsure\"} 1\n"),
          "permllm_gateway_canaries_total{result=\"dropped\"} " + counts["dropped"].dump() + "\n",
          std::string("permllm_gateway_canaries_due 0\n")})
      EXPECT_NE(metrics.find(line), std::string::npos) << line << metrics;
    EXPECT_EQ(gateway->end(), 0);
  };
  ask();
  EXPECT_NE(parties.logged().find("is not compared: the model was not sure"), std::string::npos);
  std::vector<std::string> kept;
  for (const auto& file : std::filesystem::directory_iterator(state / "canaries")) kept.push_back(file.path().stem());
  ASSERT_EQ(kept.size(), 1u);
  EXPECT_NE(test::read_text(invite).find("sha256:" + kept[0]), std::string::npos) << kept[0];
  EXPECT_EQ(parties.logged().find("under a new name"), std::string::npos);

  std::string model = test::read_text(PERMLLM_TINY_MODELS "/llama.gguf");
  const std::size_t name = model.find("tiny", model.find("general.name"));
  ASSERT_NE(name, std::string::npos);
  model.replace(name, 4, "tidy");
  const auto renamed = folder.path() / "renamed.gguf";
  std::ofstream(renamed, std::ios::binary) << model;
  const std::string address = parties.provider->address();  // the invite's
  EXPECT_EQ(parties.provider->end(), 0);
  parties.provider =
      std::make_unique<Service>("provider --events --log-level off --drain 0 --context 64 --listen " + address +
                                " --identity " + (parties.folder / "provider").string() + " --helper " +
                                parties.helper->address() + " --model " + renamed.string());
  ask();
  EXPECT_NE(parties.logged().find("no answer by \"tidy\" is kept, but those of \"tiny\" are"), std::string::npos);
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
