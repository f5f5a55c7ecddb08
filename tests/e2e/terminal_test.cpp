// A model whose name and whose every word are made to draw on a terminal: what a person's commands print has none of it, and JSON lines have it escaped.
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>

#include <fstream>
#include <map>

#include "support/gguf_writer.h"
#include "support/processes.h"

namespace permllm::test {
namespace {

// A title, a colour as C1, and text turned around; on a line of its own what would pass for the key of a helper.
const std::string k_title = "\x1b]0;pwn\x07",
                  k_c1 =
                      "\xc2\x9b"
                      "8m",
                  k_turned = "\xe2\x80\xaegnp.exe", k_line = "\nhelper at trusted:1";
const std::vector<std::string> k_marks{"\x1b]", "\x07", "\xc2\x9b", "\xe2\x80\xae"};

void write_model(const std::filesystem::path& path) {
  TinyOptions options{
      .layers = 1, .context = 256, .chat_template = "none", .name = "X" + k_title + k_c1 + k_turned + k_line};
  options.pieces = {"<unk>", "<s>", "</s>"};
  for (int i = 0; i < 120; ++i)
    options.pieces.push_back((i % 3 == 0 ? k_title : i % 3 == 1 ? k_c1 : k_turned) + std::to_string(i));
  const auto bytes = tiny_llama(options).finish();
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

void expect_plain(const std::string& what, const std::string& text) {
  for (const std::string& mark : k_marks)
    EXPECT_EQ(text.find(mark), std::string::npos) << what << ": " << testing::PrintToString(text);
  EXPECT_EQ(text.find("\nhelper at trusted"), std::string::npos) << what << ": " << text;
}
// And the text is there, less what draws.
void expect_shown(const std::string& what, const std::string& text) {
  expect_plain(what, text);
  EXPECT_TRUE(text.find("]0;pwn") != std::string::npos || text.find("gnp.exe") != std::string::npos ||
              text.find("8m") != std::string::npos)
      << what << ": " << text;
}
void expect_ascii(const std::string& what, const std::string& text) {
  for (const char c : text)
    ASSERT_TRUE((c >= ' ' && c <= '~') || c == '\n') << what << ": " << testing::PrintToString(text);
}

class Terminal : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    scratch = new Scratch;
    write_model(model());
  }
  static void TearDownTestSuite() {
    delete scratch;
    scratch = nullptr;
  }
  static std::string model() { return (*scratch / "model.gguf").string(); }
  static inline Scratch* scratch = nullptr;
};

TEST_F(Terminal, files_are_looked_at_without_harm) {
  expect_shown("inspect", run({"inspect", model(), "--context", "64"}).out);
  expect_shown("plan", run({"plan", model(), "--context", "64", "--prompt", "8", "--answer", "8"}).out);
  const Result json = run({"inspect", model(), "--context", "64", "--json"});
  expect_ascii("inspect --json", json.out);
  EXPECT_EQ(events(json.out).back().at("name"), "X" + k_title + k_c1 + k_turned + k_line);
  // A path of a file is somebody's, too.
  const Result missing = run({"inspect", (*scratch / (k_title + "gone.gguf")).string()});
  EXPECT_EQ(missing.status, 2);
  expect_shown("error", missing.error);
}

TEST_F(Terminal, an_answer_draws_nothing) {
  const std::vector<std::string> request{"generate", model(), "--prompt", "hi", "--max-tokens", "12"};
  expect_shown("generate", run(request).out);
  auto json = request;
  json.push_back("--json");
  const Result said = run(json);
  expect_ascii("generate --json", said.out);
  const std::string text = events(said.out).back().at("text");
  EXPECT_TRUE(text.find(k_title) != std::string::npos || text.find(k_c1) != std::string::npos ||
              text.find(k_turned) != std::string::npos)
      << text;  // the model did say it
}

// What a program prints on a terminal, and what a person types there.
class Pty {
 public:
  Pty(const std::vector<std::string>& arguments, const std::map<std::string, std::string>& variables = {}) {
    pid_ = forkpty(&terminal_, nullptr, nullptr, nullptr);
    if (pid_ != 0) return;
    std::vector<char*> argv;
    std::vector<std::string> copies = arguments;
    copies.insert(copies.begin(), PERMLLM_BINARY);
    for (std::string& argument : copies) argv.push_back(argument.data());
    argv.push_back(nullptr);
    setenv("TERM", "dumb", 1);
    for (const auto& [name, value] : variables) setenv(name.c_str(), value.c_str(), 1);
    execv(PERMLLM_BINARY, argv.data());
    _exit(127);
  }
  ~Pty() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    close(terminal_);
  }
  Pty(const Pty&) = delete;
  Pty& operator=(const Pty&) = delete;
  void type(const std::string& text) {
    EXPECT_EQ(write(terminal_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  // Until the output has this, or ends.
  bool shows(const std::string& text) {
    pollfd wait{terminal_, POLLIN, 0};
    while (output.find(text) == std::string::npos) {
      std::array<char, 4096> chunk;
      if (poll(&wait, 1, 60000) <= 0) return false;
      const ssize_t got = read(terminal_, chunk.data(), chunk.size());
      if (got <= 0) return false;
      output.append(chunk.data(), static_cast<std::size_t>(got));
    }
    return true;
  }
  // By Ctrl-D, whether the editor reads by then or not.
  bool ends() {
    type("\x04");
    pollfd wait{terminal_, POLLIN, 0};
    std::array<char, 4096> chunk;
    while (poll(&wait, 1, 60000) > 0) {
      const ssize_t got = read(terminal_, chunk.data(), chunk.size());
      if (got <= 0) return true;
      output.append(chunk.data(), static_cast<std::size_t>(got));
    }
    return false;
  }
  std::string output;

 private:
  pid_t pid_ = -1;
  int terminal_ = -1;
};

TEST_F(Terminal, what_a_provider_says_draws_nothing_at_its_user_and_helper) {
  const auto place = [](const std::string& name) { return (*scratch / name).string(); };
  make_keys(scratch->path());
  Process helping(
      {"helper", "--identity", place("helper"), "--store", place("store"), "--events", "--log-level", "error"},
      PERMLLM_BINARY);
  const std::string helper = address_of(helping);
  Process providing({"provider", "--identity", place("provider"), "--helper", helper, "--model", model(), "--context",
                     "128", "--events", "--log-level", "error"},
                    PERMLLM_BINARY);
  const std::string provider = address_of(providing);
  const std::string invite = make_invite(scratch->path(), "alice", provider, helper, 60);

  expect_shown("store", run({"store", place("store")}).out);
  expect_ascii("store --json", run({"store", place("store"), "--json"}).out);
  expect_shown("doctor", run({"doctor", "--invite", invite}).out);
  expect_ascii("doctor --json", run({"doctor", "--invite", invite, "--json"}).out);
  {
    Pty chat({"chat", "--invite", invite, "--state", place("state"), "--max-tokens", "8"});
    ASSERT_TRUE(chat.shows("Ctrl-D the program")) << chat.output;
    expect_shown("banner", chat.output);
    chat.type("hi\n");
    ASSERT_TRUE(chat.shows("left of the invite]")) << chat.output;
    chat.type("/save answer.md\n");
    ASSERT_TRUE(chat.shows("(saved in")) << chat.output;
    expect_plain("chat", chat.output);
    EXPECT_TRUE(chat.ends()) << testing::PrintToString(chat.output);
    expect_plain("chat", chat.output);
  }
  // A file is no terminal: it has what the model said.
  const std::string saved = read_text(*scratch / "state" / "saved" / "answer.md");
  EXPECT_TRUE(saved.find(k_title) != std::string::npos || saved.find(k_c1) != std::string::npos ||
              saved.find(k_turned) != std::string::npos)
      << saved;
  for (const std::string format : {"text", "json"}) {
    const std::string log = place("serve.log");
    const std::string command = std::string("exec ") + PERMLLM_BINARY + " serve --invite " + invite + " --state " +
                                place("state") + " --listen 127.0.0.1:0 --stock 0 --events --log " + format + " 2>" +
                                log;
    {
      Process serving({"-c", command}, "/bin/sh");
      serving.wait_for("ready");
    }
    format == "text" ? expect_shown("log", read_text(log)) : expect_ascii("log", read_text(log));
  }
}

// Provider, helper and a person at a terminal who asks a model that takes any text.
class Typing : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    scratch = new Scratch;
    make_keys(scratch->path());
    helping =
        new Process({"helper", "--identity", place("helper"), "--events", "--log-level", "error"}, PERMLLM_BINARY);
    const std::string helper = address_of(*helping);
    providing = new Process({"provider", "--identity", place("provider"), "--helper", helper, "--model",
                             PERMLLM_TINY_MODELS "/llama.gguf", "--context", "64", "--events", "--log-level", "error"},
                            PERMLLM_BINARY);
    invite = make_invite(scratch->path(), "alice", address_of(*providing), helper, 1000);
  }
  static void TearDownTestSuite() {
    delete providing;
    delete helping;
    delete scratch;
  }
  static std::string place(const std::string& name) { return (*scratch / name).string(); }
  // The questions of a conversation in which this is typed, each followed by an answer.
  static std::vector<std::string> asked(const std::string& name, const std::vector<std::string>& typed,
                                        std::map<std::string, std::string> variables = {},
                                        const std::vector<std::string>& more = {}) {
    variables.try_emplace("TERM", "xterm");
    variables.try_emplace("LC_ALL", "C.UTF-8");
    std::vector<std::string> arguments{"chat",         "--invite", invite,          "--state", place("state-" + name),
                                       "--max-tokens", "1",        "--chat-format", "none"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    Pty chat(arguments, variables);
    EXPECT_TRUE(chat.shows("2004h> ")) << testing::PrintToString(
        chat.output);  // the terminal is told that pastes are to be marked
    for (const std::string& text : typed) {
      chat.output.clear();
      chat.type(text);
      EXPECT_TRUE(chat.shows("left of the invite]")) << testing::PrintToString(chat.output);
    }
    chat.type("/save all.md\n");
    EXPECT_TRUE(chat.shows("(saved in")) << testing::PrintToString(chat.output);
    EXPECT_TRUE(chat.ends());
    std::vector<std::string> questions;
    const std::string all = read_text(*scratch / ("state-" + name) / "saved" / "all.md");
    for (std::size_t from = 0; (from = all.find("## Question\n\n", from)) != std::string::npos;) {
      from += 13;
      questions.push_back(all.substr(from, all.find("\n\n## Answer", from) - from));
    }
    return questions;
  }
  static inline Scratch* scratch = nullptr;
  static inline Process *helping = nullptr, *providing = nullptr;
  static inline std::string invite;
};
using Texts = std::vector<std::string>;

TEST_F(Typing, every_letter_is_kept_whatever_the_locale) {
  const std::string text = "\u00d6 \u4f60\u597d \U0001f600 x";
  for (const char* locale : {"C.UTF-8", "C", "POSIX", "xx_YY.UTF-8", ""})
    EXPECT_EQ(asked("locale" + std::string(locale), {text + "\n"}, {{"LC_ALL", locale}, {"LANG", ""}}), Texts{text})
        << locale;
  // A letter is taken back whole.
  EXPECT_EQ(asked("erased", {"a\u00d6\u597d\x7f\n"}), Texts{"a\u00d6"});
}

TEST_F(Typing, what_is_pasted_is_one_question) {
  EXPECT_EQ(asked("paste", {"\x1b[200~one\r  two\n\u597d\x1b[201~ three\n"}), Texts{"one\n  two\n\u597d three"});
  // Behind the last line's end waits the person.
  EXPECT_EQ(asked("end", {"\x1b[200~one\n\x1b[201~\n"}), Texts{"one"});
}

TEST_F(Typing, several_lines_are_one_question) {
  EXPECT_EQ(asked("alt", {"one\x1b\rtwo\n", "three\x1b\nfour\n"}), (Texts{"one\ntwo", "three\nfour"}));
  EXPECT_EQ(asked("quotes", {"\"\"\"\none\n\n  two\n\"\"\"\n", "\"\"\"one\ntwo\"\"\"\n"}),
            (Texts{"one\n\n  two", "one\ntwo"}));
}

TEST_F(Typing, an_editor_of_ones_own_writes_a_question) {
  const std::string editor = place("editor");
  write_text(editor, "#!/bin/sh\ntest \"$1\" = --flag || exit 3\nls -l \"$2\" >" + place("mode") +
                         "\nprintf 'line of %s\\n\\n' \"$(cat \"$2\")\" >\"$2.new\"\nprintf 'and \\303\\226\\n' "
                         ">>\"$2.new\"\nmv \"$2.new\" \"$2\"\n");
  std::filesystem::permissions(editor, std::filesystem::perms::owner_all);
  EXPECT_EQ(asked("editor", {"/edit mine\n"},
                  {{"EDITOR", editor + " --flag"}, {"XDG_RUNTIME_DIR", scratch->path().string()}}),
            Texts{"line of mine\n\nand \u00d6"});
  EXPECT_TRUE(read_text(place("mode")).starts_with("-rw-------")) << read_text(place("mode"));
  // One that fails gives nothing, and the conversation goes on.
  EXPECT_EQ(asked("broken", {"/edit\nstill here\n"}, {{"EDITOR", "false"}}), Texts{"still here"});
}

TEST_F(Typing, a_history_keeps_lines_together) {
  const std::string history = place("history");
  EXPECT_EQ(asked("first", {"one\x1b\rtw\u00d6\n"}, {}, {"--history", history}), Texts{"one\ntw\u00d6"});
  // Arrow up, up: behind "/save all.md".
  EXPECT_EQ(asked("second", {"\x1b[A\x1b[A!\n"}, {}, {"--history", history}), Texts{"one\ntw\u00d6!"});
}

}  // namespace
}  // namespace permllm::test
