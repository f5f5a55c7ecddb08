#include "cli/keygen.h"

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <string>

#include "base/file.h"
#include "base/small_file.h"
#include "service/identity.h"

namespace permllm {
namespace {

constexpr int k_days = 365;

struct KeygenOptions {
  std::string out, name, role;
  int days = k_days;
  bool renew = false;
};

void run_keygen(const KeygenOptions& options) {
  const std::filesystem::path directory = options.out;
  const auto tell = [&](const Identity& identity) {
    const Certificate& c = identity.certificate;
    fmt::print(
        "{} \"{}\"\n  certificate  {}, valid to {}: give it to those who are to trust this party\n  key          {}: "
        "stays here\n  sha256:{}\n",
        name_of(c.role()), c.name(), (directory / "certificate.pem").string(), c.last_day(),
        (directory / "key.pem").string(), c.pin());
  };
  if (options.renew) {
    if (!options.name.empty())
      throw Error(Code::usage, "--name", "stays as it is when a certificate is renewed; leave it out");
    const std::string pem = read_small_file(directory / "certificate.pem");
    const Role role = Certificate::parse(pem, (directory / "certificate.pem").string()).role();
    if (role == Role::user)
      throw Error(Code::file, (directory / "certificate.pem").string(),
                  "is a user's: its provider makes another invite");
    if (!options.role.empty() && options.role != name_of(role))
      throw Error(Code::usage, "--role", fmt::format("{} is a {}'s; leave --role out", options.out, name_of(role)));
    const Identity identity = renewed(load_identity(directory, role), options.days);
    replace_file(directory / "certificate.pem", identity.certificate.pem(), 0644);
    return tell(identity);
  }
  if (options.role.empty()) throw Error(Code::usage, "--role", "is missing: provider or helper");
  tell(create_identity(directory, options.role == "provider" ? Role::provider : Role::helper,
                       options.name.empty() ? options.role : options.name, options.days));
}

}  // namespace

void add_keygen(CLI::App& parent) {
  const auto options = std::make_shared<KeygenOptions>();
  CLI::App* command = parent.add_subcommand("keygen", "make the key and certificate of a provider or helper");
  command->add_option("--out", options->out, "the party's directory: key.pem, certificate.pem, peers/")->required();
  command->add_option("--role", options->role, "provider or helper")->check(CLI::IsMember({"provider", "helper"}));
  command->add_option("--name", options->name, "what others know it by")->default_str("its role");
  command->add_option("--days", options->days, "how long the certificate is valid")
      ->capture_default_str()
      ->check(CLI::Range(1, 36500));
  command->add_flag("--renew", options->renew,
                    "a new certificate for the key that is there; who trusts the key goes on to do so");
  command->callback([options] { run_keygen(*options); });
}

}  // namespace permllm
