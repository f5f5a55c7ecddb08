// chat and serve as processes in their sandbox: they answer, fill their stock, find the provider by name, save and end as without it.
#include "service/sandbox.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <signal.h>
#include <sys/stat.h>

#include <thread>

#include "support/gguf_writer.h"
#include "support/processes.h"
#include "support/relay.h"

namespace permllm::test {
namespace {

using std::chrono_literals::operator""ms;

// Provider and helper, and an invite. cuts: of connections to the provider, after so many bytes.
class World {
 public:
  explicit World(const std::map<std::size_t, std::size_t>& cuts = {},
                 const std::string& model = PERMLLM_TINY_MODELS "/llama.gguf") {
    make_keys(scratch_.path());
    helper_.emplace(std::vector<std::string>{"helper", "--identity", (scratch_ / "helper").string(), "--events",
                                             "--log-level", "error"},
                    PERMLLM_BINARY);
    const auto named = [](std::uint16_t port) { return fmt::format("localhost:{}", port); };  // to be resolved
    const std::string helper = named(port_of(*helper_));
    provider_.emplace(std::vector<std::string>{"provider", "--identity", (scratch_ / "provider").string(), "--events",
                                               "--log-level", "error", "--helper", helper, "--state",
                                               (scratch_ / "kept").string(), "--model", model, "--context", "64"},
                      PERMLLM_BINARY);
    proxy_.emplace(port_of(*provider_), cuts);
    make_invite(scratch_.path(), "alice", named(proxy_->port()), helper);
  }
  // From a shell, with words behind it.
  static Process start(const std::string& words) {
    return Process({"-c", fmt::format("exec {} {}", PERMLLM_BINARY, words)}, "/bin/sh");
  }
  std::string user() const {
    return fmt::format("--invite '{}' --state '{}'", (scratch_ / "alice.invite").string(),
                       (scratch_ / "alice").string());
  }
  // What the kernel says of the process.
  static void expect_filtered(pid_t pid) {
    const std::string status = read_text(fmt::format("/proc/{}/status", pid));
    EXPECT_NE(status.find("NoNewPrivs:\t1\n"), std::string::npos);
    if (sandbox_support().seccomp) {
      EXPECT_NE(status.find("Seccomp:\t2\n"), std::string::npos);
    }
  }
  std::filesystem::path operator/(const std::string& name) const { return scratch_ / name; }
  std::size_t cuts() const { return proxy_->cuts(); }

 private:
  Scratch scratch_;
  std::optional<Process> helper_, provider_;
  std::optional<CuttingProxy> proxy_;
};

TEST(SandboxedUser, chat_answers_over_connections_that_break_and_saves) {
  const World world(std::map<std::size_t, std::size_t>{
      {1, 20'000}});  // connection 0 hears what there is, 1 is the first conversation's
  ASSERT_EQ(mkfifo((world / "lines").c_str(), 0600), 0);
  std::filesystem::create_directories(world / "home");
  // Asks twice and says a last line, which may be a mistake.
  const auto chat = [&](const std::string& last) {
    Process process = World::start(fmt::format("chat {} --chat-format none --max-tokens 6 --json <'{}' 2>'{}'",
                                               world.user(), (world / "lines").string(), (world / "errors").string()));
    {
      std::ofstream lines(world / "lines");
      for (const char* question : {"Is it so?", "Yes"}) {
        lines << question << std::endl;
        EXPECT_GT(process.wait_for("done").at("output_ids").size(), 0u);
        World::expect_filtered(process.pid());
      }
      lines << last << std::endl;
    }
    return process.wait();
  };
  EXPECT_EQ(chat("/save talk.md"), 0) << read_text(world / "errors");
  EXPECT_EQ(world.cuts(), 1u);
  EXPECT_NE(read_text(world / "alice/saved/talk.md").find("## Question\n\nIs it so?"), std::string::npos);
  EXPECT_EQ(chat(fmt::format("/save {}", (world / "home/talk.md").string())), 2);
  EXPECT_NE(read_text(world / "errors").find("/save: writes into"), std::string::npos) << read_text(world / "errors");
  if (sandbox_support().landlock == 0)
    GTEST_SKIP() << "landlock is not in this kernel: links out of the folder are not tried";
  std::filesystem::create_directory_symlink(world / "home", world / "alice/saved/link");
  EXPECT_EQ(chat("/save link/talk.md"), 2);
  EXPECT_NE(read_text(world / "errors").find("cannot be written: Permission denied"), std::string::npos)
      << read_text(world / "errors");
  EXPECT_TRUE(std::filesystem::is_empty(world / "home"));
}

// All parts of a draft model that was split may be read, whichever is named, and by a link that has another name.
TEST(SandboxedUser, chat_reads_a_draft_model_in_parts) {
  const Scratch models;
  const auto write = [&](const std::string& name, const std::vector<std::uint8_t>& bytes) {
    std::ofstream(models / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  };
  write("whole.gguf", tiny_llama().finish());
  std::vector<GgufWriter> parts = tiny_llama().split(2);
  const std::string names[] = {"draft-00001-of-00002.gguf", "draft-00002-of-00002.gguf"};
  for (std::size_t i = 0; i < 2; ++i) write(names[i], parts[i].finish());
  std::filesystem::create_symlink(models / names[1], models / "link.gguf");
  const World world({}, (models / "whole.gguf").string());
  const auto chat = [&](const std::string& more) {
    write_text(world / "question", "Is it so?\n");
    Process process =
        World::start(fmt::format("chat {} --chat-format none --max-tokens 6 --json {} <'{}' 2>'{}'", world.user(), more,
                                 (world / "question").string(), (world / "errors").string()));
    const auto done = process.wait_for("done");
    EXPECT_EQ(process.wait(), 0) << read_text(world / "errors");
    return done;
  };
  const auto plain = chat("");
  for (const std::string& name : {names[0], names[1], std::string("link.gguf")}) {
    const auto drafted = chat(fmt::format("--draft 2 --draft-model '{}'", (models / name).string()));
    EXPECT_EQ(drafted.at("output_ids"), plain.at("output_ids")) << name;
    EXPECT_GT(drafted.at("drafts").at("tokens").get<int>(), 0) << name;
  }
}

TEST(SandboxedUser, serve_answers_fills_its_stock_and_reads_its_settings_again) {
  const World world;
  const auto config = world / "serve.toml";
  write_text(config, "[serve]\nlog-level = \"info\"\n");
  write_text(world / "keys", "a-key-of-16-letters\n");
  ASSERT_EQ(chmod((world / "keys").c_str(), 0600), 0);
  Process process =
      World::start(fmt::format("serve {} --config '{}' --key-file '{}' --listen 127.0.0.1:0 --stock 24 --events 2>'{}'",
                               world.user(), config.string(), (world / "keys").string(), (world / "log").string()));
  httplib::Client client("127.0.0.1", process.wait_for("ready").at("port").get<int>());
  client.set_read_timeout(60);
  const httplib::Headers key{{"Authorization", "Bearer a-key-of-16-letters"}};
  World::expect_filtered(process.pid());
  EXPECT_NE(read_text(world / "log").find("sandbox: " + sandbox_support().text()), std::string::npos)
      << read_text(world / "log");
  const auto comes = [](const std::function<bool()>& truth) {
    for (int i = 0; i < 1500 && !truth(); ++i) std::this_thread::sleep_for(20ms);
    return truth();
  };
  for (const char* prompt : {"Is it so?", "Or is it not?"}) {  // two conversations
    const auto reply = client.Post("/v1/completions", key, nlohmann::json{{"prompt", prompt}, {"max_tokens", 4}}.dump(),
                                   "application/json");
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->status, 200) << reply->body;
    EXPECT_EQ(nlohmann::json::parse(reply->body).at("usage").at("completion_tokens"), 4);
  }
  const auto ready = [&] {
    const auto reply = client.Get("/metrics", key);
    const std::size_t at = reply ? reply->body.find("\npermllm_gateway_stock_tokens ") : std::string::npos;
    return at == std::string::npos ? 0.0 : std::stod(reply->body.substr(at + 30));
  };
  EXPECT_TRUE(comes([&] { return ready() >= 24; })) << ready();
  write_text(config, "[serve]\nlog-level = \"debug\"\n");
  kill(process.pid(), SIGHUP);
  EXPECT_TRUE(comes([&] { return read_text(world / "log").find("reloaded: ") != std::string::npos; }))
      << read_text(world / "log");
  kill(process.pid(), SIGTERM);
  EXPECT_EQ(process.wait(), 0);
}

}  // namespace
}  // namespace permllm::test
