// Byte-level BPE from a GGUF file's vocabulary. Runs at the user, from the public card.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace permllm {

class Gguf;
using TokenId = std::uint32_t;

// What a tokenizer is made of: public, sent to the user in the provider's card.
struct Vocabulary {
  std::string model;                 // tokenizer.ggml.model; "gpt2" (byte-level BPE)
  std::string pre;                   // tokenizer.ggml.pre, names the split pattern; unknown ones are refused by name
  std::vector<std::string> tokens;   // as in the file (byte-level alphabet)
  std::vector<std::uint32_t> types;  // tokenizer.ggml.token_type: 1 normal, 3 control, 4 user-defined
  std::vector<std::string> merges;   // "left right", best first
  TokenId bos = 0, eos = 0;
  bool add_bos = false;
  std::string chat_template;         // tokenizer.chat_template; empty when absent

  static Vocabulary read(const Gguf& file);
};

class Tokenizer {
 public:
  // Errors: unsupported (model or pre, by name), file (ids or merges that do not fit).
  explicit Tokenizer(Vocabulary vocabulary);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  const Vocabulary& vocabulary() const;
  // With parse_special, text of control and user-defined tokens ("<|im_start|>") becomes that token; without (what a
  // person typed), control tokens are never produced from text. Invalid UTF-8 is kept byte for byte.
  std::vector<TokenId> encode(std::string_view text, bool parse_special) const;
  // The bytes of the tokens; control tokens as their text when `special`, as nothing otherwise.
  std::string decode(std::span<const TokenId> ids, bool special = false) const;
  bool is_end(TokenId id) const;  // end of turn or of text

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The text with every byte that is no UTF-8 replaced by U+FFFD.
std::string valid_utf8(std::string_view bytes);

// Complete UTF-8 text out of token bytes that may end in the middle of a character.
class Utf8Stream {
 public:
  std::string push(std::string_view bytes);  // what is complete so far
  std::string finish();                      // the rest, invalid bytes as U+FFFD

 private:
  std::string pending_;
};

}  // namespace permllm
