#include "service/identity.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <openssl/crypto.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <map>
#include <optional>

#include "base/file.h"
#include "base/file_stamp.h"
#include "base/mutex.h"
#include "base/small_file.h"
#include "base/toml.h"

namespace permllm {
namespace {

constexpr std::uint64_t k_record_version = 3;

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

using RecordOf = std::function<UserRecord(const std::string&)>;

std::string why_withdrawn(const std::filesystem::path& directory, const Peer& user, const RecordOf& record_of) {
  const std::filesystem::path path = record_path(directory, user.name);
  if (!is_there(path)) return fmt::format("there is no invite of this name ({} is missing)", path.string());
  const UserRecord record = record_of(user.name);
  if (record.key.empty())
    return "its invite was made by version 0.2, which knew users by their certificates; make it a new one";
  if (record.revoked) return "its invite was revoked";
  return record.key == user.key ? "" : "its invite was replaced by a newer one";
}

// A provider's records say which of its users are let in.
void judge_users(Trust& trust, const std::filesystem::path& directory, const RecordOf& record_of) {
  trust.withdrawn = [directory, record_of](const Peer& user) { return why_withdrawn(directory, user, record_of); };
  trust.ended = [record_of](const Peer& user) {
    const UserRecord record = record_of(user.name);
    return record.ended() ? record.last_day : std::string();
  };
}

}  // namespace

Identity create_identity(const std::filesystem::path& directory, Role role, const std::string& name, int days) {
  if (!is_party_name(name))
    throw Error(Code::usage, "--name", "expected 1 to 64 letters, digits, dots, dashes and underscores, like acme-1");
  if (is_there(directory / "key.pem")) {
    throw Error(Code::file, (directory / "key.pem").string(),
                "there is a key already and it is kept; --renew makes a new certificate for it, another --out another "
                "party (a new key needs new invites)");
  }
  make_private_folder(directory);
  make_private_folder(directory / "peers");
  if (role == Role::provider) make_private_folder(directory / "users");
  const Identity identity = make_identity(role, name, days);
  std::string key = key_pem(identity);
  write_new_file(directory / "key.pem", key, 0600);
  OPENSSL_cleanse(key.data(), key.size());
  replace_file(directory / "certificate.pem", identity.certificate.pem(), 0644);
  return identity;
}

Identity load_identity(const std::filesystem::path& directory, Role role) {
  if (type_of(directory) != std::filesystem::file_type::directory) {
    throw Error(Code::file, directory.string(),
                fmt::format("there is no such directory; make it with permllm keygen --role {} --out {}", name_of(role),
                            directory.string()));
  }
  const std::filesystem::path path = directory / "certificate.pem";
  const Certificate certificate = Certificate::parse(read_small_file(path), path.string());
  if (certificate.role() != role) {
    throw Error(
        Code::usage, "--identity",
        fmt::format("{} is a {}'s, expected a {}'s", directory.string(), name_of(certificate.role()), name_of(role)));
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
    if (peers.back().role() == Role::user)
      throw Error(Code::file, path.string(), "is a user's certificate; peers are providers and helpers");
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
    judge_users(credentials.trust, directory,
                [directory](const std::string& name) { return load_record(record_path(directory, name)); });
  } else {
    // A helper deals for sessions that a provider opens, and only that one knows how long its invites hold.
    credentials.trust.ended = [](const Peer&) { return std::string(); };
  }
  return credentials;
}

std::filesystem::path record_path(const std::filesystem::path& directory, const std::string& name) {
  PERMLLM_ASSERT(is_party_name(name));
  return directory / "users" / (name + ".toml");
}

UserRecord load_record(const std::filesystem::path& path) {
  TomlTable table = TomlTable::parse(read_small_file(path), path);
  const std::uint64_t version = table.number("version");
  if (version < 1 || version > k_record_version)
    throw Error(Code::unsupported, table.field("version"), fmt::format("expected {}", k_record_version));
  UserRecord record;
  record.name = table.text("name");
  record.key = table.text(version == 1 ? "certificate" : "key");
  record.tokens = table.number("tokens");
  record.last_day = table.text("last_day");
  if (version >= 3) {
    const std::uint64_t rows = table.number("rows");
    record.rows = rows == 0 ? UserRecord::k_no_limit : rows;
    const std::string renewal = table.text("renewal");
    if (renewal != "none" && renewal != "monthly")
      throw Error(Code::file, table.field("renewal"), "expected none or monthly");
    record.monthly = renewal == "monthly";
  }
  constexpr std::string_view k_form = "0000-00-00";
  if (!std::equal(record.last_day.begin(), record.last_day.end(), k_form.begin(), k_form.end(),
                  [](char c, char like) { return like == '-' ? c == '-' : c >= '0' && c <= '9'; }))
    throw Error(Code::file, table.field("last_day"), "expected a day like 2027-01-31");
  if (!is_party_name(record.name))
    throw Error(Code::file, table.field("name"), "expected 1 to 64 letters, digits, dots, dashes and underscores");
  const std::string state = table.text("state");
  if (state != "active" && state != "revoked")
    throw Error(Code::file, table.field("state"), "expected active or revoked");
  record.revoked = state == "revoked" || version == 1;
  if (version == 1) record.key.clear();  // a certificate's hash tells nothing of its key
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
  // As TOML has numbers.
  PERMLLM_ASSERT(record.tokens <= INT64_MAX && (record.rows == UserRecord::k_no_limit || record.rows <= INT64_MAX));
  make_private_folder(directory / "users");
  replace_file(record_path(directory, record.name),
               fmt::format("version = {}\nname = \"{}\"\nstate = \"{}\"\nkey = \"{}\"\ntokens = {}\nrows = {}\n"
                           "renewal = \"{}\"\nlast_day = \"{}\"\n",
                           k_record_version, record.name, record.revoked ? "revoked" : "active", record.key,
                           record.tokens, record.rows == UserRecord::k_no_limit ? 0 : record.rows,
                           record.monthly ? "monthly" : "none", record.last_day),
               0600);
}

std::string today() { return fmt::format("{:%Y-%m-%d}", fmt::gmtime(std::time(nullptr))); }

std::string day_after(const std::string& day, int days) {
  using namespace std::chrono;
  const auto part = [&](std::size_t at, std::size_t digits) { return std::stoi(day.substr(at, digits)); };
  const year_month_day then{sys_days(year(part(0, 4)) / part(5, 2) / part(8, 2)) + std::chrono::days(days)};
  return fmt::format("{:04}-{:02}-{:02}", static_cast<int>(then.year()), static_cast<unsigned>(then.month()),
                     static_cast<unsigned>(then.day()));
}

bool UserRecord::ended() const { return last_day < today(); }

namespace {

using Stamps = std::map<std::filesystem::path, FileStamp>;

Stamps stamps_of(const std::vector<std::filesystem::path>& files) {
  Stamps stamps;
  for (const auto& file : files) stamps.emplace(file, FileStamp::of(file));
  return stamps;
}

// What was made of files, with their stamps from before they were read.
template <class Made>
struct Read {
  Stamps stamps;
  Made made;
  bool holds(const Stamps& now) const {
    return std::equal(stamps.begin(), stamps.end(), now.begin(), now.end(),
                      [](const auto& a, const auto& b) { return a.first == b.first && a.second.matches(b.second); });
  }
};

}  // namespace

struct LiveDirectory::Records {
  explicit Records(std::filesystem::path d) : directory(std::move(d)) {}
  const std::filesystem::path directory;
  Mutex mutex;
  // By name, of those who showed a certificate of this provider.
  std::map<std::string, Read<UserRecord>> read GUARDED_BY(mutex);

  UserRecord get(const std::string& name) {
    const std::filesystem::path path = record_path(directory, name);
    const Stamps now = stamps_of({path});
    {
      const Lock lock(mutex);
      const auto known = read.find(name);
      if (known != read.end() && known->second.holds(now)) return known->second.made;
    }
    const UserRecord record = load_record(path);
    const Lock lock(mutex);
    read.insert_or_assign(name, Read<UserRecord>{now, record});
    return record;
  }
};

struct LiveDirectory::State {
  Mutex mutex;
  std::optional<Read<Credentials>> read GUARDED_BY(mutex);
};

LiveDirectory::LiveDirectory(std::filesystem::path directory, Role role)
    : directory_(std::move(directory)), role_(role), records_(new Records(directory_)), state_(new State) {}

LiveDirectory::~LiveDirectory() = default;

Credentials LiveDirectory::credentials() const {
  std::vector<std::filesystem::path> files = files_of(directory_ / "peers", ".pem");
  for (const char* name : {"certificate.pem", "key.pem"}) files.push_back(directory_ / name);
  const Stamps now = stamps_of(files);
  {
    const Lock lock(state_->mutex);
    if (state_->read && state_->read->holds(now)) return state_->read->made;
  }
  Credentials credentials = load_credentials(directory_, role_);
  if (role_ == Role::provider)
    judge_users(credentials.trust, directory_,
                [records = records_](const std::string& name) { return records->get(name); });
  const Lock lock(state_->mutex);
  state_->read = Read<Credentials>{now, credentials};
  return credentials;
}

UserRecord LiveDirectory::record(const std::string& name) const { return records_->get(name); }

}  // namespace permllm
