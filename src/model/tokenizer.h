// Text to tokens and back, from a model's vocabulary. Runs at the user, from the public card.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/text.h"

namespace permllm {

class Gguf;
using TokenId = std::uint32_t;

// tokenizer.ggml.token_type
enum TokenType : std::uint32_t {
  k_normal = 1,
  k_unknown = 2,
  k_control = 3,
  k_user_defined = 4,
  k_unused = 5,
  k_byte = 6
};

// Bounds on what a file or a peer may send, in bytes: of a name, a token or merge, a template, a normalisation.
inline constexpr std::size_t k_pre_limit = 64, k_token_limit = 1 << 12, k_template_limit = 1 << 20,
                             k_charsmap_limit = 1 << 22;
inline constexpr std::size_t k_most_tokens = 1 << 22;  // and merges

// What a tokenizer is made of: public, sent to the user in the provider's card.
struct Vocabulary {
  std::string model;  // "gpt2": byte-level BPE; "llama": BPE of sentencepiece; "unigram": unigram of sentencepiece
  std::string
      pre;  // of gpt2: names the split pattern, unknown ones are refused by name; "chatglm-6b": blanks have tokens
  // As in the file (gpt2: in the byte-level alphabet; else a blank is U+2581). Of tokens of the same text the first is what the text becomes; no
  // text becomes an empty one.
  std::vector<std::string> tokens;
  std::vector<std::uint32_t> types;  // TokenType of each
  std::vector<float> scores;         // llama and unigram: of each token, the best is the highest; gpt2: none
  std::vector<std::string> merges;   // gpt2: "left right", best first
  std::optional<TokenId> bos;
  TokenId eos = 0;
  std::vector<TokenId> ends;      // further tokens that the file says end an answer
  bool add_bos = false;           // a prompt begins with bos
  bool add_space_prefix = false;  // llama and unigram: a text begins with a blank that it does not have
  bool remove_extra_whitespaces = false;
  std::string charsmap;       // sentencepiece's normalisation: a double array and its texts; empty: none
  std::string chat_template;  // tokenizer.chat_template, or a chat format's name; empty when absent

  // pre_tokenizer: in place of what the file calls it (tokenizer.ggml.pre), which files from before it was kept do not.
  // Errors: file or unsupported, naming the key; usage, where a vocabulary needs no pre_tokenizer.
  static Vocabulary read(const Gguf& file, const std::string& pre_tokenizer = "");
  // A sentencepiece model by itself (a serialized ModelProto). ChatGLM-6B's is known by its <sop> and <eop>; its file may stand
  // behind `image_tokens` ids that are no text (20,000 in the first release of its weights, 0 later).
  // Errors: file or unsupported, naming the field.
  static Vocabulary read_sentencepiece(std::span<const std::uint8_t> file, std::size_t image_tokens = 0);
};

std::vector<std::string> pre_tokenizers();  // names of split patterns

class Tokenizer {
 public:
  // Errors: unsupported (model or pre, by name), file (tables that do not fit each other; naming the key).
  explicit Tokenizer(Vocabulary vocabulary);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  const Vocabulary& vocabulary() const;
  // With parse_special, text of control tokens ("<|im_start|>") becomes that token; without (what a person typed), control
  // tokens are never produced from text. Invalid UTF-8 is kept byte for byte, where the vocabulary has bytes.
  std::vector<TokenId> encode(std::string_view text, bool parse_special) const;
  // The bytes of the tokens; control tokens as their text when `special`, as nothing otherwise. The blank that encode() puts
  // before a text (add_space_prefix) is left out again: `ids` is a text from its beginning, not one that another goes on with.
  std::string decode(std::span<const TokenId> ids, bool special = false) const;
  // The bytes of one token in the midst of a text; a control token's own text. Nothing for an id beyond the vocabulary.
  std::string_view bytes(TokenId id) const;
  std::optional<TokenId> control(std::string_view text) const;  // the control token of exactly this text
  // The longest control token that a text begins with, and its length; length 0: none.
  std::pair<std::size_t, TokenId> control_at(std::string_view text) const;
  bool is_end(TokenId id) const;  // end of turn or of text

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace permllm
