#include "cli/invite.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "audit/worth.h"
#include "base/file.h"
#include "base/small_file.h"
#include "base/text.h"
#include "cli/doctor.h"
#include "net/tls.h"
#include "service/identity.h"
#include "session/ledger.h"

namespace permllm {
namespace {

struct InviteOptions {
  std::string name, identity, state, helper_certificate, provider_address, helper_address, out, revoke;
  std::uint64_t tokens = 0, rows = 0, add_tokens = 0, add_rows = 0;  // 0: not given
  int days = 30, extend = 0;
  std::optional<bool> monthly;
  bool list = false, json = false, csv = false;

  bool changes() const { return tokens == 0 && (rows + add_tokens + add_rows > 0 || extend > 0 || monthly); }
};

Certificate helper_of(const InviteOptions& options) {
  if (!options.helper_certificate.empty()) {
    Certificate helper = Certificate::parse(read_small_file(options.helper_certificate), options.helper_certificate);
    if (helper.role() != Role::helper)
      throw Error(Code::usage, "--helper-certificate",
                  fmt::format("is a {}'s, expected a helper's", name_of(helper.role())));
    return helper;
  }
  std::vector<Certificate> helpers = load_peers(options.identity);
  std::erase_if(helpers, [](const Certificate& peer) { return peer.role() != Role::helper; });
  if (helpers.size() != 1) {
    throw Error(
        Code::usage, "--helper-certificate",
        fmt::format("is needed, because {}/peers holds {} helpers' certificates", options.identity, helpers.size()));
  }
  return helpers[0];
}

using Accounts = std::map<std::string, Account>;

// By key; none where no folder of a provider is named, whose ledger has them.
std::optional<Accounts> accounts_of(const std::string& state) {
  if (state.empty()) return std::nullopt;
  return read_accounts(std::filesystem::path(state) / "stock" / "ledger.sqlite");
}

// Calls f for each record. Those that cannot be read are told, and the others go on. Errors: file at the end, where there was one.
void each_record(const std::filesystem::path& directory, const std::function<void(const UserRecord&)>& f) {
  std::size_t damaged = 0;
  for (const auto& path : record_paths(directory)) {
    try {
      f(load_record(path));
    } catch (const Error& error) {
      ++damaged;
      fmt::print(stderr, "permllm: {}\n", for_terminal(error.what()));
    }
  }
  if (damaged != 0)
    throw Error(Code::file, "users",
                fmt::format("{} of the records cannot be read and let nobody in; invite --revoke NAME sets one aside",
                            damaged));
}

const char* state_of(const UserRecord& record) {
  return record.key.empty() ? "0.2" : record.revoked ? "revoked" : record.ended() ? "ended" : "active";
}

std::string time_of(std::uint64_t seconds) {
  return fmt::format("{:%Y-%m-%d %H:%M}", fmt::gmtime(static_cast<std::time_t>(seconds)));
}

struct Line {
  UserRecord record;
  std::optional<Account> account;  // none: not known
  std::optional<Worth> of_model;   // likewise, or of public weights
  // Of the month that runs, or ever: what the allowance counts.
  Usage used() const {
    if (!account) return {};
    return record.monthly ? account->in(month_of(std::chrono::system_clock::now())) : account->ever();
  }
  // What all rows that the user ever had are worth to whoever wants the weights; empty: not known.
  std::string worth() const { return account && of_model ? worth_of_rows(*of_model, account->ever().rows) : ""; }
  static std::uint64_t left(std::uint64_t granted, std::uint64_t used) { return granted - std::min(granted, used); }
};

void print(const Line& line) {
  const UserRecord& r = line.record;
  const Usage used = line.used();
  const auto of = [&](std::uint64_t had, std::uint64_t granted) {
    return (line.account ? fmt::format("{} of ", had) : "") +
           (granted == UserRecord::k_no_limit ? "any" : std::to_string(granted));
  };
  fmt::print("{:<24}{:<9}{:>22}{:>22}  {:<9}{:<12}{:<18}{:>7}  {:.16}\n", r.name, state_of(r),
             of(used.tokens, r.tokens), of(used.rows, r.rows), r.monthly ? "monthly" : "once", r.last_day,
             line.account && line.account->last_seen != 0 ? time_of(line.account->last_seen) : "-",
             line.account ? std::to_string(line.account->ready_slots) : "-", for_terminal(r.key));
  if (const std::string worth = line.worth(); !worth.empty()) fmt::print("    {}\n", worth);
}

void print_json(const Line& line) {
  const UserRecord& r = line.record;
  nlohmann::ordered_json json{{"name", r.name},         {"state", state_of(r)}, {"key", r.key},
                              {"last_day", r.last_day}, {"monthly", r.monthly}, {"tokens", r.tokens}};
  json["rows"] = r.rows == UserRecord::k_no_limit ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(r.rows);
  if (line.account) {
    const Usage used = line.used(), ever = line.account->ever();
    json["tokens_used"] = used.tokens;
    json["tokens_left"] = Line::left(r.tokens, used.tokens);
    json["rows_used"] = used.rows;
    json["rows_left"] = r.rows == UserRecord::k_no_limit ? nlohmann::ordered_json(nullptr)
                                                         : nlohmann::ordered_json(Line::left(r.rows, used.rows));
    json["tokens_ever"] = ever.tokens;
    json["rows_ever"] = ever.rows;
    json["last_seen"] = line.account->last_seen == 0 ? nlohmann::ordered_json(nullptr)
                                                     : nlohmann::ordered_json(line.account->last_seen);
    json["stock_slots"] = line.account->ready_slots;
    if (const std::string worth = line.worth(); !worth.empty()) json["worth"] = worth;
  }
  fmt::print("{}\n", to_json_line(json));
}

void list(const InviteOptions& options) {
  load_identity(options.identity, Role::provider);
  const std::optional<Accounts> accounts = accounts_of(options.state);
  const std::optional<Worth> worth = options.state.empty() ? std::nullopt : kept_worth(options.state);
  if (!options.json) {
    fmt::print("{:<24}{:<9}{:>22}{:>22}  {:<9}{:<12}{:<18}{:>7}  {}\n", "name", "state",
               accounts ? "tokens used" : "tokens", accounts ? "rows used" : "rows", "renewed", "valid to",
               "last seen (UTC)", "stock", "key");
  }
  each_record(options.identity, [&](const UserRecord& record) {
    Line line{record, std::nullopt, worth};
    if (accounts) {
      const auto found = accounts->find(record.key);
      line.account = found == accounts->end() ? Account{} : found->second;
    }
    options.json ? print_json(line) : print(line);
  });
}

// What each key has used in each month, also of invites that are no more.
void print_csv(const InviteOptions& options) {
  load_identity(options.identity, Role::provider);
  if (options.state.empty()) throw Error(Code::usage, "--csv", "needs --state, the folder of the provider that counts");
  const Accounts accounts = *accounts_of(options.state);
  std::map<std::string, std::string> names;  // by key
  const auto print_all = [&] {
    fmt::print("month,name,key,tokens,rows\n");
    std::map<std::pair<std::string, std::string>, std::string> lines;  // by month and key
    for (const auto& [key, account] : accounts) {
      for (const auto& [month, usage] : account.months) {
        lines[{month, key}] = fmt::format("{},{},{},{},{}", month, names[key], key, usage.tokens, usage.rows);
      }
    }
    for (const auto& [place, line] : lines) fmt::print("{}\n", line);
  };
  try {
    each_record(options.identity, [&](const UserRecord& record) { names[record.key] = record.name; });
  } catch (const Error&) {
    print_all();
    throw;
  }
  print_all();
}

void change(const InviteOptions& options) {
  load_identity(options.identity, Role::provider);
  if (!is_party_name(options.name) || !is_there(record_path(options.identity, options.name)))
    throw Error(Code::usage, "NAME", "there is no invite of this name; permllm invite --list shows them");
  UserRecord record = load_record(record_path(options.identity, options.name));
  if (record.revoked)
    throw Error(Code::usage, "NAME", fmt::format("the invite of \"{}\" is revoked; make a new one", record.name));
  if (options.rows != 0) record.rows = options.rows;
  if (options.add_rows != 0 && record.rows == UserRecord::k_no_limit)
    throw Error(Code::usage, "--add-rows", "the invite has no limit of rows; --rows N sets one");
  if (options.add_rows != 0) record.rows += options.add_rows;
  record.tokens += options.add_tokens;
  if (record.tokens > UserRecord::k_most || (record.rows != UserRecord::k_no_limit && record.rows > UserRecord::k_most))
    throw Error(Code::usage, options.add_tokens != 0 ? "--add-tokens" : "--add-rows",
                fmt::format("with what there is it is more than {}", UserRecord::k_most));
  record.monthly = options.monthly.value_or(record.monthly);
  if (options.extend != 0) record.last_day = day_after(std::max(record.last_day, today()), options.extend);
  save_record(options.identity, record);
  fmt::print("\"{}\": {} tokens and {} rows {}, valid to {}; a running provider goes by it from now on\n", record.name,
             record.tokens, record.rows == UserRecord::k_no_limit ? "any" : std::to_string(record.rows),
             record.monthly ? "a month" : "in all", record.last_day);
}

void run_invite(InviteOptions options) {
  const bool revokes = !options.revoke.empty();
  if ((!options.name.empty()) + revokes + (options.list || options.csv) != 1) {
    throw Error(Code::usage, "invite", "expected one of NAME, --revoke NAME, --list and --csv");
  }
  if (options.csv) return print_csv(options);
  if (options.list) return list(options);
  if (revokes) return revoke_invite(options.identity, options.revoke);
  if (options.changes()) return change(options);
  for (const auto& [flag, given] : {std::pair{"--add-tokens", options.add_tokens > 0},
                                    {"--add-rows", options.add_rows > 0},
                                    {"--extend", options.extend > 0}}) {
    if (given)
      throw Error(Code::usage, flag, "changes an invite that is there, and --tokens makes one: leave out either");
  }
  const auto need = [](const char* flag, bool given) {
    if (!given) throw Error(Code::usage, flag, "is needed for an invite");
  };
  need("--provider-address", !options.provider_address.empty());
  need("--helper-address", !options.helper_address.empty());
  need("--tokens", options.tokens > 0);
  check_address(options.provider_address, "--provider-address", Code::usage);
  check_address(options.helper_address, "--helper-address", Code::usage);
  const std::string out = options.out.empty() ? options.name + ".invite" : options.out;
  if (is_there(out)) throw Error(Code::file, out, "exists and is not overwritten; choose another --out");
  const Certificate helper = helper_of(options);
  const std::filesystem::path path =
      is_party_name(options.name) ? record_path(options.identity, options.name) : std::filesystem::path();
  const std::optional<UserRecord> before =
      !path.empty() && is_there(path) ? std::optional(load_record(path)) : std::nullopt;
  const Invite invite = make_invite(
      options.identity, options.name, helper, options.provider_address, options.helper_address, options.tokens,
      options.days, options.rows == 0 ? UserRecord::k_no_limit : options.rows, options.monthly.value_or(false));
  try {
    save_invite(invite, out);
  } catch (const Error&) {
    before ? save_record(options.identity, *before) : static_cast<void>(std::filesystem::remove(path));
    throw;
  }
  fmt::print("{}: for \"{}\" alone, valid to {}; hand it over on a private way, it holds the user's key\n", out,
             options.name, invite.identity.certificate.last_day());
}

}  // namespace

Invite make_invite(const std::filesystem::path& directory, const std::string& name, const Certificate& helper,
                   const std::string& provider_address, const std::string& helper_address, std::uint64_t tokens,
                   int days, std::uint64_t rows, bool monthly) {
  if (!is_party_name(name))
    throw Error(Code::usage, "NAME", "expected 1 to 64 letters, digits, dots, dashes and underscores, like alice");
  const Identity provider = load_identity(directory, Role::provider);
  const std::filesystem::path path = record_path(directory, name);
  if (is_there(path) && !load_record(path).revoked) {
    throw Error(
        Code::usage, "NAME",
        fmt::format("\"{}\" has an invite; run permllm invite --revoke {} --identity {} first, or choose another name",
                    name, name, directory.string()));
  }
  Invite invite{provider_address, provider.certificate.pin(),     helper_address, helper.pin(),
                tokens,           make_user(provider, name, days)};
  const Certificate& c = invite.identity.certificate;
  save_record(directory, {name, c.pin(), tokens, rows, monthly, c.last_day(), false});
  return invite;
}

void revoke_invite(const std::filesystem::path& directory, const std::string& name) {
  load_identity(directory, Role::provider);
  if (!is_party_name(name) || !is_there(record_path(directory, name))) {
    throw Error(Code::usage, "--revoke", "there is no invite of this name; permllm invite --list shows them");
  }
  const std::filesystem::path path = record_path(directory, name);
  std::optional<UserRecord> record;
  try {
    record = load_record(path);
  } catch (const Error&) {
    std::filesystem::path aside = path;
    rename_file(path, aside += ".damaged");  // lets nobody in, and can be looked at
    return;
  }
  if (record->revoked) return;
  record->revoked = true;
  save_record(directory, *record);
}

void add_invite(CLI::App& parent) {
  const auto options = std::make_shared<InviteOptions>();
  CLI::App* command = parent.add_subcommand("invite", "let a user in, list who is let in, or let one in no more");
  command->add_option("name", options->name, "a name for the user: makes an invite, one file for the user to hold");
  command->add_option("--identity", options->identity, "the provider's directory")->required();
  command->add_option("--provider-address", options->provider_address, "where users reach the provider: host:port");
  command->add_option("--helper-address", options->helper_address, "where users reach the helper: host:port");
  command->add_option("--helper-certificate", options->helper_certificate, "the helper's certificate")
      ->default_str("the one in peers/");
  const CLI::Range amount(std::uint64_t{1}, UserRecord::k_most);
  command
      ->add_option("--tokens", options->tokens,
                   "how many tokens of answers the invite grants; the provider counts them")
      ->check(amount);
  command
      ->add_option(
          "--rows", options->rows,
          "how many rows it grants: one for each token that is read, drafted or written (by default any number)")
      ->check(amount);
  command->add_flag("--monthly,!--no-monthly", options->monthly,
                    "grants them in each calendar month (UTC), not once; what is left of one goes");
  command->add_option("--add-tokens", options->add_tokens, "grants the invite that NAME has so many more")
      ->check(amount);
  command->add_option("--add-rows", options->add_rows, "likewise, rows")->check(amount);
  command->add_option("--extend", options->extend, "lets the invite that NAME has hold for so many days more")
      ->check(CLI::Range(1, 36500));
  command->add_option("--state", options->state, "the provider's --state, whose ledger counts what users have used");
  command->add_option("--days", options->days, "how long the invite is valid")
      ->capture_default_str()
      ->check(CLI::Range(1, 36500));
  command->add_option("--out", options->out, "the invite's file")->default_str("NAME.invite");
  command->add_option("--revoke", options->revoke, "let this user in no more, from the next connection on");
  command->add_flag("--list", options->list, "who has an invite; with --state what was used of it");
  add_json(*command, options->json);
  command->add_flag("--csv", options->csv,
                    "what each user has used in each calendar month (UTC), as comma-separated values; needs --state");
  command->callback([options] { run_invite(*options); });
}

}  // namespace permllm
