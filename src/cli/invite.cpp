#include "cli/invite.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"
#include "base/small_file.h"
#include "base/text.h"
#include "net/tls.h"
#include "service/identity.h"

namespace permllm {
namespace {

struct InviteOptions {
  std::string name, identity, helper_certificate, provider_address, helper_address, out, revoke;
  std::uint64_t tokens = 0;
  int days = 30;
  bool list = false;
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

void list(const std::filesystem::path& directory) {
  load_identity(directory, Role::provider);
  fmt::print("{:<24}{:<10}{:>12}  {:<12}{}\n", "name", "state", "tokens", "valid to", "key");
  for (const auto& path : record_paths(directory)) {
    const UserRecord record = load_record(path);
    fmt::print("{:<24}{:<10}{:>12}  {:<12}{:.16}\n", record.name,
               record.key.empty() ? "0.2"
               : record.revoked   ? "revoked"
                                  : "active",
               record.tokens, for_terminal(record.last_day), for_terminal(record.key));
  }
}

void run_invite(InviteOptions options) {
  const bool revokes = !options.revoke.empty();
  if ((!options.name.empty()) + revokes + options.list != 1) {
    throw Error(Code::usage, "invite", "expected one of NAME, --revoke NAME and --list");
  }
  if (options.list) return list(options.identity);
  if (revokes) return revoke_invite(options.identity, options.revoke);
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
  const Invite invite = make_invite(options.identity, options.name, helper_of(options), options.provider_address,
                                    options.helper_address, options.tokens, options.days);
  try {
    save_invite(invite, out);
  } catch (const Error&) {
    revoke_invite(options.identity, options.name);
    throw;
  }
  fmt::print("{}: for \"{}\" alone, valid to {}; hand it over on a private way, it holds the user's key\n", out,
             options.name, invite.identity.certificate.last_day());
}

}  // namespace

Invite make_invite(const std::filesystem::path& directory, const std::string& name, const Certificate& helper,
                   const std::string& provider_address, const std::string& helper_address, std::uint64_t tokens,
                   int days) {
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
  save_record(directory, {name, c.pin(), tokens, c.last_day(), false});
  return invite;
}

void revoke_invite(const std::filesystem::path& directory, const std::string& name) {
  load_identity(directory, Role::provider);
  if (!is_party_name(name) || !is_there(record_path(directory, name))) {
    throw Error(Code::usage, "--revoke", "there is no invite of this name; permllm invite --list shows them");
  }
  UserRecord record = load_record(record_path(directory, name));
  if (record.revoked) return;
  record.revoked = true;
  save_record(directory, record);
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
  command->add_option("--tokens", options->tokens,
                      "how many tokens of answers the invite grants; the provider counts them");
  command->add_option("--days", options->days, "how long the invite is valid")
      ->capture_default_str()
      ->check(CLI::Range(1, 36500));
  command->add_option("--out", options->out, "the invite's file")->default_str("NAME.invite");
  command->add_option("--revoke", options->revoke, "let this user in no more, from the next connection on");
  command->add_flag("--list", options->list, "who has an invite");
  command->callback([options] { run_invite(*options); });
}

}  // namespace permllm
