#include "app/demo.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "app/links.h"
#include "app/load.h"
#include "app/options.h"
#include "app/process.h"
#include "engine/user_client.h"
#include "net/certificates.h"
#include "net/meter.h"
#include "net/tls.h"

namespace permllm {
namespace {

struct DemoOptions {
  std::string model;
  PromptOptions prompt;
  LinkShape shape;
  ServeOptions serve;
  std::size_t ahead = 256;
  double patience_seconds = 120;

  Clock::duration patience() const {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(patience_seconds));
  }
};

double seconds_between(Clock::time_point begin, Clock::time_point end) { return std::chrono::duration<double>(end - begin).count(); }

// A directory of its own for the throw-away certificates; removed when dropped.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "permllm-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw Error(Code::resource, name, "no temporary directory can be made");
    path_ = name;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// One line on a terminal that fills up; without a terminal, a line at each quarter. On standard error, never with --json.
class ProgressBar {
 public:
  ProgressBar(std::string what, bool quiet) : what_(std::move(what)), quiet_(quiet), terminal_(isatty(STDERR_FILENO) != 0) {}
  void show(double fraction, double seconds) {
    if (quiet_) return;
    const double left = fraction > 0.02 ? seconds / fraction * (1 - fraction) : 0;
    if (terminal_) {
      const int filled = static_cast<int>(fraction * 30);
      std::fputs(fmt::format("\r{:<34} [{:<30}] {:3.0f} %  {}\033[K", what_, std::string(static_cast<std::size_t>(filled), '#'), fraction * 100,
                             fraction > 0.02 && fraction < 1 ? fmt::format("{:.0f} s left", left) : "").c_str(), stderr);
      open_ = true;
    } else if (static_cast<int>(fraction * 4) > quarter_) {
      quarter_ = static_cast<int>(fraction * 4);
      std::fputs(fmt::format("{}: {:.0f} %\n", what_, fraction * 100).c_str(), stderr);
    }
  }
  void finish() {
    show(1, 0);
    if (open_) std::fputs("\n", stderr);
    open_ = false;
  }

 private:
  std::string what_;
  bool quiet_, terminal_, open_ = false;
  int quarter_ = 0;
};

// Provider and helper as child processes, with the identities that the demo made for all three.
struct Parties {
  TemporaryDirectory directory;
  Identity user;
  std::unique_ptr<Process> helper, provider;
  std::string helper_address, provider_address;
  double load_seconds = 0, registration_seconds = 0;

  explicit Parties(const DemoOptions& options) {
    const Authority authority;
    for (const Role role : {Role::provider, Role::helper}) {
      const auto place = directory.path() / name_of(role);
      std::filesystem::create_directory(place);
      save_identity(authority.issue(role), place);
    }
    user = authority.issue(Role::user);
    const auto arguments = [&](Role role, std::vector<std::string> more) {
      std::vector<std::string> all{name_of(role), "--events", "--identity", (directory.path() / name_of(role)).string(), "--rtt",
                                   options.shape.rtt, "--bandwidth", options.shape.bandwidth, "--patience",
                                   fmt::format("{}", options.patience_seconds)};
      all.insert(all.end(), more.begin(), more.end());
      return all;
    };
    const auto address = [](const nlohmann::json& ready) { return fmt::format("127.0.0.1:{}", ready.at("port").get<int>()); };
    helper = std::make_unique<Process>(arguments(Role::helper, {}));
    helper_address = address(helper->wait_for("ready"));
    std::vector<std::string> serve{"--model", options.model, "--helper", helper_address};
    for (const std::string& argument : arguments_of(options.serve)) serve.push_back(argument);
    provider = std::make_unique<Process>(arguments(Role::provider, serve));
    const Clock::time_point begin = Clock::now();
    ProgressBar bar("Masked weights to the helper", options.prompt.json);
    const auto ready = provider->wait_for("ready", [&](const nlohmann::json& event) {
      if (event.at("event") == "progress") bar.show(event.at("fraction"), seconds_between(begin, Clock::now()));
    });
    bar.finish();
    provider_address = address(ready);
    load_seconds = ready.at("load_seconds");
    registration_seconds = ready.at("registration_seconds");
  }
};

// What the user's links carried, at the moments that the report is about.
struct Measured {
  Traffic online, offline, helper;
  Traffic at_first_token, at_last_token;  // online
  Clock::time_point prompt_begin, first_token, last_token;
  double offline_seconds = 0;
  std::size_t prompt_tokens = 0, passes = 0;  // passes between the first and the last token
};

nlohmann::json online_json(const Traffic& t, double per) {
  return {{"provider_to_user_bytes", static_cast<double>(t.received.payload_bytes) / per},
          {"user_to_provider_bytes", static_cast<double>(t.sent.payload_bytes) / per},
          {"round_trips", static_cast<double>(t.round_trips) / per}};
}

struct Report {
  nlohmann::json json;

  Report(const Measured& m, const UserClient& client, const UserClient::Reports& reports, const TokenPrinter& printer,
         const Parties& parties) {
    const double passes = m.passes == 0 ? 1 : static_cast<double>(m.passes);
    const double deciding = reports.provider.passes == 0 ? 1 : static_cast<double>(reports.provider.passes);
    const PartyReport own = report_of_this_process();
    const double slots = static_cast<double>(m.prompt_tokens + m.passes);
    json = {{"event", "done"},
            {"output_ids", printer.ids()},
            {"text", printer.text()},
            {"prompt_tokens", m.prompt_tokens},
            {"layers", client.card().plan.config.layers},
            {"profile", name_of(client.card().plan.profile)},
            {"fused", client.card().plan.fused},
            {"seconds", {{"load", parties.load_seconds}, {"registration", parties.registration_seconds},
                         {"offline", m.offline_seconds}, {"prefill", seconds_between(m.prompt_begin, m.first_token)},
                         {"decode_per_token", seconds_between(m.first_token, m.last_token) / passes}}},
            {"online_per_token", online_json(m.at_last_token - m.at_first_token, passes)},
            {"prefill", online_json(m.at_first_token, 1)},
            {"offline_per_token", {{"user_to_provider_bytes", static_cast<double>(reports.provider.bytes_of_user) / deciding},
                                   {"helper_to_provider_bytes", static_cast<double>(reports.provider.bytes_of_helper) / deciding},
                                   {"helper_to_user_bytes", static_cast<double>(m.helper.received.payload_bytes) / slots}}},
            {"cpu_seconds", {{"provider", reports.provider.cpu_seconds}, {"user", own.cpu_seconds}, {"helper", reports.helper.cpu_seconds}}},
            {"memory_bytes", {{"provider", reports.provider.memory_bytes}, {"user", own.memory_bytes}, {"helper", reports.helper.memory_bytes}}},
            {"frame_overhead_bytes", m.online.header_bytes() + m.offline.header_bytes() + m.helper.header_bytes()}};
  }

  void print_table(const Measured& m) const {
    const auto mb = [](const nlohmann::json& bytes) { return bytes.get<double>() / 1e6; };
    const auto& online = json.at("online_per_token");
    const auto& offline = json.at("offline_per_token");
    const double rounds = online.at("round_trips"), layers = json.at("layers");
    const auto row = [](const std::string& name, const std::string& value) { fmt::print("  {:<44}{}\n", name, value); };
    fmt::print("\n");
    row("tokens: prompt, answer", fmt::format("{}, {}", m.prompt_tokens, json.at("output_ids").size()));
    row("offline material made ahead", fmt::format("{:.2f} s", json.at("seconds").at("offline").get<double>()));
    row("time to first token", fmt::format("{:.2f} s", json.at("seconds").at("prefill").get<double>()));
    if (m.passes > 0) {
      row("a token", fmt::format("{:.3f} s", json.at("seconds").at("decode_per_token").get<double>()));
      row("online MB a token: to user, to provider", fmt::format("{:.3f}, {:.3f}", mb(online.at("provider_to_user_bytes")), mb(online.at("user_to_provider_bytes"))));
      row("offline MB a token: from user, from helper", fmt::format("{:.3f}, {:.3f}", mb(offline.at("user_to_provider_bytes")), mb(offline.at("helper_to_provider_bytes"))));
      row("round trips a token, of them a layer", fmt::format("{:.0f}, {:.0f} x {:.0f} + {:.0f}", rounds, std::floor(rounds / layers), layers, std::fmod(rounds, layers)));
    }
    fmt::print("\nWhat each party saw\n");
    row("provider", fmt::format("{:.1f} MB of uniform words, and how many tokens there were", static_cast<double>(m.online.sent.payload_bytes + m.offline.sent.payload_bytes) / 1e6));
    row("helper", "how much material was asked for; it took no part in the request");
    row("user", "its own question and answer; the model's inner values permuted afresh,");
    row("", "none of its weights (a barrier to extraction, not a guarantee)");
  }
};

void run(DemoOptions options) {
  check_prompt_options(options.prompt);
  options.shape.none();  // refuses unreadable values before anything starts
  const bool json = options.prompt.json;
  const Parties parties(options);

  Measured m;
  const auto dial = [&](const std::string& address, Role role, Traffic& traffic) {
    return [&, role]() -> std::unique_ptr<Link> {
      auto link = shaped(tls_connect(parties.user, address, role, Clock::now() + options.patience()), options.shape);
      return std::make_unique<Meter>(std::move(link), traffic);
    };
  };
  Executor executor;
  UserClient client({dial(parties.provider_address, Role::provider, m.online), dial(parties.provider_address, Role::provider, m.offline),
                     dial(parties.helper_address, Role::helper, m.helper)},
                    executor, options.patience());
  const Tokenizer tokenizer(client.card().vocabulary);
  const auto ids = prompt_tokens(options.prompt, tokenizer, client.card().plan.slots);
  m.prompt_tokens = ids.size();

  ProgressBar bar("Offline material for this request", json);
  std::atomic<bool> answering = false;
  client.make_material(ids.size(), options.prompt.max_tokens, options.ahead, [&](const OfflineProgress& progress) {
    if (!answering) bar.show(progress.fraction, progress.seconds);
  });
  client.wait_for_material(ids.size() + std::min(options.prompt.max_tokens, options.ahead));
  answering = true;
  bar.finish();
  if (!json && !options.prompt.prompt.empty()) fmt::print("\n> {}\n\n", valid_utf8(options.prompt.prompt));

  Sampler sampler(options.prompt.sampling);
  const auto choose = [&](std::span<const std::int64_t> logits) { return sampler.choose(logits, frac::logit); };
  TokenPrinter printer(tokenizer, json);
  const auto on_token = [&](TokenId id) {
    m.last_token = Clock::now();
    m.at_last_token = m.online;
    if (printer.ids().empty()) {
      m.first_token = m.last_token;
      m.at_first_token = m.online;
    }
    printer.token(id);
    return !tokenizer.is_end(id);
  };
  const Traffic handshake = m.online;
  m.prompt_begin = Clock::now();
  client.session().prompt(ids, choose);
  bool more = true;
  while (more && printer.ids().size() + 1 < options.prompt.max_tokens) {
    client.session().advance([&](TokenId id) { return more = on_token(id); }, choose);
    client.material_used();
  }
  if (more) on_token(client.session().retrieve_last());
  m.passes = printer.ids().size() - 1;
  m.at_first_token = m.at_first_token - handshake;
  m.at_last_token = m.at_last_token - handshake;
  const UserClient::Reports reports = client.end();
  m.offline_seconds = client.offline_seconds();
  printer.finish();

  const Report report(m, client, reports, printer, parties);
  if (json) {
    print_event(report.json);
  } else {
    report.print_table(m);
  }
}

}  // namespace

void add_demo(CLI::App& parent) {
  const auto options = std::make_shared<DemoOptions>();
  CLI::App* command = parent.add_subcommand("demo", "all three parties on this machine: three processes, real TLS links");
  command->add_option("model", options->model, "GGUF file")->required();
  add_prompt_options(*command, options->prompt);
  add_link_shape(*command, options->shape);
  add_serve_options(*command, options->serve);
  command->add_option("--ahead", options->ahead, "slots of offline material to make ahead of need")->capture_default_str();
  command->add_option("--patience", options->patience_seconds, "seconds to wait for a peer before giving up")
      ->capture_default_str()->check(CLI::PositiveNumber);
  command->callback([options] { run(*options); });
}

}  // namespace permllm
