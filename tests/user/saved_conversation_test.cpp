#include "user/saved_conversation.h"

#include <gtest/gtest.h>

#include "support/errors.h"

namespace permllm::test {
namespace {

constexpr int k_cheap = 14;
const SavedConversation k_saved{
    "Be brief.", {{"user", "\u00d6?"}, {"assistant", "Yes.\n\x1b[2J"}, {"user", "Sure?"}, {"assistant", ""}}};

std::string fault(std::string_view file, std::string_view passphrase) {
  try {
    from_file(file, passphrase, "talk");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::file);
    EXPECT_EQ(error.field(), "talk");
    return error.what();
  }
  return "";
}
void expect_same(const SavedConversation& got, const SavedConversation& want) {
  EXPECT_EQ(got.system, want.system);
  ASSERT_EQ(got.messages.size(), want.messages.size());
  for (std::size_t i = 0; i < want.messages.size(); ++i) {
    EXPECT_EQ(got.messages[i].role, want.messages[i].role);
    EXPECT_EQ(got.messages[i].content, want.messages[i].content);
  }
}

TEST(SavedConversations, come_back_as_they_were) {
  const std::string plain = to_file(k_saved, ""), secret = to_file(k_saved, "pass", k_cheap);
  EXPECT_FALSE(is_encrypted(plain));
  expect_same(from_file(plain, "", "talk"), k_saved);
  expect_same(from_file(plain, "of no use", "talk"), k_saved);
  EXPECT_TRUE(is_encrypted(secret));
  expect_same(from_file(secret, "pass", "talk"), k_saved);
  EXPECT_EQ(secret.find("Sure"), std::string::npos);
  EXPECT_NE(to_file(k_saved, "pass", k_cheap), secret);  // salt and nonce are fresh
}

// Made by another program: Python's hashlib.scrypt, and AESGCM of its package cryptography.
TEST(SavedConversations, are_read_as_another_program_writes_them) {
  constexpr std::string_view hex =
      "5045524d4c4c4d43010e0801000102030405060708090a0b0c0d0e0f6465666768696a6b6c6d6e6f3b26bab7092e7ad71d24"
      "b04a772cdcf2dae0aad0d5ff3e94edb34efb23840cabd279bae75359fd663b6c3b19a14565a766cbcaeb1b00c8ab2cfff8e9"
      "08da753e2276bdb1612501d6fddf8cc604116117d691fdf47327a53c37f3d581f6c392812c2b4bad6ce85dc3d7850868651c"
      "1a8963d9eb2586ece5ca14eb4f7b8a0708308b57f099cea56ca42d871a0cbb88c38f65981ad0de187b85d0d8a88049c4c132"
      "87f2e74d9951aef568edf11c53c9501eb3a43b30221efa";
  std::string file;
  for (std::size_t i = 0; i < hex.size(); i += 2)
    file += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  expect_same(from_file(file, "p\u00e4ssword", "talk"), {"Be brief.", {{"user", "\u00d6?"}, {"assistant", "Yes."}}});
}

TEST(SavedConversations, a_wrong_passphrase_and_a_changed_file_are_told) {
  const std::string secret = to_file(k_saved, "pass", k_cheap);
  EXPECT_NE(fault(secret, "Pass").find("the passphrase is wrong, or the file was changed"), std::string::npos);
  EXPECT_NE(fault(secret, "").find("is encrypted"), std::string::npos);
  EXPECT_NE(fault(secret.substr(0, 40), "pass").find("cut short"), std::string::npos);
  EXPECT_NE(fault(secret.substr(0, secret.size() - 1), "pass"), "");
  // Of header, text and tag: no byte counts for nothing.
  for (std::size_t i = 8; i < secret.size(); i += i < 40 ? 1 : 37) {
    std::string changed = secret;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    if (i == 9) changed[i] = 15;  // another cost is another key
    EXPECT_NE(fault(changed, "pass"), "") << i;
  }
  std::string costly = secret;
  costly[9] = 40;
  EXPECT_NE(fault(costly, "pass").find("N = 2^40"), std::string::npos);
  costly = secret;
  costly[8] = 9;
  EXPECT_NE(fault(costly, "pass").find("is of version 9"), std::string::npos);
}

TEST(SavedConversations, what_is_none_is_refused) {
  const std::string begin = R"({"format":"permllm-conversation","version":1,"system":"","messages":)";
  expect_same(from_file(begin + R"([{"role":"user","content":"a"},{"role":"assistant","content":"b"}]})", "", "talk"),
              {"", {{"user", "a"}, {"assistant", "b"}}});
  for (const std::string& text :
       {std::string(), std::string("# A text"), std::string("[]"), std::string(R"({"format":"other"})"),
        std::string(R"({"format":"permllm-conversation","version":2})"), begin + "[]}", begin + R"({"a":1}})",
        begin + R"([{"role":"assistant","content":"a"},{"role":"user","content":"a"}]})",
        begin + R"([{"role":"user","content":5},{"role":"assistant","content":"b"}]})",
        begin + R"([{"role":"user","content":"a"}]})", begin + R"([{"role":"user"},{"role":"assistant"}]})",
        begin + R"([5,5]})", begin + std::string(100000, '['),
        begin + "[{\"role\":\"user\",\"content\":\"\xff\"},{\"role\":\"assistant\",\"content\":\"b\"}]}"}) {
    EXPECT_NE(fault(text, ""), "") << text.substr(0, 100);
  }
}

}  // namespace
}  // namespace permllm::test
