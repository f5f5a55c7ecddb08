#include "cli/doctor.h"

#include <fmt/format.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "base/file.h"
#include "base/reason.h"
#include "base/text.h"
#include "cli/colours.h"
#include "cli/helper.h"
#include "cli/plan.h"
#include "cli/provider.h"
#include "helper/model_store.h"
#include "model/model_file.h"
#include "net/tls.h"
#include "page/declared.h"
#include "provider/model_record.h"
#include "service/identity.h"
#include "service/print_event.h"
#include "service/sandbox.h"
#include "user/invite.h"
#include "user/links.h"

namespace permllm {
namespace {

constexpr int k_user_days = 7, k_service_days = 30;  // invites are short
constexpr auto k_account_patience = std::chrono::seconds(10);
constexpr std::size_t k_estimate_context = 64;

std::string megabytes(std::uint64_t bytes) { return fmt::format("{:.1f} MB", 1e-6 * static_cast<double>(bytes)); }

std::string about(const ProbedModel& model) {
  return fmt::format("{}, profile {}, context {}, id {:.8}, plan {:.8}", model.plan.config.name,
                     name_of(model.plan.profile), model.plan.slots, model.id, model.plan.hash());
}
nlohmann::json facts_of(const ProbedModel& model) {
  return {{"id", model.id},
          {"name", model.plan.config.name},
          {"plan", model.plan.hash()},
          {"profile", name_of(model.plan.profile)},
          {"context", model.plan.slots}};
}

// What the helper was asked for, against what it has.
void check_models(const std::vector<ProbedModel>& held, const ProbedModel& wanted, const Teller& teller) {
  if (held.empty()) {
    return teller.wrong("model",
                        fmt::format("the helper does not hold {}, id {:.8}", wanted.plan.config.name, wanted.id),
                        "wait a minute, in which the provider sends it; else the provider restarts its service "
                        "(and checks that both name the same helper)");
  }
  if (held[0].plan.hash() != wanted.plan.hash()) {
    return teller.wrong("model",
                        fmt::format("{}: plan {:.8} at the helper, {:.8} at the provider", wanted.plan.config.name,
                                    held[0].plan.hash(), wanted.plan.hash()),
                        "the provider restarts its service");
  }
  teller.ok("model", "the helper holds the provider's, with the same plan", facts_of(held[0]));
}

void tell_of_helper_state(const HelperState& state, const Teller& teller) {
  const std::string when = state.age == 0 ? "now" : fmt::format("{} s ago", state.age);
  if (!state.trouble.empty()) {
    return teller.wrong("link", fmt::format("the provider says, {}: {}", when, state.trouble),
                        "tell the provider, who runs permllm doctor provider");
  }
  teller.ok("link",
            fmt::format("in order by the provider's word, {}: round trip {:.2f} ms, the helper holds the model", when,
                        1e3 * state.round_trip),
            {{"age_seconds", state.age}, {"round_trip_seconds", state.round_trip}});
  check_clock(state.clock_ahead, "the helper's clock", "the provider's", teller);
}

// What the network alone makes a token take.
void estimate(const Plan& plan, const CheckedLink& link, const Teller& teller) {
  const std::size_t before = std::min(k_estimate_context, plan.slots - 1);
  const Cost cost = pass_cost(plan, before, 1, false);
  const NetworkSeconds network =
      network_seconds(cost, link.delay.round_trip, link.bandwidth.from_peer, link.bandwidth.to_peer);
  const double ahead = 8 * static_cast<double>(cost.offline.user_to_provider) / link.bandwidth.to_peer;
  teller.ok("estimate",
            fmt::format("the network takes {:.3f} s a token, at {} tokens of context in profile {}: {} round trips, {} "
                        "to the user, {} to the provider; offline, "
                        "ahead of need, {:.3f} s: {}",
                        network.latency + network.transfer, before, name_of(plan.profile), cost.rounds,
                        megabytes(cost.online.provider_to_user), megabytes(cost.online.user_to_provider), ahead,
                        megabytes(cost.offline.user_to_provider)),
            {{"token_seconds", network.latency + network.transfer},
             {"latency_seconds", network.latency},
             {"transfer_seconds", network.transfer},
             {"offline_seconds", ahead},
             {"round_trips", cost.rounds}});
}

// The directory of a provider or helper.
// Files that whoever has the folder cannot read: root or another made them.
void check_owners(const std::string& folder, const Teller& teller) {
  struct stat of_folder {};
  if (folder.empty() || stat(folder.c_str(), &of_folder) != 0) return;
  const auto name_of_user = [](uid_t user) {
    const passwd* entry = getpwuid(user);
    return entry == nullptr ? std::to_string(user) : std::string(entry->pw_name);
  };
  std::error_code none;
  for (auto at = std::filesystem::recursive_directory_iterator(folder, none);
       at != std::filesystem::recursive_directory_iterator(); at.increment(none)) {
    struct stat status {};
    if (stat(at->path().c_str(), &status) != 0 || status.st_uid == of_folder.st_uid || (status.st_mode & S_IROTH) != 0)
      continue;
    teller.wrong("owner",
                 fmt::format("{} belongs to {}, its folder to {}, whose service cannot read it", at->path().string(),
                             name_of_user(status.st_uid), name_of_user(of_folder.st_uid)),
                 fmt::format("run chown --reference={} {}", folder, at->path().string()));
  }
}

// What to do about a file that was not read: whoever runs this may not, or else.
std::string remedy_for(const std::filesystem::path& path, const std::string& otherwise) {
  struct stat of_folder {};
  if (access(path.c_str(), R_OK) == 0 || errno != EACCES || stat(path.parent_path().c_str(), &of_folder) != 0)
    return otherwise;
  return of_folder.st_uid == geteuid() ? fmt::format("give this user the file: chown --reference={} {}",
                                                     path.parent_path().string(), path.string())
                                       : "run this as the user of the service, like sudo -u permllm";
}

std::optional<Credentials> check_identity(const std::string& directory, Role role, const Teller& teller) {
  try {
    Credentials credentials = load_credentials(directory, role);
    check_validity(credentials.identity.certificate, k_service_days,
                   fmt::format("run permllm keygen --renew --out {}", directory), "certificate", teller);
    const Role other = role == Role::provider ? Role::helper : Role::provider;
    const auto count = std::count_if(credentials.trust.pins.begin(), credentials.trust.pins.end(),
                                     [&](const Trust::Pin& pin) { return pin.role == other; });
    if (count == 0) {
      teller.wrong("peers", fmt::format("{}/peers holds no {}'s certificate", directory, name_of(other)),
                   fmt::format("copy the {0}'s certificate.pem there, like {0}.pem", name_of(other)));
    } else {
      teller.ok("peers", fmt::format("{} trusted: {}", name_of(other), count));
    }
    return credentials;
  } catch (const Error& error) {
    const std::filesystem::path own(directory);
    std::string remedy =
        fmt::format("restore the file, or make a new identity with permllm keygen --role {}", name_of(role));
    for (const auto& file : {own, own / "certificate.pem", own / "key.pem"}) remedy = remedy_for(file, remedy);
    teller.wrong("identity", error.what(), remedy);
    return std::nullopt;
  }
}

// Whether somebody listens where the service should.
void check_listening(const std::string& address, const Credentials& credentials, const char* service,
                     const Teller& teller) {
  if (address.ends_with(":0")) return teller.ok("listen", "any port that is free");
  try {
    const TlsListener listener([&] { return credentials; }, address);
    teller.warning("listen", fmt::format("nobody listens on {}", address), fmt::format("start permllm {}", service));
  } catch (const Error& error) {
    if (error.reason() == Reason::address_in_use)
      return teller.ok("listen", fmt::format("{} is taken, as it is when the service runs", address));
    teller.wrong("listen", error, "choose an address of this machine and a port that this user may have");
  }
}

void check_users(const std::string& identity, const Teller& teller) {
  std::size_t active = 0, revoked = 0;
  for (const auto& path : record_paths(identity)) {
    try {
      const UserRecord record = load_record(path);
      ++(record.revoked ? revoked : active);
      if (record.key.empty())
        teller.warning("users",
                       fmt::format("{} is of version 0.2, which knew users by their certificates", path.string()),
                       "make this user a new invite");
    } catch (const Error& error) {
      teller.wrong("users", error.what(),
                   remedy_for(path, "make this user a new invite; the damaged record lets nobody in"));
    }
  }
  teller.ok("users", fmt::format("invites in force: {}, revoked: {}", active, revoked));
}

// Ids of the models that have a sound record.
std::vector<std::string> check_state(const std::string& state, const Teller& teller) {
  std::vector<std::string> ids;
  if (state.empty()) {
    teller.warning("state", "the service has no --state",
                   "give it one, and the helper gets the model once, not at each start");
    return ids;
  }
  try {
    const std::filesystem::path all(state);
    std::error_code none;
    for (const std::filesystem::path& folder : {all, all / "models", all / "stock"}) {
      if (std::filesystem::exists(folder, none)) check_writers(folder);
    }
    for (const RecordEntry& entry : list_records(state)) {
      if (!entry.trouble.empty()) {
        teller.wrong("state", entry.trouble, "do as it says");
      } else if (ids.size() < Probe::k_most_models) {
        ids.push_back(entry.model_id);
      }
    }
    if (ids.empty()) {
      teller.warning("state", fmt::format("{} has no record of a model", state),
                     "start permllm provider: it makes one");
    } else {
      teller.ok("state", fmt::format("{} models on record, the last one {:.8}", ids.size(), ids[0]));
    }
  } catch (const Error& error) {
    teller.wrong("state", error.what(), "give the service's user access to it");
  }
  return ids;
}

void check_store_file(const StoreEntry& entry, std::uint64_t free, Executor& executor, const Teller& teller) {
  const std::string name = fmt::format("{:.8}, {}", entry.id, entry.name);
  const char* again = "restart the helper, then the provider: what is missing or damaged is sent again";
  try {
    const StoredFile stored = StoredFile::open(entry.path, File::Mode::read);
    if (!entry.complete) {
      const std::uint64_t missing = stored.missing();
      if (missing > free)
        return teller.wrong(
            "model",
            fmt::format("{}: {} are missing, {} of the disk are free", name, megabytes(missing), megabytes(free)),
            "make room, then restart the provider");
      return teller.warning("model", fmt::format("{}: in part, {} are missing", name, megabytes(missing)),
                            "restart the provider: it sends the rest");
    }
    const auto damaged = stored.damaged(executor);
    if (!damaged.empty())
      return teller.wrong(
          "model", fmt::format("{}: {} of {} chunks are damaged", name, damaged.size(), stored.hashes.size()), again);
    if (!stored.whole()) return teller.wrong("model", fmt::format("{}: its size or digest is another", name), again);
    teller.ok("model", fmt::format("{}: complete, {}", name, megabytes(stored.offer.bytes)),
              {{"id", entry.id}, {"bytes", stored.offer.bytes}});
  } catch (const Error& error) {
    teller.wrong("model", error.what(), again);
  }
}

void check_store(const std::string& store, const Teller& teller) {
  if (store.empty())
    return teller.warning("store", "the service has no --store", "give it one, and models outlast the process");
  try {
    if (!is_there(store))
      return teller.warning("store", fmt::format("{} is not there yet", store), "start permllm helper: it makes it");
    const std::filesystem::path trial = std::filesystem::path(store) / "doctor.new";
    File(trial, File::Mode::create).write(0, Bytes(4096));
    std::filesystem::remove(trial);
    const std::uint64_t free = std::filesystem::space(store).available;
    teller.ok("store", fmt::format("{} can be written, {} are free", store, megabytes(free)), {{"free_bytes", free}});
    Executor executor;
    for (const StoreEntry& entry : list_store(store)) check_store_file(entry, free, executor, teller);
  } catch (const Error& error) {
    teller.wrong("store", error.what(), "give the service's user a folder that it may write, on a disk with room");
  } catch (const std::filesystem::filesystem_error& error) {
    teller.wrong("store", error.code().message(), "give the service's user a folder that it may write");
  }
}

// What the provider counts for this user, and what it has in stock for it.
void check_account(const Invite& invite, const Teller& teller) {
  try {
    UserTraffic traffic;
    const Card card = read_card(links_of(invite, {}, k_account_patience, traffic), k_account_patience);
    if (card.tokens_left == 0) {
      const ReasonFacts& used_up = facts_of(Reason::allowance_used_up);
      teller.wrong("allowance", used_up.cause, used_up.remedy);
    } else {
      teller.ok("allowance", fmt::format("{} tokens of answers are left", card.tokens_left),
                {{"tokens_left", card.tokens_left}});
    }
    std::uint64_t slots = 0;
    for (const ChainState& chain : card.chains) slots += between(chain.burnt, chain.made)[k_slot_kind];
    teller.ok("stock",
              slots == 0
                  ? "no offline material: each answer waits until it is made (permllm stock --fill makes some ahead)"
                  : fmt::format("{} slots of offline material in {} chain{}", slots, card.chains.size(),
                                card.chains.size() == 1 ? "" : "s"),
              {{"slots", slots}, {"chains", card.chains.size()}});
  } catch (const Error& error) {
    teller.wrong("account", error.what(), "tell the provider");
  }
}

}  // namespace

void examine_user(const std::filesystem::path& path, const OnFinding& tell) {
  const Teller here("here", tell);
  std::optional<Invite> invite;
  try {
    invite = load_invite(path);
  } catch (const Error& error) {
    return here.wrong("invite", error.what(), "ask the provider for a new invite");
  }
  const Certificate& certificate = invite->identity.certificate;
  if (certificate.ended()) {
    here.warning("invite", fmt::format("was to end on {}", certificate.last_day()),
                 "see what the provider says: where it has not extended the invite, ask for that");
  } else {
    check_validity(certificate, k_user_days, "ask the provider to extend the invite", "invite", here);
  }
  here.ok("allowance", fmt::format("{} tokens of answers by the invite", invite->tokens), {{"tokens", invite->tokens}});
  here.ok("sandbox", fmt::format("of chat and serve: {}", sandbox_support().text()),
          {{"landlock", sandbox_support().landlock}, {"seccomp", sandbox_support().seccomp}});
  const Credentials credentials = invite->credentials();
  const auto provider = check_link({"user-provider", invite->provider_address, Role::provider, credentials}, {}, tell);
  const ProbedModel* model = provider && !provider->probed.models.empty() ? &provider->probed.models[0] : nullptr;
  if (provider) {
    const Teller teller("user-provider", tell);
    if (model != nullptr) {
      teller.ok("model", about(*model), facts_of(*model));
      check_account(*invite, teller);
    } else {
      teller.wrong("model", "the provider names none", "tell the provider");
    }
  }
  const auto helper = check_link({"user-helper", invite->helper_address, Role::helper, credentials},
                                 model == nullptr ? std::vector<std::string>{} : std::vector{model->id}, tell);
  if (helper && model != nullptr) check_models(helper->probed.models, *model, Teller("user-helper", tell));
  if (provider && provider->probed.helper)
    tell_of_helper_state(*provider->probed.helper, Teller("provider-helper", tell));
  if (model != nullptr) estimate(model->plan, *provider, Teller("user-provider", tell));
}

void examine_provider(const ProviderSettings& settings, const OnFinding& tell) {
  const Teller here("here", tell);
  const auto credentials = check_identity(settings.identity, Role::provider, here);
  for (const std::string& folder : {settings.identity, settings.state}) check_owners(folder, here);
  if (credentials) check_users(settings.identity, here);
  if (!settings.model.empty() && !settings.synthetic) {
    try {
      here.ok("model", fmt::format("{} can be read: {} tensors", settings.model,
                                   ModelFile::open(settings.model).tensors().size()));
    } catch (const Error& error) {
      here.wrong("model", error.what(), "correct --model, or fetch the file again");
    }
  }
  const std::vector<std::string> ids = check_state(settings.state, here);
  if (!credentials) return;
  check_listening(settings.listen, *credentials, "provider", here);
  if (settings.helper.empty()) return;
  const auto helper =
      check_link({"provider-helper", settings.helper, Role::helper, *credentials, settings.shape}, ids, tell);
  if (!helper || ids.empty()) return;
  const Teller teller("provider-helper", tell);
  for (const ProbedModel& model : helper->probed.models)
    teller.ok("model", "the helper holds " + about(model), facts_of(model));
  if (helper->probed.models.empty())
    teller.wrong("model", fmt::format("the helper does not hold {:.8}, nor another on record here", ids[0]),
                 "a provider that runs sends it within a minute; else restart permllm provider");
}

void examine_helper(const HelperSettings& settings, const OnFinding& tell) {
  const Teller here("here", tell);
  const auto credentials = check_identity(settings.identity, Role::helper, here);
  for (const std::string& folder : {settings.identity, settings.store}) check_owners(folder, here);
  check_store(settings.store, here);
  if (credentials) check_listening(settings.listen, *credentials, "helper", here);
}

void diagnose(const std::function<void(const OnFinding&)>& examine, bool json) {
  std::size_t count[3] = {};
  const Colours colours("auto", STDOUT_FILENO);
  const auto state_of = [&](const Finding& finding) {
    const std::string word = fmt::format("{:<8}", name_of(finding.state));
    return finding.state == Finding::State::ok        ? colours.good(word)
           : finding.state == Finding::State::warning ? colours.doubtful(word)
                                                      : colours.bad(word);
  };
  examine([&](const Finding& finding) {
    ++count[static_cast<int>(finding.state)];
    if (json) {
      nlohmann::json line{{"event", "check"},       {"link", finding.link},
                          {"check", finding.check}, {"state", name_of(finding.state)},
                          {"text", finding.text},   {"remedy", finding.remedy}};
      line.update(finding.facts);
      print_event(line);
    } else {
      fmt::print("{} {:<16} {:<12} {}\n", state_of(finding), finding.link, finding.check,
                 for_terminal(finding.remedy.empty() ? finding.text : finding.text + "; " + finding.remedy));
      std::fflush(stdout);
    }
  });
  const auto [ok, warnings, wrong] = count;
  if (wrong > 0)
    throw Error(Code::mismatch, "doctor", fmt::format("{} of {} checks are wrong", wrong, ok + warnings + wrong));
  if (!json) fmt::print("{} checks, {} of them warnings, none wrong\n", ok + warnings, warnings);
}

void add_json(CLI::App& command, bool& json) {
  command.add_flag("--json", json, "one JSON object a line, for programs");
}

void add_doctor(CLI::App& parent) {
  struct Options {
    std::string invite;
    bool json = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = parent.add_subcommand(
      "doctor",
      "checks each link that a party has, says what is wrong and what to do; exit status 1 where something is");
  command->add_option("--invite", options->invite, "a user's: the file that the provider sent");
  add_json(*command, options->json);
  add_provider_doctor(*command);
  add_helper_doctor(*command);
  command->require_subcommand(0, 1);
  command->callback([options, command] {
    if (!command->get_subcommands().empty()) return;
    if (options->invite.empty())
      throw Error(Code::usage, "doctor",
                  "expected --invite FILE of a user, or provider or helper with the settings of the service");
    diagnose([&](const OnFinding& tell) { examine_user(options->invite, tell); }, options->json);
  });
}

}  // namespace permllm
