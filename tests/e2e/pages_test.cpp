// Completions and man pages say what --help says.
#include "support/program.h"

namespace permllm::test {
namespace {

// What bash would offer for the last of the words.
std::string completed(const std::string& words, int last) {
  const Scratch scratch;
  const auto script = scratch.path() / "permllm";
  std::ofstream(script) << permllm({"completions", "bash"}).out << "COMP_WORDS=(" << words << ")\nCOMP_CWORD=" << last
                        << "\n_permllm\necho \"${COMPREPLY[@]}\"\n";
  FILE* pipe = popen(("bash " + script.string()).c_str(), "r");
  std::array<char, 4096> text{};
  const std::size_t got = fread(text.data(), 1, text.size(), pipe);
  EXPECT_EQ(pclose(pipe), 0);
  return {text.data(), got};
}

TEST(Pages, bash_completes_commands_and_their_options) {
  EXPECT_EQ(completed("permllm ge", 1), "generate\n");
  EXPECT_EQ(completed("permllm chat --invi", 2), "--invite\n");
  EXPECT_EQ(completed("permllm keygen --invi", 2), "\n");
}

TEST(Pages, other_shells_have_theirs_and_no_more) {
  EXPECT_NE(permllm({"completions", "zsh"}).out.find("--invite["), std::string::npos);
  EXPECT_NE(permllm({"completions", "fish"}).out.find("-l invite -r"), std::string::npos);
  const Result other = run({"completions", "csh"});
  EXPECT_NE(other.status, 0);
  EXPECT_NE(other.error.find("csh"), std::string::npos);
}

TEST(Pages, each_command_has_a_man_page_with_its_options) {
  const Scratch scratch;
  const std::filesystem::path folder = scratch.path() / "man1";
  permllm({"man", folder.string()});
  const std::string all = read_text(folder / "permllm.1"), chat = read_text(folder / "permllm-chat.1");
  EXPECT_NE(all.find(".BR permllm\\-chat (1)"), std::string::npos);
  EXPECT_NE(chat.find("\\-\\-invite"), std::string::npos);
  EXPECT_NE(chat.find(".SH EXAMPLES\n.P\npermllm chat"), std::string::npos);
  EXPECT_NE(chat.find(".SH TO KEEP\n.P\n/save NAME"), std::string::npos);
  // No line of a text is taken for a request of the formatter.
  std::istringstream lines(chat);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with('.')) {
      EXPECT_TRUE(line.starts_with(".TH ") || line.starts_with(".SH ") || line.starts_with(".TP") ||
                  line.starts_with(".BR ") || line == ".P")
          << line;
    }
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "permllm-man.1"));  // of packages alone
}

}  // namespace
}  // namespace permllm::test
