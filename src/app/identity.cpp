#include "app/identity.h"

#include <fmt/format.h>
#include <openssl/crypto.h>

#include <algorithm>

#include "app/toml.h"
#include "base/small_file.h"

namespace permllm {
namespace {

constexpr int k_days = 365;
constexpr std::uint64_t k_record_version = 1;

void make_directory(const std::filesystem::path& path) {
  std::error_code error;
  const bool made = std::filesystem::create_directories(path, error);
  if (!error && made) std::filesystem::permissions(path, std::filesystem::perms::owner_all, error);
  if (error) throw Error(Code::file, path.string(), fmt::format("cannot be made: {}", error.message()));
}

// Names of files in the directory that end so, sorted; none when there is no such directory.
std::vector<std::filesystem::path> files_of(const std::filesystem::path& directory, const char* end) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    if (entry.path().extension() == end) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string why_withdrawn(const std::filesystem::path& directory, const Peer& user) {
  const std::filesystem::path path = record_path(directory, user.name);
  if (!std::filesystem::exists(path)) return fmt::format("there is no invite of this name ({} is missing)", path.string());
  const UserRecord record = load_record(path);
  if (record.revoked) return "its invite was revoked";
  return record.fingerprint == user.fingerprint ? "" : "its invite was replaced by a newer one";
}

struct KeygenOptions {
  std::string out, name, role;
  int days = k_days;
  bool renew = false;
};

void run_keygen(const KeygenOptions& options) {
  const std::filesystem::path directory = options.out;
  const auto tell = [&](const Identity& identity) {
    const Certificate& c = identity.certificate;
    fmt::print("{} \"{}\"\n  certificate  {}, valid to {}: give it to those who are to trust this party\n  key          {}: stays here\n  sha256:{}\n",
               name_of(c.role()), c.name(), (directory / "certificate.pem").string(), c.last_day(), (directory / "key.pem").string(), c.pin());
  };
  if (options.renew) {
    if (!options.name.empty()) throw Error(Code::usage, "--name", "stays as it is when a certificate is renewed; leave it out");
    const std::string pem = read_small_file(directory / "certificate.pem");
    const Role role = Certificate::parse(pem, (directory / "certificate.pem").string()).role();
    if (role == Role::user) throw Error(Code::file, (directory / "certificate.pem").string(), "is a user's: its provider makes another invite");
    if (!options.role.empty() && options.role != name_of(role)) throw Error(Code::usage, "--role", fmt::format("{} is a {}'s; leave --role out", options.out, name_of(role)));
    const Identity identity = renewed(load_identity(directory, role), options.days);
    replace_file(directory / "certificate.pem", identity.certificate.pem(), 0644);
    return tell(identity);
  }
  if (options.role.empty()) throw Error(Code::usage, "--role", "is missing: provider or helper");
  tell(create_identity(directory, options.role == "provider" ? Role::provider : Role::helper, options.name.empty() ? options.role : options.name, options.days));
}

}  // namespace

Identity create_identity(const std::filesystem::path& directory, Role role, const std::string& name, int days) {
  if (!is_party_name(name)) throw Error(Code::usage, "--name", "expected 1 to 64 letters, digits, dots, dashes and underscores, like acme-1");
  if (std::filesystem::exists(directory / "key.pem")) {
    throw Error(Code::file, (directory / "key.pem").string(),
                "there is a key already and it is kept; --renew makes a new certificate for it, another --out another party (a new key needs new invites)");
  }
  make_directory(directory);
  make_directory(directory / "peers");
  if (role == Role::provider) make_directory(directory / "users");
  const Identity identity = make_identity(role, name, days);
  std::string key = key_pem(identity);
  write_new_file(directory / "key.pem", key, 0600);
  OPENSSL_cleanse(key.data(), key.size());
  replace_file(directory / "certificate.pem", identity.certificate.pem(), 0644);
  return identity;
}

Identity load_identity(const std::filesystem::path& directory, Role role) {
  if (!std::filesystem::is_directory(directory)) {
    throw Error(Code::file, directory.string(), fmt::format("there is no such directory; make it with permllm keygen --role {} --out {}", name_of(role), directory.string()));
  }
  const std::filesystem::path path = directory / "certificate.pem";
  const Certificate certificate = Certificate::parse(read_small_file(path), path.string());
  if (certificate.role() != role) {
    throw Error(Code::usage, "--identity", fmt::format("{} is a {}'s, expected a {}'s", directory.string(), name_of(certificate.role()), name_of(role)));
  }
  std::string key = read_small_file(directory / "key.pem", true);
  const Identity identity = identity_of(certificate, key, (directory / "key.pem").string());
  OPENSSL_cleanse(key.data(), key.size());
  return identity;
}

std::vector<Certificate> load_peers(const std::filesystem::path& directory) {
  std::vector<Certificate> peers;
  for (const auto& path : files_of(directory / "peers", ".pem")) {
    peers.push_back(Certificate::parse(read_small_file(path), path.string()));
    if (peers.back().role() == Role::user) throw Error(Code::file, path.string(), "is a user's certificate; peers are providers and helpers");
  }
  return peers;
}

Credentials load_credentials(const std::filesystem::path& directory, Role role) {
  Credentials credentials{load_identity(directory, role), {}};
  for (const Certificate& peer : load_peers(directory)) {
    credentials.trust.pins.push_back({peer.role(), peer.pin()});
    if (role == Role::helper && peer.role() == Role::provider) credentials.trust.issuers.push_back(peer);
  }
  if (role == Role::provider) {
    credentials.trust.issuers.push_back(credentials.identity.certificate);
    credentials.trust.withdrawn = [directory](const Peer& user) { return why_withdrawn(directory, user); };
  }
  return credentials;
}

std::filesystem::path record_path(const std::filesystem::path& directory, const std::string& name) {
  PERMLLM_ASSERT(is_party_name(name));
  return directory / "users" / (name + ".toml");
}

UserRecord load_record(const std::filesystem::path& path) {
  TomlTable table = TomlTable::parse(read_small_file(path), path);
  if (table.number("version") != k_record_version) throw Error(Code::unsupported, table.field("version"), fmt::format("expected {}", k_record_version));
  UserRecord record{table.text("name"), table.text("certificate"), table.number("tokens"), table.text("last_day"), false};
  if (!is_party_name(record.name)) throw Error(Code::file, table.field("name"), "expected 1 to 64 letters, digits, dots, dashes and underscores");
  const std::string state = table.text("state");
  if (state != "active" && state != "revoked") throw Error(Code::file, table.field("state"), "expected active or revoked");
  record.revoked = state == "revoked";
  table.no_more();
  return record;
}

std::vector<std::filesystem::path> record_paths(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> paths;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(directory / "users", none)) {
    if (entry.path().extension() == ".toml") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

void save_record(const std::filesystem::path& directory, const UserRecord& record) {
  make_directory(directory / "users");
  replace_file(record_path(directory, record.name),
               fmt::format("version = {}\nname = \"{}\"\nstate = \"{}\"\ncertificate = \"{}\"\ntokens = {}\nlast_day = \"{}\"\n", k_record_version,
                           record.name, record.revoked ? "revoked" : "active", record.fingerprint, record.tokens, record.last_day),
               0600);
}

void add_keygen(CLI::App& parent) {
  const auto options = std::make_shared<KeygenOptions>();
  CLI::App* command = parent.add_subcommand("keygen", "make the key and certificate of a provider or helper");
  command->add_option("--out", options->out, "the party's directory: key.pem, certificate.pem, peers/")->required();
  command->add_option("--role", options->role, "provider or helper")->check(CLI::IsMember({"provider", "helper"}));
  command->add_option("--name", options->name, "what others know it by")->default_str("its role");
  command->add_option("--days", options->days, "how long the certificate is valid")->capture_default_str()->check(CLI::Range(1, 36500));
  command->add_flag("--renew", options->renew, "a new certificate for the key that is there; who trusts the key goes on to do so");
  command->callback([options] { run_keygen(*options); });
}

}  // namespace permllm
