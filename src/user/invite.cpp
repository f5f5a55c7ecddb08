#include "user/invite.h"

#include <fmt/format.h>
#include <openssl/crypto.h>

#include <algorithm>

#include "base/small_file.h"
#include "base/toml.h"
#include "net/tls.h"

namespace permllm {
namespace {

constexpr std::uint64_t k_version = 1;
constexpr std::string_view k_pin_scheme = "sha256:";

std::string pin_of(TomlTable& table) {
  const std::string text = table.text("key");
  const std::string_view digits = std::string_view(text).substr(std::min(text.size(), k_pin_scheme.size()));
  const bool hex = std::all_of(digits.begin(), digits.end(),
                               [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  if (!text.starts_with(k_pin_scheme) || text.size() != k_pin_scheme.size() + 64 || !hex) {
    throw Error(Code::file, table.field("key"), "expected sha256: and 64 hex digits");
  }
  return text.substr(k_pin_scheme.size());
}

std::string address_of(TomlTable& table) {
  std::string address = table.text("address");
  check_address(address, table.field("address"), Code::file);
  return address;
}

}  // namespace

Credentials Invite::credentials() const {
  return {identity, {{{Role::provider, provider_pin}, {Role::helper, helper_pin}}, {}, nullptr}};
}

Invite load_invite(const std::filesystem::path& path) {
  std::string text = read_small_file(path, true);
  TomlTable file = TomlTable::parse(text, path);
  OPENSSL_cleanse(text.data(), text.size());
  if (const std::uint64_t version = file.number("version"); version != k_version) {
    throw Error(Code::unsupported, file.field("version"),
                fmt::format("{}, this program reads {}; bring both to the same release", version, k_version));
  }
  Invite invite;
  invite.tokens = file.number("tokens");
  if (invite.tokens == 0) throw Error(Code::file, file.field("tokens"), "is 0, expected at least 1");
  TomlTable provider = file.table("provider"), helper = file.table("helper"), user = file.table("user");
  invite.provider_address = address_of(provider);
  invite.provider_pin = pin_of(provider);
  invite.helper_address = address_of(helper);
  invite.helper_pin = pin_of(helper);
  const Certificate certificate = Certificate::parse(user.text("certificate"), user.field("certificate"));
  if (certificate.role() != Role::user)
    throw Error(Code::file, user.field("certificate"),
                fmt::format("is a {}'s, expected a user's", name_of(certificate.role())));
  std::string key = user.text("key");
  invite.identity = identity_of(certificate, key, user.field("key"));
  OPENSSL_cleanse(key.data(), key.size());
  for (const TomlTable* table : {&file, &provider, &helper, &user}) table->no_more();
  return invite;
}

void save_invite(const Invite& invite, const std::filesystem::path& path) {
  std::string key = key_pem(invite.identity);
  std::string text = fmt::format(
      "# An invite to PermLLM, for one user: whoever holds this file is that user. Keep it private.\n"
      "version = {}\ntokens = {}\n\n[provider]\naddress = \"{}\"\nkey = \"{}{}\"\n\n[helper]\naddress = \"{}\"\nkey = "
      "\"{}{}\"\n\n"
      "[user]\ncertificate = '''\n{}'''\nkey = '''\n{}'''\n",
      k_version, invite.tokens, invite.provider_address, k_pin_scheme, invite.provider_pin, invite.helper_address,
      k_pin_scheme, invite.helper_pin, invite.identity.certificate.pem(), key);
  write_new_file(path, text, 0600);
  OPENSSL_cleanse(key.data(), key.size());
  OPENSSL_cleanse(text.data(), text.size());
}

}  // namespace permllm
