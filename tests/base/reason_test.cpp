// The table of reasons, and that the documents and the code speak from it.
#include "base/reason.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <set>

namespace permllm {
namespace {

std::string text_of(const std::filesystem::path& path) {
  std::ifstream in(std::filesystem::path(PERMLLM_SOURCE_DIR) / path);
  return {std::istreambuf_iterator<char>(in), {}};
}

// They are on the wire: none moves.
TEST(Reasons, numbers_stay) {
  const std::vector<std::string> names{"none",
                                       "allowance_used_up",
                                       "context_exceeded",
                                       "queue_full",
                                       "busy",
                                       "session_ended",
                                       "provider_unreachable",
                                       "helper_unreachable",
                                       "out_of_stock",
                                       "stock_full",
                                       "disk_full",
                                       "model_changed",
                                       "model_missing",
                                       "version",
                                       "invite_revoked",
                                       "certificate_expired",
                                       "not_trusted",
                                       "address_in_use",
                                       "wrong_product"};
  ASSERT_EQ(names.size(), static_cast<std::size_t>(k_last_reason) + 1);
  for (std::size_t i = 0; i < names.size(); ++i) EXPECT_EQ(name_of(static_cast<Reason>(i)), names[i]);
  EXPECT_STREQ(name_of(static_cast<Reason>(60000)), "none");
}

TEST(Reasons, each_has_what_a_person_and_a_program_need) {
  for (const ReasonFacts& facts : reasons()) {
    EXPECT_TRUE(facts.exit_status == 1 || facts.exit_status == 2) << facts.name;
    EXPECT_GE(facts.http_status, 400) << facts.name;
    for (const std::string clause : {facts.cause, facts.remedy}) {
      EXPECT_GT(clause.size(), 5u) << facts.name;
      EXPECT_FALSE(clause.ends_with(".")) << facts.name;
    }
    EXPECT_EQ(Error(Code::closed, facts.reason, "f", "m").exit_status(), facts.exit_status) << facts.name;
    EXPECT_STREQ(remedy_of(facts.reason), facts.remedy);
  }
  EXPECT_STREQ(remedy_of(Reason::none), "");
}

TEST(Reasons, an_error_without_one_is_as_its_code_says) {
  EXPECT_EQ(Error(Code::usage, "f", "m").reason(), Reason::none);
  EXPECT_EQ(Error(Code::usage, "f", "m").exit_status(), 2);
  EXPECT_EQ(Error(Code::closed, "f", "m").exit_status(), 1);
  EXPECT_EQ(reason_for_user(Error(Code::closed, "f", "m")), Reason::provider_unreachable);
  EXPECT_EQ(reason_for_user(Error(Code::timeout, Reason::helper_unreachable, "f", "m")), Reason::helper_unreachable);
  EXPECT_EQ(reason_for_user(Error(Code::malformed, "f", "m")), Reason::none);
  const Error said = Error::of_a_peer(Code::resource, Reason::busy, "f", "m");
  EXPECT_STREQ(said.what(), "peer: f: m");
  EXPECT_EQ(said.field(), "f");
  EXPECT_EQ(said.message(), "m");
  EXPECT_EQ(Error(Code::closed, "", "m").message(), "m");
}

TEST(Reasons, a_lost_connection_is_of_whom_was_to_be_reached) {
  const auto of = [](const Error& error) {
    try {
      reach(Reason::helper_unreachable, [&]() -> int { throw error; });
    } catch (const Error& told) {
      EXPECT_STREQ(told.what(), error.what());
      return told.reason();
    }
    return Reason::none;
  };
  EXPECT_EQ(of(Error(Code::closed, "f", "m")), Reason::helper_unreachable);
  EXPECT_EQ(of(Error(Code::timeout, "f", "m")), Reason::helper_unreachable);
  EXPECT_EQ(of(Error(Code::closed, Reason::session_ended, "f", "m")), Reason::session_ended);
  EXPECT_EQ(of(Error(Code::malformed, "f", "m")), Reason::none);
  EXPECT_EQ(of(Error::of_a_peer(Code::closed, Reason::none, "f", "m")), Reason::none) << "it answered";
}

TEST(Reasons, the_documents_have_the_table) {
  const std::string operations = text_of("docs/operations.md"), serve = text_of("docs/serve.md");
  for (const ReasonFacts& facts : reasons()) {
    const std::string http =
        *facts.code == 0 ? fmt::format("{}", facts.http_status) : fmt::format("{} `{}`", facts.http_status, facts.code);
    const std::string row = fmt::format("| {} | `{}` | {} | {} | {} | {} |\n", static_cast<int>(facts.reason),
                                        facts.name, facts.exit_status, http, facts.cause, facts.remedy);
    EXPECT_NE(operations.find(row), std::string::npos) << "docs/operations.md lacks\n" << row;
    if (*facts.code == 0) continue;
    const std::regex in_serve(fmt::format("\\n\\| {} \\|[^\\n|]*`{}`[^\\n]*\\|", facts.http_status, facts.code));
    EXPECT_TRUE(std::regex_search(serve, in_serve)) << "docs/serve.md lacks " << http;
  }
}

// Errors are told apart by code and reason, and the library's fields are no flags.
TEST(Reasons, no_code_looks_for_words_in_an_error) {
  const std::filesystem::path source = std::filesystem::path(PERMLLM_SOURCE_DIR) / "src";
  const std::regex words("(what\\(\\)|message(\\(\\))?|field\\(\\))\\)?\\.(find|starts_with|ends_with|contains)\\(");
  const std::regex flag("Error\\((Code::[a-z]+|code), (Reason::[a-z_]+, )?\"-");
  const std::set<std::string> of_programs{"cli", "service", "gateway"};
  EXPECT_TRUE(std::regex_search(std::string("std::string_view(error.what()).find(\"x\")"), words));
  EXPECT_TRUE(std::regex_search(std::string("throw Error(Code::usage, \"--draft\", \"m\")"), flag));
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(source)) {
    if (!entry.is_regular_file()) continue;
    ++files;
    const bool library = !of_programs.contains(std::filesystem::relative(entry.path(), source).begin()->string());
    std::ifstream in(entry.path());
    for (std::string line; std::getline(in, line);) {
      EXPECT_FALSE(std::regex_search(line, words)) << entry.path() << ": " << line;
      EXPECT_FALSE(library && std::regex_search(line, flag)) << entry.path() << ": " << line;
    }
  }
  EXPECT_GT(files, 200u);
}

}  // namespace
}  // namespace permllm
