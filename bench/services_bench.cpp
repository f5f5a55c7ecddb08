// Many users at one provider, with everything real: provider, helper and each user's chat are processes of their own and talk over TLS; the
// users' links to the provider pass a relay that delays them by the round trip. Norms are fused, as they are where nobody says otherwise. Material
// is made beforehand. What counts is the time in which all users are decoding: from the last one's first token to the first one's last.
// Needs the model: PERMLLM_TEST_MODEL in the environment, or models/ of the source.
#include <fmt/format.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <future>
#include <limits>
#include <mutex>
#include <numeric>
#include <optional>
#include <sstream>

#include "base/small_file.h"
#include "cli/invite.h"
#include "cli/local_parties.h"
#include "net/units.h"
#include "service/identity.h"
#include "session/report.h"
#include "support/relay.h"

namespace permllm {
namespace {

using Json = nlohmann::json;

pid_t provider_pid = -1;  // a signal handler has no other place to look

std::string model_path() {
  const char* path = std::getenv("PERMLLM_TEST_MODEL");
  return path != nullptr ? path : PERMLLM_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

struct Options {
  std::vector<std::size_t> users{1, 16};
  std::vector<std::string> profiles{"paper", "fast", "open"};
  std::string model = model_path(), binary = PERMLLM_BINARY, rtt = "10ms";
  std::size_t prompt = 8, tokens = 24, context = 1024;

  std::size_t most_users() const { return *std::max_element(users.begin(), users.end()); }
};

// Of another process, by the kernel's files about it.
double cpu_seconds(pid_t process) {
  std::ifstream in(fmt::format("/proc/{}/stat", process));
  std::string text{std::istreambuf_iterator<char>(in), {}};
  std::istringstream fields(text.substr(std::min(text.size(), text.rfind(')') + 1)));  // behind the name
  std::string skipped;
  for (int i = 3; i < 14; ++i) fields >> skipped;
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}
double resident_mb(pid_t process) {
  std::ifstream in(fmt::format("/proc/{}/status", process));
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("VmRSS:")) return std::stod(line.substr(6)) * 1024e-6;
  }
  throw Error(Code::resource, "VmRSS", "the provider's process is gone");
}

// The services of one profile, and users with material in stock.
class World {
 public:
  World(const Options& options, const std::string& profile) : options_(options) {
    const Clock::duration round_trip = parse_duration(options.rtt, "--rtt");
    const auto helper = create_identity(place("helper"), Role::helper, "helper", 7).certificate;
    const auto provider = create_identity(place("provider"), Role::provider, "provider", 7).certificate;
    replace_file(place("helper") / "peers" / "provider.pem", provider.pem(), 0644);
    replace_file(place("provider") / "peers" / "helper.pem", helper.pem(), 0644);
    write_new_file(place("question"), question() + "\n", 0600);
    const auto address = [](const Json& ready) { return fmt::format("127.0.0.1:{}", ready.at("port").get<int>()); };
    helper_.emplace(service("helper", {}), options.binary);
    const std::string helper_address = address(helper_->wait_for("ready"));
    provider_.emplace(service("provider", {"--model", options.model, "--profile", profile, "--context",
                                           std::to_string(options.context), "--helper", helper_address, "--state",
                                           place("state").string()}),
                      options.binary);
    provider_pid = provider_->pid();
    relay_.emplace(provider_->wait_for("ready").at("port").get<std::uint16_t>(), round_trip);
    for (std::size_t i = 0; i < options.most_users(); ++i) {
      save_invite(make_invite(place("provider"), name(i), helper, relay_->address(), helper_address,
                              std::numeric_limits<std::int64_t>::max(), 7),
                  place(name(i) + ".invite"));
    }
  }
  ~World() { provider_pid = -1; }
  World(const World&) = delete;

  // Material of a conversation for each of so many users.
  void fill(std::size_t users) const {
    for (std::size_t i = 0; i < users; ++i) {
      fmt::print(stderr, "material for user {} of {}\n", i + 1, users);
      Process stock(of_user("stock", i,
                            {"--fill", std::to_string(options_.prompt + options_.tokens + 1), "--answers",
                             std::to_string(options_.tokens)}),
                    options_.binary);
      stock.wait_for("filled");
      if (stock.wait() != 0) throw Error(Code::resource, "stock", "failed");
    }
  }
  // A user's chat, which has asked: the shell is what gives it the question as its input.
  Process chat(std::size_t user) const {
    std::vector<std::string> arguments{"-c", "exec \"$@\" <\"$0\"", place("question").string(), options_.binary};
    const auto own = of_user(
        "chat", user, {"--chat-format", "none", "--max-tokens", std::to_string(options_.tokens), "--grace", "0"});
    arguments.insert(arguments.end(), own.begin(), own.end());
    return Process(arguments, "/bin/sh");
  }
  pid_t provider() const { return provider_->pid(); }
  pid_t helper() const { return helper_->pid(); }

 private:
  std::filesystem::path place(const std::string& what) const { return directory_.path() / what; }
  static std::string name(std::size_t user) { return "user" + std::to_string(user); }
  // What a small model goes on with for as long as it is let.
  std::string question() const {
    std::string text = "the";
    for (std::size_t i = 1; i < options_.prompt; ++i) text += " the";
    return text;
  }
  // All users have one address, the relay's.
  std::vector<std::string> service(const std::string& role, const std::vector<std::string>& more) const {
    std::vector<std::string> all{role, "--events",         "--log-level", "off",        "--drain",
                                 "0",  "--max-handshakes", "256",         "--identity", place(role).string()};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::vector<std::string> of_user(const std::string& command, std::size_t user,
                                   const std::vector<std::string>& more) const {
    std::vector<std::string> all{
        command, "--json", "--invite", place(name(user) + ".invite").string(), "--state", place(name(user)).string()};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  const Options& options_;
  TemporaryDirectory directory_;
  std::optional<Process> helper_, provider_;
  std::optional<test::DelayRelay> relay_;
};

// What the processes had used at a moment.
struct Moment {
  Clock::time_point time;
  double provider = 0, helper = 0, users = 0, relay = 0;  // processor seconds
  double resident = 0;                                    // of the provider, MB
  std::size_t tokens = 0;                                 // of all answers
};

// Users at one provider, from their start to the end of their answers.
class Crowd {
 public:
  Crowd(const World& world, std::size_t users, std::size_t tokens) : world_(world), tokens_(tokens), arrivals_(users) {
    for (std::size_t i = 0; i < users; ++i) chats_.push_back(world.chat(i));
    for (std::size_t i = 0; i < users; ++i) {
      answers_.push_back(std::async(std::launch::async, [this, i] {
        return chats_[i].wait_for("done", [this, i](const Json& event) {
          if (event.at("event") == "token") count(i);
        });
      }));
    }
  }
  // Chats that are left come to their end first: threads read from them.
  ~Crowd() {
    for (const Process& chat : chats_) kill(chat.pid(), SIGTERM);
    answers_.clear();
  }
  Crowd(const Crowd&) = delete;

  // Waits for all answers; their reports.
  std::vector<Json> wait() {
    std::vector<Json> reports;
    for (auto& answer : answers_) reports.push_back(answer.get());
    for (std::size_t i = 0; i < arrivals_.size(); ++i) {
      if (arrivals_[i].size() < tokens_)
        throw Error(Code::resource, "chat",
                    fmt::format("an answer ended after {} tokens, of {}", arrivals_[i].size(), tokens_));
      if (reports[i].at("bytes").at("offline_provider").at("sent") != 0)
        throw Error(Code::resource, "chat", "material was made beside an answer: there was to be enough");
    }
    if (end_.time <= begin_.time)
      throw Error(Code::usage, "--tokens", "an answer was over before all others had begun; let them be longer");
    return reports;
  }
  const Moment& begin() const { return begin_; }  // the last first token
  const Moment& end() const { return end_; }      // the first last token
  double seconds() const { return std::chrono::duration<double>(end_.time - begin_.time).count(); }
  // A user's tokens between the two, with the part of the one under way.
  double tokens(std::size_t user) const { return progress(user, end_.time) - progress(user, begin_.time); }
  // The longest time that a token took then.
  double longest_wait() const {
    Clock::duration longest{};
    for (const auto& times : arrivals_) {
      for (std::size_t i = 1; i < times.size(); ++i) {
        if (times[i] > begin_.time && times[i - 1] < end_.time) longest = std::max(longest, times[i] - times[i - 1]);
      }
    }
    return std::chrono::duration<double>(longest).count();
  }

 private:
  void count(std::size_t user) {
    const std::lock_guard lock(mutex_);
    arrivals_[user].push_back(Clock::now());
    const auto having = [&](std::size_t tokens) {
      return static_cast<std::size_t>(
          std::count_if(arrivals_.begin(), arrivals_.end(), [&](const auto& a) { return a.size() >= tokens; }));
    };
    if (arrivals_[user].size() == 1 && having(1) == arrivals_.size()) begin_ = now();
    if (arrivals_[user].size() == tokens_ && having(tokens_) == 1) end_ = now();
  }
  Moment now() const {
    Moment moment{Clock::now(),
                  cpu_seconds(world_.provider()),
                  cpu_seconds(world_.helper()),
                  0,
                  report_of_this_process().cpu_seconds,
                  resident_mb(world_.provider()),
                  0};
    for (const Process& chat : chats_) moment.users += cpu_seconds(chat.pid());
    for (const auto& times : arrivals_) moment.tokens += times.size();
    return moment;
  }
  double progress(std::size_t user, Clock::time_point time) const {
    const auto& times = arrivals_[user];
    const auto next = std::upper_bound(times.begin(), times.end(), time);
    const double whole = static_cast<double>(next - times.begin());
    if (next == times.end()) return whole;
    return whole + std::chrono::duration<double>(time - *(next - 1)) / (*next - *(next - 1));
  }

  const World& world_;
  const std::size_t tokens_;
  std::mutex mutex_;
  std::vector<std::vector<Clock::time_point>> arrivals_;  // of each user's tokens
  Moment begin_, end_;
  std::vector<Process> chats_;
  std::vector<std::future<Json>> answers_;
};

// Prints a line; returns tokens a second in all.
double measure(const Options& options, const std::string& profile, const World& world, std::size_t users,
               std::optional<double> alone) {
  world.fill(users);
  const double before = resident_mb(world.provider());
  Crowd crowd(world, users, options.tokens);
  std::size_t slots = 0;
  for (const Json& report : crowd.wait()) slots += report.at("prompt_tokens").get<std::size_t>();
  const Moment &begin = crowd.begin(), &end = crowd.end();
  slots += end.tokens;
  std::vector<double> tokens;
  for (std::size_t i = 0; i < users; ++i) tokens.push_back(crowd.tokens(i));
  const double all = std::accumulate(tokens.begin(), tokens.end(), 0.0), rate = all / crowd.seconds(),
               more = end.resident - before;
  fmt::print("{:<5} {:>3} users: {:6.2f} tokens/s in all for {:.1f} s", profile, users, rate, crowd.seconds());
  if (alone) fmt::print(", {:.1f} times one user's", rate / *alone);
  fmt::print("; a user's: slowest {:.3f}, fastest {:.3f}, longest wait for a token {:.2f} s\n",
             *std::min_element(tokens.begin(), tokens.end()) / crowd.seconds(),
             *std::max_element(tokens.begin(), tokens.end()) / crowd.seconds(), crowd.longest_wait());
  const auto a_token = [&](double Moment::*party) { return 1000 * (end.*party - begin.*party) / all; };
  fmt::print(
      "    processor {:.1f} ms a token: provider {:.1f}, helper {:.1f}, users {:.1f}; the relay's {:.1f} not counted\n",
      a_token(&Moment::provider) + a_token(&Moment::helper) + a_token(&Moment::users), a_token(&Moment::provider),
      a_token(&Moment::helper), a_token(&Moment::users), a_token(&Moment::relay));
  fmt::print(
      "    provider's memory (VmRSS): {:.0f} MB, with all in their answers {:.0f} MB: {:.1f} MB a session of {:.0f} "
      "slots, {:.0f} kB a slot\n",
      before, end.resident, more / static_cast<double>(users), static_cast<double>(slots) / static_cast<double>(users),
      1000 * more / static_cast<double>(slots));
  std::fflush(stdout);
  return rate;
}

void run(const Options& options, const std::string& profile) {
  const World world(options, profile);
  std::optional<double> alone;
  for (const std::size_t users : options.users) {
    const double rate = measure(options, profile, world, users, alone);
    if (users == 1) alone = rate;
  }
}

}  // namespace
}  // namespace permllm

int main(int argc, char** argv) {
  permllm::Options options;
  CLI::App app("tokens a second of many users at one provider, all in processes of their own");
  app.add_option("model", options.model, "GGUF file")->capture_default_str()->check(CLI::ExistingFile);
  app.add_option("--permllm", options.binary, "the program")->capture_default_str()->check(CLI::ExistingFile);
  app.add_option("--users", options.users, "how many at once")->capture_default_str()->check(CLI::Range(1, 1000));
  app.add_option("--profile", options.profiles, "paper, fast, open")->capture_default_str();
  app.add_option("--rtt", options.rtt, "round trip between users and provider")->capture_default_str();
  app.add_option("--prompt", options.prompt, "tokens of a prompt")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--tokens", options.tokens, "tokens of an answer")
      ->capture_default_str()
      ->check(CLI::Range(2, 100000));
  app.add_option("--context", options.context, "the provider's longest conversation")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  // Without its provider the program ends as after any error, and leaves nothing behind.
  for (const int number : {SIGINT, SIGTERM}) {
    signal(number, [](int) {
      if (permllm::provider_pid > 0) kill(permllm::provider_pid, SIGTERM);
    });
  }
  try {
    for (const std::string& profile : options.profiles) permllm::run(options, profile);
  } catch (const permllm::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return error.exit_status();
  }
}
