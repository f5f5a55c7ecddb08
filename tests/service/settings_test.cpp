// Flags, variables and files: which outweighs which, and what is refused.
#include "service/settings.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "permllm/error.h"
#include "support/program.h"

namespace permllm::test {
namespace {

struct Values {
  std::string listen = "default";
  int count = 7;
  double seconds = 1.5;
  bool fast = false;
  bool ran = false;
};

// The program in small: two commands with settings, one without.
Values run_small(std::vector<std::string> arguments) {
  Values values, other;
  CLI::App app;
  app.require_subcommand(1);
  const auto add = [&](const char* name, Values& to) {
    CLI::App* command = app.add_subcommand(name, "");
    command->add_option("--listen", to.listen, "")->capture_default_str();
    command->add_option("--a-count", to.count, "")->capture_default_str();
    command->add_option("--seconds", to.seconds, "")->capture_default_str();
    command->add_flag("--fast,!--no-fast", to.fast, "");
    command->callback([&to] { to.ran = true; });
    add_settings(*command);
  };
  add("serve", values);
  add("help-out", other);
  app.add_subcommand("plain", "");
  std::reverse(arguments.begin(), arguments.end());
  app.parse(arguments);
  EXPECT_TRUE(values.ran);
  return values;
}

struct Variable {
  Variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name_); }
  const char* name_;
};

TEST(Settings, a_flag_outweighs_a_variable_that_the_file_that_the_default) {
  const Scratch scratch;
  const std::string file = (scratch / "c.toml").string();
  write_text(file,
             "[serve]\nlisten = \"file # no comment, 1 2\"\na-count = 1\nseconds = 2\nfast = true\n[help-out]\nlisten "
             "= \"elsewhere\"\n");
  EXPECT_EQ(run_small({"serve"}).listen, "default");
  const Values of_file = run_small({"serve", "--config", file});
  EXPECT_EQ(of_file.listen, "file # no comment, 1 2");
  EXPECT_EQ(of_file.count, 1);
  EXPECT_EQ(of_file.seconds, 2);
  EXPECT_TRUE(of_file.fast);
  {
    const Variable listen("PERMLLM_SERVE_LISTEN", "variable"), count("PERMLLM_SERVE_A_COUNT", "2"),
        fast("PERMLLM_SERVE_FAST", "false");
    const Variable elsewhere("PERMLLM_HELP_OUT_SECONDS", "99");
    const Values both = run_small({"serve", "--config", file});
    EXPECT_EQ(both.listen, "variable");
    EXPECT_EQ(both.count, 2);
    EXPECT_EQ(both.seconds, 2);
    EXPECT_FALSE(both.fast);
    const Values all = run_small({"serve", "--config", file, "--listen", "flag", "--fast"});
    EXPECT_EQ(all.listen, "flag");
    EXPECT_EQ(all.count, 2);
    EXPECT_TRUE(all.fast);
  }
  const Variable config("PERMLLM_SERVE_CONFIG", file.c_str());
  EXPECT_EQ(run_small({"serve", "--no-fast"}).count, 1);
  EXPECT_FALSE(run_small({"serve", "--no-fast"}).fast);
}

TEST(Settings, what_is_not_known_is_named) {
  const Scratch scratch;
  const std::string file = (scratch / "c.toml").string();
  const auto expect = [&](const std::string& text, const std::string& error) {
    write_text(file, text);
    try {
      run_small({"serve", "--config", file});
      ADD_FAILURE() << text;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Code::file);
      EXPECT_NE(std::string(e.what()).find("c.toml: " + error), std::string::npos) << e.what();
    }
  };
  expect("[serve]\nlistne = \"x\"\n",
         "serve.listne: is not known; permllm serve --help shows the flags; the nearest is listen");
  expect("[serve]\nconfig = \"x\"\n", "serve.config: is not known");
  expect("[serve]\nhelp = true\n", "serve.help: is not known");
  expect("[help-out]\nlistne = \"x\"\n", "help-out.listne: is not known");
  expect("[plain]\n", "plain: is not known");
  expect("listen = \"x\"\n", "listen: is not known; settings stand in the table of a command");
  expect("[serve]\nlisten = [1, 2]\n", "serve.listen: expected a text, a number");
  expect("[serve]\na-count = \"many\"\n", "serve.a-count: ");
  expect("[serve]\nlisten = x\n", "line 2: is not TOML");
}

TEST(Settings, reload_takes_what_it_may_from_the_file) {
  const Scratch scratch;
  const std::string file = (scratch / "c.toml").string();
  write_text(file, "[serve]\nlisten = \"here\"\na-count = 1\nseconds = 2\n");
  Values values;
  CLI::App app;
  CLI::App* command = app.add_subcommand("serve", "");
  command->add_option("--listen", values.listen, "")->capture_default_str();
  command->add_option("--a-count", values.count, "")->capture_default_str()->check(CLI::Range(0, 99));
  command->add_option("--seconds", values.seconds, "")->capture_default_str();
  const auto settings = add_settings(*command);
  std::vector<std::string> arguments{"--seconds", "5", file, "--config", "serve"};
  std::swap(arguments[0], arguments[1]);
  app.parse(arguments);
  const std::vector<std::string> names{"a-count", "seconds"};
  EXPECT_TRUE(settings->reload(names).changed.empty());

  // A flag outweighs the file still.
  write_text(file, "[serve]\nlisten = \"there\"\na-count = 3\nseconds = 9\n");
  for (int i = 0; i < 2; ++i) {
    const auto reloaded = settings->reload(names);
    EXPECT_EQ(reloaded.changed, i == 0 ? std::vector<std::string>{"a-count = 3"} : std::vector<std::string>{});
    EXPECT_EQ(reloaded.need_a_restart, std::vector<std::string>{"listen"});
  }
  EXPECT_EQ(values.listen, "here");
  EXPECT_EQ(values.count, 3);
  EXPECT_EQ(values.seconds, 5);

  write_text(file, "[serve]\na-count = 100\n");
  EXPECT_THROW(settings->reload(names), Error);
  EXPECT_EQ(values.count, 3);
  write_text(file, "[serve]\n");
  EXPECT_EQ(settings->reload(names).changed, std::vector<std::string>{"a-count = 7"});
  EXPECT_EQ(values.count, 7);
}

std::string printed(const std::vector<std::string>& arguments, const std::string& before = "") {
  const Result r = run(arguments, before);
  EXPECT_EQ(r.status, 0) << r.error;
  return r.out;
}

TEST(Settings, print_config_is_a_file_that_gives_the_same) {
  const Scratch scratch;
  const std::string file = (scratch / "c.toml").string();
  const auto with = [](std::vector<std::string> all, const std::vector<std::string>& more) {
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  // A quote cannot pass this test's shell.
  const std::vector<std::string> plain{"provider", "--model", "a model.gguf", "--identity", "here"};
  const std::string out =
      printed(with(plain, {"--helper", "h:1", "--profile", "fast", "--print-config"}), "PERMLLM_PROVIDER_CONTEXT=77 ");
  for (const char* line : {"[provider]\n", "model = 'a model.gguf'\n", "context = 77\n", "profile = 'fast'\n",
                           "synthetic = false\n", "# fused: "}) {
    EXPECT_NE(out.find(line), std::string::npos) << out;
  }
  write_text(file, out);
  EXPECT_EQ(printed({"provider", "--config", file, "--print-config"}), out);
}

TEST(Settings, every_flag_of_the_parties_has_a_variable) {
  for (const char* command : {"provider", "helper", "chat"}) {
    std::istringstream help(printed({command, "--help"}));
    std::size_t flags = 0;
    for (std::string line; std::getline(help, line);) {
      if (!line.starts_with("  --") || line.starts_with("  --print-config")) continue;
      ++flags;
      EXPECT_NE(line.find("(Env:PERMLLM_"), std::string::npos) << line;
    }
    EXPECT_GT(flags, 6u);
  }
}

}  // namespace
}  // namespace permllm::test
