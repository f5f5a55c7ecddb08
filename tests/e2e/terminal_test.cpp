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

// Each piece ends a letter and begins another: what comes in pieces is shown in letters. The first begins with the end of none; of the last, which the
// limit cut, nothing is shown.
TEST(Letters, are_never_cut_where_a_token_ends) {
  const Scratch folder;
  TinyOptions options{.layers = 1, .context = 64, .chat_template = ""};
  options.pieces = {"<unk>", "<s>", "</s>"};
  for (int i = 0; i < 64; ++i) options.pieces.push_back(std::string(1, static_cast<char>(0x80 + i)) + "\xe4\xbd");
  const auto bytes = tiny_llama(options).finish();
  const std::string model = (folder / "halves.gguf").string();
  write_text(model, {bytes.begin(), bytes.end()});
  const auto replaced = [](const std::string& text) {
    std::size_t n = 0;
    for (std::size_t at = 0; (at = text.find("\xef\xbf\xbd", at)) != std::string::npos; ++at) ++n;
    return n;
  };
  for (const std::string command : {"generate", "demo"}) {
    std::vector<std::string> request{command, model, "--prompt-ids", "3,4,5", "--max-tokens", "6"};
    if (command == "demo") request.insert(request.end(), {"--context", "64"});
    const std::string shown = run(request).out;
    EXPECT_EQ(replaced(shown), 1u) << command << ": " << shown;
    EXPECT_NE(shown.find("\xe4\xbd"), std::string::npos) << command << ": " << shown;
    request.push_back("--json");
    std::string text;
    for (const nlohmann::json& event : events(run(request).out)) {
      if (event.at("event") == "token") text += event.at("text").get<std::string>();
      if (event.at("event") == "done" || event.contains("output_ids")) {
        EXPECT_EQ(event.at("output_ids").size(), 6u);
        EXPECT_EQ(event.at("text"), text);
      }
    }
    EXPECT_EQ(replaced(text), 1u) << command << ": " << text;
    EXPECT_EQ(text.size(), 3u + 5 * 3) << command << ": " << text;
  }
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

// A person at a terminal of the tiny provider.
class Person : public Pty {
 public:
  explicit Person(const std::string& name, const std::vector<std::string>& more = {},
                  std::map<std::string, std::string> variables = {})
      : Pty(arguments(name, more), with_defaults(std::move(variables))) {
    EXPECT_TRUE(shows("/help lists the commands")) << testing::PrintToString(output);
  }
  // Types a line; what is shown from then until this.
  std::string says(const std::string& line, const std::string& until) {
    EXPECT_TRUE(shows("> ")) << testing::PrintToString(output);
    output.clear();
    type(line + "\n");
    EXPECT_TRUE(shows(until)) << line << testing::PrintToString(output);
    const std::string said = output.substr(0, output.find(until) + until.size());
    output.erase(0, said.size());
    return said;
  }

 private:
  static std::vector<std::string> arguments(const std::string& name, const std::vector<std::string>& more);
  static std::map<std::string, std::string> with_defaults(std::map<std::string, std::string> variables) {
    variables.try_emplace("TERM", "dumb");
    variables.try_emplace("LC_ALL", "C.UTF-8");
    variables.try_emplace("NO_COLOR", "");
    return variables;
  }
};

// Provider, helper and people who ask a model whose template knows of system messages.
class Keeping : public testing::Test {
 public:
  static std::vector<std::string> chat(const std::string& name, const std::vector<std::string>& more) {
    std::vector<std::string> all{"chat", "--invite", invite, "--state", place("state-" + name), "--max-tokens", "2"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

 protected:
  static void SetUpTestSuite() {
    scratch = new Scratch;
    make_keys(scratch->path());
    const auto bytes = tiny_llama({.context = 512}).finish();
    write_text(place("model.gguf"), {bytes.begin(), bytes.end()});
    helping =
        new Process({"helper", "--identity", place("helper"), "--events", "--log-level", "error"}, PERMLLM_BINARY);
    const std::string helper = address_of(*helping);
    providing = new Process({"provider", "--identity", place("provider"), "--helper", helper, "--model",
                             place("model.gguf"), "--context", "512", "--events", "--log-level", "error"},
                            PERMLLM_BINARY);
    invite = make_invite(scratch->path(), "alice", address_of(*providing), helper, 1000);
  }
  static void TearDownTestSuite() {
    delete providing;
    delete helping;
    delete scratch;
  }
  static std::string place(const std::string& name) { return (*scratch / name).string(); }
  static std::filesystem::path saved(const std::string& name, const std::string& file) {
    return *scratch / ("state-" + name) / "saved" / file;
  }
  static inline Scratch* scratch = nullptr;
  static inline Process *helping = nullptr, *providing = nullptr;
  static inline std::string invite;
};
std::vector<std::string> Person::arguments(const std::string& name, const std::vector<std::string>& more) {
  return Keeping::chat(name, more);
}
constexpr const char* k_answered = "left of the invite]";

TEST_F(Keeping, a_conversation_is_saved_under_a_passphrase_and_gone_on_with) {
  std::string told;
  {
    Person person("keep");
    person.says("a b", k_answered);
    person.says("/system be brief", "the system message: be brief");
    person.says("c", k_answered);
    person.says("/save talk", "Passphrase (nothing: not encrypted): ");
    person.type("s\u00e9same\n");
    ASSERT_TRUE(person.shows("The same again: ")) << person.output;
    person.type("s\u00e9same\n");
    ASSERT_TRUE(person.shows("saved/talk, encrypted)")) << person.output;
    EXPECT_EQ(person.output.find("s\u00e9same"), std::string::npos) << person.output;  // it is not shown
    person.says("d", k_answered);
    person.says("/save talk", "saved/talk, encrypted)");  // one's own is replaced, and nothing asked
    EXPECT_TRUE(person.ends());
  }
  const std::string file = read_text(saved("keep", "talk"));
  EXPECT_TRUE(file.starts_with("PERMLLMC")) << file.substr(0, 8);
  EXPECT_EQ(file.find("be brief"), std::string::npos);
  EXPECT_EQ(std::filesystem::status(saved("keep", "talk")).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  {
    Person person("keep");
    EXPECT_NE(person.says("/load", "talk").find("talk"), std::string::npos);
    person.says("/load talk", "Passphrase: ");
    person.type("wrong\n");
    ASSERT_TRUE(person.shows("the passphrase is wrong, or the file was changed")) << person.output;
    person.says("/load talk", "Passphrase: ");
    person.type("s\u00e9same\n");
    ASSERT_TRUE(person.shows("(3 questions and answers loaded")) << person.output;
    person.says("/system", "the system message: be brief");
    person.says("e", k_answered);
    // The model was fed all of it.
    const std::string cost = person.says("/cost", "were fed now");
    EXPECT_EQ(cost.find("prompt 1,"), std::string::npos) << cost;
    // Another's is not replaced.
    std::filesystem::copy_file(saved("keep", "talk"), saved("keep", "other"));
    person.says("/save other", "exists and is not overwritten");
    EXPECT_TRUE(person.ends());
  }
  // A program has its passphrase in a file.
  const std::string words = place("words");
  write_text(words, "s\u00e9same\n");
  std::filesystem::permissions(words, std::filesystem::perms::owner_read);
  const auto program = [&](const std::vector<std::string>& more, const std::string& lines) {
    return run(chat("keep", more), "printf '" + lines + "' | ");
  };
  EXPECT_EQ(program({"--passphrase-file", words}, "/load talk\nf\n/save more\n").status, 0);
  EXPECT_TRUE(read_text(saved("keep", "more")).starts_with("PERMLLMC"));
  const Result none = program({}, "/load talk\n");
  EXPECT_EQ(none.status, 2);
  EXPECT_NE(none.error.find("is encrypted; --passphrase-file"), std::string::npos) << none.error;
  EXPECT_NE(program({}, "/load ../../words\n").error.find("reads from"), std::string::npos);
  // One in the clear, in the place of one that was not, would take the next ones' encryption away.
  write_text(saved("keep", "plain"), R"({"format":"permllm-conversation","version":1,"system":"","messages":)"
                                     R"([{"role":"user","content":"q"},{"role":"assistant","content":"a"}]})");
  const Result plain = program({"--passphrase-file", words}, "/load plain\n");
  EXPECT_NE(plain.error.find("is not encrypted, and --passphrase-file"), std::string::npos) << plain.error;
}

TEST_F(Keeping, what_a_saved_file_holds_draws_nothing) {
  const std::string evil = R"(\u001b]0;x\u0007\u009b2J\u202e)";
  std::filesystem::create_directories(saved("evil", ""));
  write_text(saved("evil", "talk"), R"({"format":"permllm-conversation","version":1,"system":")" + evil +
                                        R"(","messages":[{"role":"user","content":")" + evil +
                                        R"("},{"role":"assistant","content":")" + evil + R"("}]})");
  write_text(saved("evil", k_title + "name"), "no conversation");
  Person person("evil");
  std::string shown = person.says("/load", "talk");
  shown += person.says("/load talk", "(1 question and answer loaded");
  shown += person.says("/system", "the system message:");
  shown += person.says("/load nothing", "no such file");
  EXPECT_TRUE(person.ends());
  expect_shown("saved", shown + person.output);
}

TEST_F(Keeping, an_answer_is_made_again_in_the_place_of_the_last) {
  Person person("again");
  person.says("/regenerate", "there is no answer yet");
  person.says("a b", k_answered);
  person.says("/temperature", "temperature 0");
  person.says("/temperature 3", "expected a number from 0 to 2");
  person.says("/temperature 1.5", "temperature 1.5");
  person.says("/regenerate", k_answered);
  person.says("/save all.md", "(saved in");
  EXPECT_TRUE(person.ends());
  const std::string all = read_text(saved("again", "all.md"));
  EXPECT_EQ(all.find("## Question"), all.rfind("## Question")) << all;
  EXPECT_EQ(all.find("## Answer"), all.rfind("## Answer")) << all;
}

TEST_F(Keeping, colours_are_where_a_terminal_shows_them_and_are_wanted) {
  constexpr const char* k_faint = "\x1b[2m[";
  const auto shown = [&](std::map<std::string, std::string> variables, const std::vector<std::string>& more = {}) {
    Person person("colours", more, std::move(variables));
    const std::string answered = person.says("a", k_answered);
    return answered + person.says("/nothing", "is no command");
  };
  const std::string coloured = shown({{"TERM", "xterm"}});
  EXPECT_NE(coloured.find(k_faint), std::string::npos) << testing::PrintToString(coloured);
  EXPECT_NE(coloured.find("\x1b[31mpermllm: \x1b[0m"), std::string::npos) << testing::PrintToString(coloured);
  for (const auto& [variables, more] :
       std::vector<std::pair<std::map<std::string, std::string>, std::vector<std::string>>>{
           {{{"TERM", "xterm"}, {"NO_COLOR", "1"}}, {}},
           {{{"TERM", "dumb"}}, {}},
           {{{"TERM", "xterm"}}, {"--color", "never"}}}) {
    const std::string plain = shown(variables, more);
    EXPECT_EQ(plain.find(k_faint), std::string::npos) << testing::PrintToString(plain);
  }
  EXPECT_NE(shown({{"TERM", "dumb"}, {"NO_COLOR", "1"}}, {"--color", "always"}).find(k_faint), std::string::npos);
  // A pipe is no terminal.
  const Result piped = permllm(chat("colours", {}), "echo a | TERM=xterm ");
  EXPECT_EQ((piped.out + piped.error).find('\x1b'), std::string::npos);
}

TEST_F(Typing, a_history_keeps_lines_together) {
  const std::string history = place("history");
  EXPECT_EQ(asked("first", {"one\x1b\rtw\u00d6\n"}, {}, {"--history", history}), Texts{"one\ntw\u00d6"});
  // Arrow up, up: behind "/save all.md".
  EXPECT_EQ(asked("second", {"\x1b[A\x1b[A!\n"}, {}, {"--history", history}), Texts{"one\ntw\u00d6!"});
}

}  // namespace
}  // namespace permllm::test
