#include "model/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "model/pieces.h"
#include "permllm/error.h"

namespace permllm {
namespace {

// Tokens that end an answer, by their text: files name one or two of them.
constexpr std::string_view k_end_texts[] = {"<|im_end|>",      "<|endoftext|>",  "<|eot_id|>", "<|eom_id|>",
                                            "<|end_of_text|>", "<end_of_turn>",  "<|end|>",    "<eop>",
                                            "<|user|>",        "<|observation|>"};
// Marks of turns. They and the ends are control tokens whatever type a file gives them: no person may write them.
constexpr std::string_view k_mark_texts[] = {"<|im_start|>",
                                             "<|im_sep|>",
                                             "<|begin_of_text|>",
                                             "<|start_header_id|>",
                                             "<|end_header_id|>",
                                             "<start_of_turn>",
                                             "<|system|>",
                                             "<|assistant|>",
                                             "[gMASK]",
                                             "[MASK]",
                                             "[sMASK]",
                                             "<sop>",
                                             "[INST]",
                                             "[/INST]",
                                             "<|start_of_role|>",
                                             "<|end_of_role|>",
                                             "[SYSTEM_PROMPT]",
                                             "[/SYSTEM_PROMPT]"};

// Begin and end of a text. Likewise, but where they are a byte-level vocabulary's normal tokens, which merges make out of a text; begins where the
// file names none: Gemma 3 has a tag of HTML of such a name.
constexpr std::string_view k_text_ends[] = {"</s>", "<eos>", "<\uff5cend\u2581of\u2581sentence\uff5c>"};
constexpr std::string_view k_text_begins[] = {"<s>", "<bos>", "<\uff5cbegin\u2581of\u2581sentence\uff5c>"};

template <std::size_t n>
bool is_one_of(const std::string_view (&texts)[n], std::string_view text) {
  return std::find(std::begin(texts), std::end(texts), text) != std::end(texts);
}

}  // namespace

struct Tokenizer::Impl {
  Vocabulary vocabulary;
  std::vector<std::uint32_t> types;  // the vocabulary's, but for marks, bos and ends
  std::unique_ptr<Pieces> pieces;
  std::vector<std::string> texts;  // bytes of each token
  std::vector<TokenId> ends;       // sorted
  PrefixMatcher control, added,
      all;  // control tokens; what is cut out of a text before it is split, without and with them

  explicit Impl(Vocabulary v);
};

Tokenizer::Impl::Impl(Vocabulary v) : vocabulary(std::move(v)) {
  const std::vector<std::string>& tokens = vocabulary.tokens;
  const bool bpe = vocabulary.model == "gpt2";
  if (!bpe && vocabulary.model != "llama" && vocabulary.model != "unigram") {
    throw Error(Code::unsupported, "tokenizer.ggml.model",
                fmt::format("\"{:.40}\" is not supported; gpt2, llama and unigram are", vocabulary.model));
  }
  if (tokens.empty()) throw Error(Code::file, "tokenizer.ggml.tokens", "there are none");
  if (vocabulary.types.size() != tokens.size()) {
    throw Error(Code::file, "tokenizer.ggml.token_type",
                fmt::format("{} types for {} tokens", vocabulary.types.size(), tokens.size()));
  }
  const auto check_id = [&](const char* key, TokenId id) {
    if (id >= tokens.size())
      throw Error(Code::file, key, fmt::format("{}, the vocabulary has {} tokens", id, tokens.size()));
  };
  check_id("tokenizer.ggml.eos_token_id", vocabulary.eos);
  if (vocabulary.bos) check_id("tokenizer.ggml.bos_token_id", *vocabulary.bos);
  for (const TokenId end : vocabulary.ends) check_id("tokenizer.ggml.eot_token_id", end);
  ends = vocabulary.ends;
  ends.push_back(vocabulary.eos);
  types = vocabulary.types;
  // What the file calls a mark is one, whatever type it gives it, and before another token of the same text.
  const auto mark = [&](const char* key, TokenId id) {
    if (character_length(tokens[id] + " ") == tokens[id].size())
      throw Error(Code::file, key, fmt::format("token {} is a character of texts, not a mark", id));
    types[id] = k_control;
    control.add(tokens[id], id);
    all.add(tokens[id], id);
  };
  mark("tokenizer.ggml.eos_token_id", vocabulary.eos);
  if (vocabulary.bos) mark("tokenizer.ggml.bos_token_id", *vocabulary.bos);
  for (const TokenId end : vocabulary.ends) mark("tokenizer.ggml.eot_token_id", end);
  for (TokenId id = 0; id < tokens.size(); ++id) {
    if (types[id] < k_normal || types[id] > k_byte) {
      throw Error(Code::file, "tokenizer.ggml.token_type",
                  fmt::format("{} of token {}, expected 1 to 6", types[id], id));
    }
    const bool made_of_texts = bpe && types[id] == k_normal;
    const bool end = is_one_of(k_end_texts, tokens[id]) || (!made_of_texts && is_one_of(k_text_ends, tokens[id]));
    const bool begin = is_one_of(k_mark_texts, tokens[id]) ||
                       (!vocabulary.bos && !made_of_texts && is_one_of(k_text_begins, tokens[id]));
    if (end) ends.push_back(id);
    if (end || begin) types[id] = k_control;
    if (types[id] == k_control) {
      control.add(tokens[id], id);
      all.add(tokens[id], id);
    } else if (types[id] == k_user_defined && bpe) {  // sentencepiece finds its own, after normalisation
      added.add(tokens[id], id);
      all.add(tokens[id], id);
    }
  }
  std::sort(ends.begin(), ends.end());
  for (PrefixMatcher* matcher : {&control, &added, &all}) matcher->prepare();
  pieces = bpe ? byte_level_bpe(vocabulary, types) : sentencepiece(vocabulary, types);
  texts.reserve(tokens.size());
  for (TokenId id = 0; id < tokens.size(); ++id)
    texts.push_back(types[id] == k_control ? tokens[id] : pieces->bytes(id));
}

Tokenizer::Tokenizer(Vocabulary vocabulary) : impl_(new Impl(std::move(vocabulary))) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

const Vocabulary& Tokenizer::vocabulary() const { return impl_->vocabulary; }

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool parse_special) const {
  const PrefixMatcher& added = parse_special ? impl_->all : impl_->added;
  std::vector<TokenId> out;
  std::size_t plain = 0;  // begin of the text that no added token covers
  for (std::size_t at = 0; at < text.size() && !added.empty();) {
    const auto [length, id] = added.longest(text.substr(at));
    if (length == 0) {
      ++at;
      continue;
    }
    impl_->pieces->encode(text.substr(plain, at - plain), out);
    out.push_back(id);
    at += length;
    plain = at;
  }
  impl_->pieces->encode(text.substr(plain), out);
  return out;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool special) const {
  std::string text;
  bool first = impl_->vocabulary.add_space_prefix;
  for (const TokenId id : ids) {
    const bool control = id < impl_->types.size() && impl_->types[id] == k_control;
    if (control && !special) continue;
    std::string_view more = bytes(id);
    if (first && !control && more.starts_with(' ')) more.remove_prefix(1);
    first = first && control;
    text += more;
  }
  return text;
}

std::string_view Tokenizer::bytes(TokenId id) const {
  return id < impl_->texts.size() ? impl_->texts[id] : std::string_view();
}

std::optional<TokenId> Tokenizer::control(std::string_view text) const {
  const auto [length, id] = impl_->control.longest(text);
  return length > 0 && length == text.size() ? std::optional(id) : std::nullopt;
}

std::pair<std::size_t, TokenId> Tokenizer::control_at(std::string_view text) const {
  return impl_->control.longest(text);
}

bool Tokenizer::is_end(TokenId id) const { return std::binary_search(impl_->ends.begin(), impl_->ends.end(), id); }

}  // namespace permllm
