#include "cli/serve.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <list>
#include <optional>
#include <vector>

#include "base/heap.h"
#include "base/mutex.h"
#include "cli/local_parties.h"
#include "cli/offer_options.h"
#include "cli/shared_options.h"
#include "gateway/gateway.h"
#include "service/print_event.h"
#include "service/process_limits.h"
#include "service/sandbox.h"
#include "service/settings.h"
#include "service/signals.h"
#include "user/user_state.h"

namespace permllm {
namespace {

constexpr auto k_drain = std::chrono::seconds(5);

struct ServeCommandOptions {
  std::vector<std::string> invites;
  std::string state;
  LocalOptions demo;  // its model empty: none
  GatewayOptions gateway;
  LogOptions log;
  PatienceOptions patience;
  DraftOptions draft;
  bool events = false;
  std::shared_ptr<Settings> settings;
  std::vector<CLI::Option*> of_demo;  // how the model is served: with an invite the provider's affair

  void refuse_of_demo() const {
    for (const CLI::Option* option : of_demo) {
      if (option->count() > 0)
        throw Error(Code::usage, option->get_name(),
                    "only goes with --demo: with an invite it is the provider who says how the model is served");
    }
  }
};

// The first signal begins the end, a second one is the end.
class End {
 public:
  void handle(int number) {
    const Lock lock(mutex_);
    if (!serving_ || asked_) std::_Exit(serving_ ? 0 : 128 + number);
    asked_ = true;
    changed_.notify_all();
  }
  void wait() {
    Lock lock(mutex_);
    serving_ = true;
    changed_.wait(lock, [&]() REQUIRES(mutex_) { return asked_; });
  }

 private:
  Mutex mutex_;
  std::condition_variable changed_;
  bool serving_ GUARDED_BY(mutex_) = false, asked_ GUARDED_BY(mutex_) = false;
};

// Only --log-level: the rest is what clients rely on.
void reload(ServeCommandOptions& options, Log& log) {
  try {
    const Settings::Reloaded reloaded = options.settings->reload({"log-level"});
    log.set_level(options.log.level);
    log.write(reloaded.need_a_restart.empty() ? Log::Level::info : Log::Level::warn, "reload",
              fmt::format("reloaded: {}{}", reloaded.changes(), reloaded.restarts()));
  } catch (const Error& error) {
    log.write(Log::Level::error, "reload_fails", fmt::format("not reloaded: {}", error.what()));
  }
}

void run(ServeCommandOptions& options) {
  if (options.invites.empty() == options.demo.model.empty())
    throw Error(Code::usage, "--invite", "expected either --invite FILE or --demo MODEL");
  options.gateway.desk.conversation.draft = options.draft.tokens();
  Gateway::check(options.gateway);
  if (!options.invites.empty()) options.refuse_of_demo();
  prepare_heap();  // before the first thread
  Log log("serve", options.log);
  // Landlock binds the threads to come; a demo starts processes first, and its parties are of one account anyway.
  if (!options.invites.empty()) {
    std::vector<std::filesystem::path> read{options.gateway.key_file, options.gateway.canaries.file,
                                            options.settings->path()};
    const auto drafting = options.draft.files();
    read.insert(read.end(), drafting.begin(), drafting.end());
    read.insert(read.end(), options.invites.begin(), options.invites.end());
    const SandboxSupport sandbox = enter_sandbox({read, {user_folder(options.state)}});
    log.write(Log::Level::info, "sandbox", fmt::format("sandbox: {}", sandbox.text()));
  } else {
    log.write(Log::Level::info, "sandbox", "sandbox: none with --demo");
  }
  End end;
  Signals signals([&](int number) { number == SIGHUP ? reload(options, log) : end.handle(number); });
  raise_file_limit();

  std::optional<TemporaryDirectory> folder;
  std::optional<LocalParties> parties;
  std::vector<std::filesystem::path> invites(options.invites.begin(), options.invites.end());
  ClientOptions with = options.patience.client(options.state, options.draft);
  if (!options.demo.model.empty()) {
    folder.emplace();
    LocalOptions local = options.demo;
    local.quiet = options.events;
    local.stock = true;
    local.patience_seconds = options.patience.patience;
    parties.emplace(local);
    invites = {folder->path() / "demo.invite"};
    save_invite(parties->invite(), invites[0]);
    with.state = folder->path() / "state";
  }
  options.gateway.canaries.kept = user_folder(with.state) / "canaries";
  std::list<Client> clients;
  std::vector<const Client*> all;
  for (const std::filesystem::path& invite : invites) all.push_back(&clients.emplace_back(invite, with));
  std::optional<Gateway> gateway(std::in_place, all, options.gateway, log);
  const std::string host = options.gateway.listen.substr(0, options.gateway.listen.rfind(':'));
  for (std::size_t i = 0; i < all.size(); ++i) {
    log.write(Log::Level::info, "ready",
              fmt::format("http://{}:{}/ serves {}, profile {}, as {}; OpenAI's interface is at http://{}:{}/v1", host,
                          gateway->port(), all[i]->model().name, all[i]->model().profile, gateway->models()[i], host,
                          gateway->port()));
  }
  if (options.events) print_event({{"event", "ready"}, {"port", gateway->port()}});
  notify_manager("READY=1\nSTATUS=serving");
  end.wait();
  notify_manager("STOPPING=1");
  log.write(Log::Level::info, "end", "ends");
  std::thread([] {  // a peer that does not answer keeps nobody here
    std::this_thread::sleep_for(2 * k_drain);
    std::_Exit(0);
  })
      .detach();
  gateway->drain(k_drain);
  gateway.reset();
}

}  // namespace

void add_serve(CLI::App& parent) {
  const auto options = std::make_shared<ServeCommandOptions>();
  GatewayOptions& gateway = options->gateway;
  ConversationOptions& conversation = gateway.desk.conversation;
  CLI::App* command = parent.add_subcommand(
      "serve", "the user: OpenAI's, Anthropic's and Ollama's HTTP interfaces and a web page on this machine");
  command->add_option("--invite", options->invites,
                      "the file that the provider sent; given several times, each is a model by its name");
  command->add_option("--demo", options->demo.model,
                      "in place of an invite, all three parties on this machine: a GGUF file, or ChatGLM-6B's folder");
  add_user_state(*command, options->state);
  command
      ->add_option(
          "--listen", gateway.listen,
          "address and port to listen on; any but this machine's own needs --key-file; port 0 lets the system choose")
      ->capture_default_str();
  command->add_option(
      "--key-file", gateway.key_file,
      "file of keys, one a line, readable by its owner alone; clients send one of them as Authorization: Bearer KEY");
  command->add_option("--allow-host", gateway.hosts,
                      "further name by which clients reach this server (their Host header)");
  command
      ->add_option("--stock", gateway.desk.stock,
                   "tokens to keep offline material ready for while nobody asks; 0: none")
      ->capture_default_str();
  command
      ->add_option("--sessions", gateway.desk.sessions,
                   "conversations that are kept, and answers that are made at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
  command
      ->add_option("--max-requests", gateway.desk.max_requests,
                   "requests that are answered or wait; beyond them clients are told to try again")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  command
      ->add_option("--ahead", conversation.ahead,
                   "tokens to make offline material for ahead of need, while an answer comes")
      ->capture_default_str();
  command
      ->add_option_function<std::string>(
          "--canaries", [&gateway](const std::string& text) { gateway.canaries.rate = canary_rate(text); },
          "of so many requests, like 1%, one more is asked behind it whose answer is known, to notice a provider that "
          "answers otherwise")
      ->default_str("0%");
  command->add_option(
      "--canary-file", gateway.canaries.file,
      "file of canaries, one {\"prompt\": \"...\", \"answer\": \"...\"} a line, as permllm generate answers; "
      "else the first answers count");
  add_draft(*command, options->draft);
  command->add_flag("--think", conversation.think, "let a model that can think before it answers");
  add_patience(*command, options->patience);
  const std::vector<CLI::Option*> own = command->get_options();
  add_offer_options(*command, options->demo.serve);
  for (CLI::Option* option : command->get_options()) {
    if (std::find(own.begin(), own.end(), option) == own.end()) options->of_demo.push_back(option);
  }
  add_log_options(*command, options->log);
  command->add_flag("--events", options->events, "print events as JSON lines on standard output");
  conversation.next_prompt = k_next_prompt;
  command->callback([options] {
    keep_to_itself();
    run(*options);
  });
  options->settings = add_settings(*command);
}

}  // namespace permllm
