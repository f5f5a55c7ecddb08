// Provider and helper as services: signals, status, limits and logs while a user asks.
#include <gtest/gtest.h>
#include <httplib.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <list>
#include <mutex>
#include <optional>
#include <regex>
#include <thread>

#include "net/tls.h"
#include "service/identity.h"
#include "support/gguf_writer.h"
#include "support/processes.h"
#include "support/small_disk.h"
#include "support/tcp.h"

namespace permllm::test {
namespace {

using std::chrono_literals::operator""ms;

// A service whose standard error goes to a file; before: words of the shell ahead of the program, like "NAME=value ".
Process start(const std::vector<std::string>& arguments, const std::filesystem::path& log,
              const std::string& before = "") {
  std::string command = before + "exec " + PERMLLM_BINARY;
  for (const std::string& argument : arguments) command += " '" + argument + "'";
  return Process({"-c", command + " 2>" + log.string()}, "/bin/sh");
}

httplib::Result get(int port, const char* path) {
  httplib::Client client("127.0.0.1", port);
  client.set_read_timeout(10);
  return client.Get(path);
}
double value_of(const std::string& text, const std::string& name) {
  std::smatch match;
  const std::regex line("(^|\n)" + std::regex_replace(name, std::regex(R"([{}"])"), R"(\$&)") + " ([0-9.e+]+)\n");
  return std::regex_search(text, match, line) ? std::stod(match[2]) : -1;
}

// Waits until a file holds a text so many times.
testing::AssertionResult comes(const std::filesystem::path& path, const std::string& text, int times = 1) {
  for (int i = 0; i < 500; ++i) {
    const std::string all = read_text(path);
    int found = 0;
    for (std::size_t at = all.find(text); at != std::string::npos; at = all.find(text, at + 1)) ++found;
    if (found >= times) return testing::AssertionSuccess();
    std::this_thread::sleep_for(20ms);
  }
  return testing::AssertionFailure() << text << " is not in:\n" << read_text(path);
}

// What a service manager hears.
class Manager {
 public:
  explicit Manager(const std::filesystem::path& path) : fd_(socket(AF_UNIX, SOCK_DGRAM, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.string().copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    thread_ = std::jthread([this] {
      char text[500];
      for (ssize_t got; (got = recv(fd_, text, sizeof text, 0)) > 0;) {
        const std::lock_guard lock(mutex_);
        all_ += std::string(text, static_cast<std::size_t>(got)) + "\n";
      }
    });
  }
  ~Manager() {
    shutdown(fd_, SHUT_RD);
    thread_.join();
    close(fd_);
  }
  bool heard(const std::string& words) {
    const std::lock_guard lock(mutex_);
    return all_.find(words) != std::string::npos;
  }
  bool hears(const std::string& words) {
    for (int i = 0; i < 500 && !heard(words); ++i) std::this_thread::sleep_for(20ms);
    return heard(words);
  }

 private:
  int fd_;
  std::mutex mutex_;
  std::string all_;
  std::jthread thread_;
};

TEST(Operation, services_under_a_manager) {
  const Scratch scratch;
  const std::string provider = (scratch / "provider").string(), helper = (scratch / "helper").string();
  const auto provider_log = scratch / "provider.log", helper_log = scratch / "helper.log",
             config = scratch / "permllm.toml";
  make_keys(scratch.path());

  Process helping = start(
      {"helper", "--events", "--identity", helper, "--status", "127.0.0.1:0", "--log", "json", "--log-level", "debug"},
      helper_log);
  const int helper_status = port_of(helping, "status"), helper_port = port_of(helping);
  EXPECT_EQ(get(helper_status, "/readyz")->status, 200);

  Manager manager(scratch / "notify");
  const std::string settings = "[provider]\nlog-level = ";
  write_text(config, settings + "\"debug\"\n");
  Process providing =
      start({"provider", "--config", config.string(), "--events", "--identity", provider, "--model", PERMLLM_TEST_MODEL,
             "--context", "128", "--helper", at(helper_port), "--status", "127.0.0.1:0", "--log", "json"},
            provider_log, "NOTIFY_SOCKET=" + (scratch / "notify").string() + " ");
  const int status = port_of(providing, "status");
  {  // before the model is registered
    EXPECT_EQ(get(status, "/healthz")->status, 200);
    const auto ready = get(status, "/readyz");
    EXPECT_EQ(ready->status, 503);
    EXPECT_TRUE(std::regex_match(ready->body, std::regex("(starting|load: .*|registration: .*)\n"))) << ready->body;
    EXPECT_FALSE(manager.heard("READY=1"));
  }
  const int port = port_of(providing);
  EXPECT_EQ(get(status, "/readyz")->body, "ready\n");
  EXPECT_TRUE(manager.hears("READY=1"));

  // No core file, and files for nobody else.
  const std::string proc = "/proc/" + std::to_string(providing.pid());
  EXPECT_TRUE(std::regex_search(read_text(proc + "/limits"), std::regex("Max core file size +0 +0 ")));
  EXPECT_NE(read_text(proc + "/status").find("Umask:\t0077\n"), std::string::npos);

  // A user among 300 connections that say nothing, at each service.
  std::list<RawTcp> silent;
  for (int i = 0; i < 300; ++i) {
    EXPECT_TRUE(silent.emplace_back(port).connected());
    EXPECT_TRUE(silent.emplace_back(helper_port).connected());
  }
  const std::string invite = make_invite(scratch.path(), "alice", at(port), at(helper_port));
  const auto chat = [&](const char* tokens) {
    return std::vector<std::string>{"chat", "--invite", invite, "--json", "--ahead", "4", "--max-tokens", tokens};
  };
  const Result answered = run(chat("4"), "echo \"Is it so?\" | ");
  ASSERT_EQ(answered.status, 0) << answered.error;
  const auto done = events(answered.out).back();
  ASSERT_EQ(done.at("output_ids").size(), 4u);
  EXPECT_TRUE(comes(provider_log, "\"session_ends\""));
  EXPECT_TRUE(comes(helper_log, "\"session_ends\""));
  const std::string text = get(status, "/metrics")->body;
  EXPECT_EQ(value_of(text, "permllm_sessions_begun_total"), 1) << text;
  EXPECT_EQ(value_of(text, R"(permllm_sessions_ended_total{code="none",outcome="ended"})"), 1) << text;
  EXPECT_EQ(value_of(text, "permllm_sessions_open"), 0) << text;
  EXPECT_EQ(value_of(text, "permllm_connections_total"), 3) << text;
  EXPECT_EQ(value_of(text, "permllm_pass_seconds_count"), 4) << text;  // the prompt, and each token but the last
  EXPECT_EQ(value_of(text, "permllm_prompt_seconds_count"), 1) << text;
  EXPECT_EQ(value_of(text, "permllm_tokens_total"), 4) << text;
  EXPECT_EQ(value_of(text, "permllm_rows_total"), done.at("prompt_tokens").get<int>() + 3) << text;
  EXPECT_EQ(value_of(text, "permllm_certificate_days_left"), 364) << text;
  EXPECT_GE(value_of(text, R"(permllm_refused_handshakes_total{reason="crowded"})"), 284) << text;
  const double sent = done.at("bytes").at("offline_provider").at("sent");
  EXPECT_GT(value_of(text, R"(permllm_offline_bytes_total{from="helper"})"), 1e6) << text;
  EXPECT_GT(value_of(text, R"(permllm_offline_bytes_total{from="user"})"), 0.99 * sent) << text;
  EXPECT_LE(value_of(text, R"(permllm_offline_bytes_total{from="user"})"), sent) << text;
  EXPECT_GT(value_of(text, "permllm_model_bytes"), 5e7) << text;
  EXPECT_EQ(
      value_of(get(helper_status, "/metrics")->body, R"(permllm_sessions_ended_total{code="none",outcome="ended"})"),
      1);
  silent.clear();

  // SIGHUP: what can be taken from the file is, and the log says so.
  write_text(config, settings + "\"info\"\nmax-connections = 100\nmax-sessions = 1\npatience = 60\n");
  kill(providing.pid(), SIGHUP);
  EXPECT_TRUE(
      comes(provider_log, "reloaded: max-sessions = 1, max-connections = 100, log-level = info; certificate until "));
  EXPECT_TRUE(comes(provider_log, "a restart is needed for patience"));
  EXPECT_TRUE(manager.hears("RELOADING=1\nMONOTONIC_USEC="));
  write_text(config, settings + "\"loud\"\n");
  kill(providing.pid(), SIGHUP);
  EXPECT_TRUE(comes(provider_log, "not reloaded: "));

  // A session beside the one that may be is refused. SIGTERM: the one under way gets its answer, the next is refused.
  std::string under_way = "echo \"Is it so?\" | exec " + std::string(PERMLLM_BINARY);
  for (const std::string& argument : chat("60")) under_way += " '" + argument + "'";
  Process asking({"-c", under_way}, "/bin/sh");
  asking.wait_for("token");
  const Result full = run(chat("4"), "echo \"Is it so?\" | ");
  EXPECT_EQ(full.status, 1);
  EXPECT_NE(full.error.find("as many conversations are open as may be (1, of all users); try again in a moment"),
            std::string::npos)
      << full.error;
  kill(providing.pid(), SIGTERM);
  EXPECT_TRUE(comes(provider_log, "\"drain\""));
  const Result refused = run(chat("4"), "echo \"Is it so?\" | ");
  EXPECT_EQ(refused.status, 1);
  EXPECT_NE(refused.error.find("is shutting down; try again in a moment"), std::string::npos) << refused.error;
  EXPECT_EQ(get(status, "/readyz")->body, "shutting down\n");
  EXPECT_EQ(asking.wait_for("done").at("output_ids").size(), 60u);
  EXPECT_EQ(providing.wait(), 0);
  EXPECT_TRUE(manager.hears("STOPPING=1"));
  kill(helping.pid(), SIGINT);
  EXPECT_EQ(helping.wait(), 0);

  // Why the two were refused, as programs read it.
  const auto lines = events(read_text(provider_log));
  EXPECT_GE(std::count_if(lines.begin(), lines.end(),
                          [](const auto& line) {
                            return line.value("code", "") == "resource" && line.value("reason", "") == "busy";
                          }),
            2);
  // Each line is an object; none holds what was asked or answered.
  for (const auto& log : {provider_log, helper_log}) {
    const std::string all = read_text(log);
    for (const auto& line : events(all))
      EXPECT_TRUE(line.contains("time") && line.contains("party") && line.contains("event")) << line;
    EXPECT_EQ(all.find("Is it so"), std::string::npos);
    EXPECT_EQ(all.find(done.at("text").get<std::string>()), std::string::npos);
  }
  EXPECT_NE(read_text(provider_log).find("\"peer\":\"alice\""), std::string::npos);
}

// A helper and a provider's keys.
struct Keys {
  const Scratch scratch;
  const std::string helper = (scratch / "helper").string(), provider = (scratch / "provider").string();
  Keys() { make_keys(scratch.path()); }
};

TEST(Operation, one_peer_fills_no_log_and_ports_in_use_are_told) {
  const Keys keys;
  const auto log = keys.scratch / "helper.log";
  Process helping = start({"helper", "--events", "--identity", keys.helper, "--status", "127.0.0.1:0"}, log);
  const int status = port_of(helping, "status"), port = port_of(helping);
  const std::string address = at(port), status_address = at(status);

  const Credentials credentials = load_credentials(keys.provider, Role::provider);
  for (int i = 0; i < 40; ++i) {
    const auto link = tls_connect(credentials, address, Role::helper, Clock::now() + std::chrono::seconds(5));
    link->send({9, 0, 0, {}});
    EXPECT_EQ(link->receive(Clock::now() + std::chrono::seconds(5), "a refusal", 1024).tag, 1u);
  }

  const Result shared = run({"helper", "--identity", keys.helper, "--status", status_address}, "timeout 20 ");
  const Result taken = run({"helper", "--identity", keys.helper, "--listen", address}, "timeout 20 ");
  EXPECT_EQ(shared.status, 1);
  EXPECT_NE(shared.error.find("--status: " + status_address + ": nobody can listen there; does another program?"),
            std::string::npos)
      << shared.error;
  EXPECT_EQ(taken.status, 1);
  EXPECT_NE(taken.error.find("--listen: " + address + ": Address already in use"), std::string::npos) << taken.error;

  kill(helping.pid(), SIGTERM);
  EXPECT_EQ(helping.wait(), 0);
  const std::string all = read_text(log);
  std::size_t lines = 0;
  for (std::size_t at = all.find("a provider may not begin with message 9"); at != std::string::npos;
       at = all.find("a provider may not begin with message 9", at + 1))
    ++lines;
  EXPECT_EQ(lines, 20u) << all;
}

// The system sends SIGBUS to whoever reads what was cut off; here it comes without that.
TEST(Operation, a_helper_whose_store_is_cut_short_says_so_and_ends) {
  const Keys keys;
  const auto log = keys.scratch / "helper.log";
  const std::string store = (keys.scratch / "store").string();
  Process helping = start({"helper", "--events", "--identity", keys.helper, "--store", store, "--log", "json"}, log);
  helping.wait_for("ready");
  kill(helping.pid(), SIGBUS);
  EXPECT_EQ(helping.wait(), 1);
  const auto last = events(read_text(log)).back();
  EXPECT_EQ(last.at("event"), "file_lost");
  EXPECT_NE(last.at("text").get<std::string>().find("a file of " + store + " cannot be read any more"),
            std::string::npos)
      << last;
  EXPECT_NE(last.at("text").get<std::string>().find("start it again"), std::string::npos) << last;
}

TEST(Operation, a_second_signal_ends_at_once_and_few_resources_refuse) {
  const Keys keys;
  const auto log = keys.scratch / "helper.log";
  Process helping = start({"helper", "--events", "--identity", keys.helper, "--status", "127.0.0.1:0", "--max-memory",
                           "1KB", "--log-level", "debug", "--patience", "60"},
                          log, "ulimit -n 128; ");
  const int status = port_of(helping, "status"), port = port_of(helping);
  EXPECT_TRUE(comes(log, "128 open files are allowed, enough for 8 connections, not 256"));
  const auto ready = get(status, "/readyz");
  EXPECT_EQ(ready->status, 503);
  EXPECT_EQ(ready->body, "the process has as much memory as it may\n");
  const std::string text = get(status, "/metrics")->body;
  EXPECT_EQ(value_of(text, "process_max_fds"), 128) << text;

  // A provider is told.
  Process providing({"provider", "--events", "--identity", keys.provider, "--model", "llama-7b", "--synthetic",
                     "--layers", "1", "--width", "128", "--helper", at(port)},
                    PERMLLM_BINARY);
  try {
    providing.wait_for("ready");
    ADD_FAILURE() << "was not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.reason(), Reason::busy) << error.what();
  }
  // A connection that is served, and says nothing: the drain waits for it, a second signal does not.
  const auto link = tls_connect(load_credentials(keys.provider, Role::provider), at(port), Role::helper,
                                Clock::now() + std::chrono::seconds(5));
  EXPECT_TRUE(comes(log, "a connection begins", 2));  // the refused one before it
  const Clock::time_point begin = Clock::now();
  kill(helping.pid(), SIGTERM);
  EXPECT_TRUE(comes(log, "no new sessions"));
  EXPECT_EQ(get(status, "/readyz")->body, "shutting down\n");
  kill(helping.pid(), SIGINT);
  EXPECT_EQ(helping.wait(), 0);
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(10));
}

// Keys, a model, and the services on them.
struct Small {
  Small() {
    make_keys(scratch.path());
    std::vector<std::string> pieces{"<unk>", "<s>", "</s>"};
    for (char letter = 'a'; letter <= 'z'; ++letter) pieces.push_back(std::string("\xe2\x96\x81") + letter);
    const auto bytes = tiny_llama({.chat_template = "", .pieces = pieces}).finish();
    write_text(model, {bytes.begin(), bytes.end()});
  }
  Process provider(int helper_port, const std::string& state) {
    return start({"provider", "--events", "--identity", (scratch / "provider").string(), "--model", model, "--context",
                  "64", "--helper", at(helper_port), "--state", state, "--status", "127.0.0.1:0", "--log", "json"},
                 log);
  }
  std::vector<std::string> helper(const std::string& listen) const {
    return {"helper", "--events", "--identity", (scratch / "helper").string(), "--listen", listen};
  }
  // A question of a user who has nothing in stock.
  Result ask(const std::string& invite) {
    const std::string state = (scratch / ("user" + std::to_string(++users))).string();
    return run({"chat", "--invite", invite, "--max-tokens", "4", "--ahead", "4", "--state", state, "--json"},
               "echo 'a b c' | ");
  }
  Scratch scratch;
  std::string model = (scratch / "tiny.gguf").string();
  std::filesystem::path log = scratch / "provider.log";
  int users = 0;
};

TEST(Operation, a_provider_waits_for_its_helper_and_sends_it_the_model_again) {
  Small small;
  std::optional<Process> helping;
  helping.emplace(small.helper("127.0.0.1:0"), PERMLLM_BINARY);
  const int port = port_of(*helping);
  const auto end_helper = [&] {
    kill(helping->pid(), SIGKILL);
    helping.reset();
  };
  const auto begin_helper = [&] {
    helping.emplace(small.helper(at(port)), PERMLLM_BINARY);
    EXPECT_EQ(port_of(*helping), port);
  };
  end_helper();
  const std::string state = (small.scratch / "state").string();
  std::optional<Process> providing(small.provider(port, state));
  int status = port_of(*providing, "status");
  EXPECT_TRUE(comes(small.log, R"("event":"waiting")"));
  const auto waiting = get(status, "/readyz");
  EXPECT_EQ(waiting->status, 503);
  EXPECT_TRUE(waiting->body.starts_with("waiting for the helper: ")) << waiting->body;
  begin_helper();
  const std::string invite = make_invite(small.scratch.path(), "alice", address_of(*providing), at(port));
  EXPECT_EQ(small.ask(invite).status, 0);
  EXPECT_EQ(get(status, "/readyz")->body, "ready\n");

  // It comes back without the model; who finds it so is told.
  end_helper();
  begin_helper();
  const Result missing = small.ask(invite);
  EXPECT_TRUE(missing.status == 0 || missing.error.find("does not hold") != std::string::npos) << missing.error;
  EXPECT_TRUE(comes(small.log, "the helper was sent the model, and has it"));
  const Result again = small.ask(invite);
  EXPECT_EQ(again.status, 0) << again.error;

  // The model was there once: stock can be used while the helper is away.
  end_helper();
  kill(providing->pid(), SIGTERM);
  EXPECT_EQ(providing->wait(), 0);
  providing.emplace(small.provider(port, state));
  status = port_of(*providing, "status");
  port_of(*providing);
  const auto alone = get(status, "/readyz");
  EXPECT_EQ(alone->status, 503);
  EXPECT_TRUE(alone->body.starts_with("waiting for the helper: ")) << alone->body;
  kill(providing->pid(), SIGTERM);
  EXPECT_EQ(providing->wait(), 0);
}

TEST(Operation, a_conversation_that_is_idle_keeps_no_service_from_ending) {
  Small small;
  Process helping(small.helper("127.0.0.1:0"), PERMLLM_BINARY);
  const int port = port_of(helping);
  Process providing = small.provider(port, (small.scratch / "state").string());
  const std::string invite = make_invite(small.scratch.path(), "alice", address_of(providing), at(port));
  const auto lines = small.scratch / "lines";
  ASSERT_EQ(mkfifo(lines.c_str(), 0600), 0);
  const std::string state = (small.scratch / "user").string();
  Process asking({"-c", std::string("exec ") + PERMLLM_BINARY + " chat --json --max-tokens 4 --grace 0 --invite " +
                            invite + " --state " + state + " < " + lines.string()},
                 "/bin/sh");
  std::ofstream typing(lines);
  typing << "a b c" << std::endl;
  asking.wait_for("done");
  kill(providing.pid(), SIGTERM);
  EXPECT_EQ(providing.wait(), 0);
  const std::string log = read_text(small.log);
  EXPECT_NE(log.find("it was idle, and the provider is shutting down"), std::string::npos) << log;
  EXPECT_EQ(log.find("drain_ends"), std::string::npos) << log;
}

TEST(Operation, a_full_disk_stands_in_the_providers_log) {
  SmallDisk disk(40 << 20);
  if (!disk.mounted()) GTEST_SKIP() << "may not mount";
  Small small;
  Process helping(small.helper("127.0.0.1:0"), PERMLLM_BINARY);
  const int port = port_of(helping);
  Process providing = small.provider(port, (disk.path() / "state").string());
  const std::string invite = make_invite(small.scratch.path(), "alice", address_of(providing), at(port));
  EXPECT_EQ(small.ask(invite).status, 0);
  disk.fill(1 << 20);
  EXPECT_NE(small.ask(invite).status, 0);
  EXPECT_TRUE(comes(small.log, R"("level":"error")"));
  EXPECT_TRUE(comes(small.log, R"("event":"disk_full")"));
}

}  // namespace
}  // namespace permllm::test
