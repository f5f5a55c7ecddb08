// `permllm audit` as a person runs it.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "support/program.h"

namespace permllm::test {
namespace {

const std::string k_tiny = std::string(PERMLLM_TINY_MODELS) + "/llama.gguf";

TEST(Audit, says_that_own_bits_tell_nothing_and_without_secret_cuts_that_they_do) {
  const std::filesystem::path plot =
      std::filesystem::temp_directory_path() / ("permllm-audit-" + std::to_string(getpid()) + ".svg");
  for (const char* profile : {"paper", "fast"}) {
    for (const char* fused : {"on", "off"}) {
      const std::vector<std::string> arguments{"audit",     k_tiny,  "--context", "40",  "--rows", "1000",
                                               "--profile", profile, "--fused",   fused, "--json"};
      auto now = arguments, old = arguments;
      now.insert(now.end(), {"--plot", plot.string()});
      old.push_back("--without-secret-cuts");
      const auto holds = events(permllm(now).out).at(0), violated = events(permllm(old).out).at(0);
      EXPECT_EQ(holds.at("own_bits").at("verdict"), "holds") << profile << " " << fused;
      EXPECT_EQ(violated.at("own_bits").at("verdict"), "VIOLATION") << profile << " " << fused;
      EXPECT_LT(holds.at("a3").at("query"), 0.4);
      EXPECT_EQ(holds.at("own_bits").at("cuts").size(), 3u);
      EXPECT_EQ(holds.at("b").size(), 4u);
      EXPECT_GT(holds.at("c").at("rows"), 0);
      std::ifstream in(plot);
      std::string first;
      std::getline(in, first);
      EXPECT_EQ(first.find("<svg"), 0u);
    }
  }
  std::filesystem::remove(plot);
}

TEST(Audit, the_table_has_the_word_where_a_person_reads_it) {
  const std::vector<std::string> arguments{"audit", k_tiny, "--context", "40", "--rows", "1000"};
  auto old = arguments;
  old.push_back("--without-secret-cuts");
  EXPECT_EQ(permllm(arguments).out.find("VIOLATION"), std::string::npos);
  EXPECT_NE(permllm(old).out.find("VIOLATION"), std::string::npos);
}

TEST(Audit, thoroughly_it_tries_the_whole_attack_and_its_control) {
  const auto a1 = events(permllm({"audit", k_tiny, "--context", "40", "--rows", "3000", "--thorough", "--json"}).out)
                      .at(0)
                      .at("a1");
  EXPECT_EQ(a1.at("plan").at("held"), 0);
  EXPECT_EQ(a1.at("control").at("held"), a1.at("control").at("of"));
  EXPECT_LT(a1.at("control").at("error"), 0.05);
}

TEST(Audit, plan_has_its_verdict_in_a_line) {
  const std::string line = "audit: an honest user who were told the place of every value would need ";
  EXPECT_NE(permllm({"plan", k_tiny, "--context", "40", "--prompt", "8", "--answer", "8"}).out.find(line),
            std::string::npos);
  const auto plan =
      events(permllm({"plan", k_tiny, "--context", "40", "--prompt", "8", "--answer", "8", "--json"}).out).at(0);
  EXPECT_EQ("audit: " + plan.at("audit").get<std::string>().substr(0, line.size() - 7), line);
}

TEST(Audit, what_cannot_be_audited_is_refused) {
  EXPECT_NE(run({"audit", k_tiny, "--context", "40", "--profile", "open"}).error.find("profile"), std::string::npos);
  EXPECT_EQ(run({"audit", k_tiny, "--context", "40", "--rows", "1"}).status, 2);
  EXPECT_NE(run({"audit", k_tiny, "--context", "40", "--base", std::string(PERMLLM_TINY_MODELS) + "/gpt2.gguf"})
                .error.find("--base"),
            std::string::npos);
  EXPECT_EQ(run({"audit", "--help"}).out.find("without-secret-cuts"), std::string::npos);
}

}  // namespace
}  // namespace permllm::test
