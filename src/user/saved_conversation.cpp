#include "user/saved_conversation.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <array>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "permllm/error.h"
#include "rand/seed.h"

namespace permllm {
namespace {

constexpr std::string_view k_magic = "PERMLLMC";
constexpr const char* k_format = "permllm-conversation";
constexpr std::size_t k_salt = 16, k_nonce = 12, k_tag = 16, k_key = 32;
constexpr std::size_t k_header = 8 + 4 + k_salt + k_nonce;
// What is read of others' cost: less is weak and more takes the memory of whoever opens the file.
constexpr int k_least_cost = 14, k_most_cost = 18;
constexpr int k_r = 8, k_p = 1;

const unsigned char* bytes(std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); }
unsigned char* bytes(std::string& text) { return reinterpret_cast<unsigned char*>(text.data()); }

class Key {
 public:
  Key(std::string_view passphrase, std::string_view salt, int cost) {
    const std::uint64_t n = std::uint64_t{1} << cost;
    if (EVP_PBE_scrypt(passphrase.data(), passphrase.size(), bytes(salt), salt.size(), n, k_r, k_p,
                       2 * 128 * n * k_r + (1 << 20), key_.data(), key_.size()) != 1)
      throw Error(Code::resource, "passphrase", "there is not the memory that its key takes");
  }
  ~Key() { OPENSSL_cleanse(key_.data(), key_.size()); }
  Key(const Key&) = delete;
  Key& operator=(const Key&) = delete;
  const unsigned char* data() const { return key_.data(); }

 private:
  std::array<unsigned char, k_key> key_;
};

struct Cipher {
  std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)> context{EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free};
  operator EVP_CIPHER_CTX*() const { return context.get(); }
};

std::string encrypted(const std::string& text, std::string_view passphrase, int cost) {
  std::string file(k_magic);
  for (const int number : {k_saved_conversation_version, cost, k_r, k_p}) file += static_cast<char>(number);
  std::array<std::uint8_t, k_salt + k_nonce> fresh;
  entropy(fresh);
  file.append(reinterpret_cast<const char*>(fresh.data()), fresh.size());
  const std::string header = file;
  const Key key(passphrase, std::string_view(header).substr(12, k_salt), cost);
  file.resize(k_header + text.size() + k_tag);
  const Cipher cipher;
  int size = 0;
  const auto n = static_cast<int>(text.size());
  PERMLLM_ASSERT(EVP_EncryptInit_ex(cipher, EVP_aes_256_gcm(), nullptr, key.data(), bytes(header) + 12 + k_salt) == 1);
  PERMLLM_ASSERT(EVP_EncryptUpdate(cipher, nullptr, &size, bytes(header), k_header) == 1);
  PERMLLM_ASSERT(EVP_EncryptUpdate(cipher, bytes(file) + k_header, &size, bytes(text), n) == 1 && size == n);
  PERMLLM_ASSERT(EVP_EncryptFinal_ex(cipher, bytes(file) + k_header + n, &size) == 1 && size == 0);
  PERMLLM_ASSERT(EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_GET_TAG, k_tag, bytes(file) + k_header + n) == 1);
  return file;
}

std::string decrypted(std::string_view file, std::string_view passphrase, const std::string& name) {
  if (file.size() < k_header + k_tag) throw Error(Code::file, name, "is cut short");
  const int version = static_cast<unsigned char>(file[8]), cost = static_cast<unsigned char>(file[9]),
            r = static_cast<unsigned char>(file[10]), p = static_cast<unsigned char>(file[11]);
  if (version != k_saved_conversation_version) {
    throw Error(Code::file, name,
                fmt::format("is of version {}, this program reads {}", version, k_saved_conversation_version));
  }
  if (cost < k_least_cost || cost > k_most_cost || r != k_r || p != k_p) {
    throw Error(Code::file, name,
                fmt::format("has scrypt's N = 2^{}, r = {}, p = {}; expected 2^{} to 2^{}, {} and {}", cost, r, p,
                            k_least_cost, k_most_cost, k_r, k_p));
  }
  if (passphrase.empty()) throw Error(Code::file, name, "is encrypted: its passphrase is wanted");
  const Key key(passphrase, file.substr(12, k_salt), cost);
  std::string text(file.size() - k_header - k_tag, '\0'), tag(file.substr(file.size() - k_tag));
  const Cipher cipher;
  int size = 0;
  PERMLLM_ASSERT(EVP_DecryptInit_ex(cipher, EVP_aes_256_gcm(), nullptr, key.data(), bytes(file) + 12 + k_salt) == 1);
  PERMLLM_ASSERT(EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_SET_TAG, k_tag, tag.data()) == 1);
  PERMLLM_ASSERT(EVP_DecryptUpdate(cipher, nullptr, &size, bytes(file), k_header) == 1);
  PERMLLM_ASSERT(EVP_DecryptUpdate(cipher, bytes(text), &size, bytes(file) + k_header, static_cast<int>(text.size())) ==
                 1);
  if (EVP_DecryptFinal_ex(cipher, bytes(text) + text.size(), &size) != 1)
    throw Error(Code::file, name, "the passphrase is wrong, or the file was changed");
  return text;
}

SavedConversation parsed(std::string_view text, const std::string& name) {
  const auto wrong = [&](const std::string& what) { return Error(Code::file, name, what); };
  const auto shallow = [](int depth, nlohmann::json::parse_event_t, const nlohmann::json&) { return depth <= 4; };
  const nlohmann::json json = nlohmann::json::parse(text, shallow, false);
  if (!json.is_object() || json.value("format", nlohmann::json()) != k_format)
    throw wrong("is no conversation that /save wrote");
  if (json.value("version", nlohmann::json()) != k_saved_conversation_version)
    throw wrong(fmt::format("is of another version, this program reads {}", k_saved_conversation_version));
  const nlohmann::json system = json.value("system", nlohmann::json()),
                       messages = json.value("messages", nlohmann::json());
  if (!system.is_string()) throw wrong("system: expected a string");
  if (!messages.is_array() || messages.empty() || messages.size() % 2 != 0)
    throw wrong("messages: expected questions, each with its answer");
  SavedConversation saved{system, {}};
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const nlohmann::json& message = messages[i];
    const char* role = i % 2 == 0 ? "user" : "assistant";
    if (!message.is_object() || message.value("role", nlohmann::json()) != role)
      throw wrong(fmt::format("messages[{}].role: expected {}", i, role));
    if (message.value("content", nlohmann::json()).type() != nlohmann::json::value_t::string)
      throw wrong(fmt::format("messages[{}].content: expected a string", i));
    saved.messages.push_back({role, message["content"]});
  }
  return saved;
}

}  // namespace

std::string to_file(const SavedConversation& saved, std::string_view passphrase, int scrypt_cost) {
  nlohmann::ordered_json json{
      {"format", k_format}, {"version", k_saved_conversation_version}, {"system", saved.system}};
  json["messages"] = nlohmann::ordered_json::array();
  for (const Message& message : saved.messages)
    json["messages"].push_back({{"role", message.role}, {"content", message.content}});
  std::string text = json.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  if (passphrase.empty()) return text;
  std::string file = encrypted(text, passphrase, scrypt_cost);
  OPENSSL_cleanse(text.data(), text.size());
  return file;
}

bool is_encrypted(std::string_view file) { return file.starts_with(k_magic); }

SavedConversation from_file(std::string_view file, std::string_view passphrase, const std::string& name) {
  return is_encrypted(file) ? parsed(decrypted(file, passphrase, name), name) : parsed(file, name);
}

}  // namespace permllm
