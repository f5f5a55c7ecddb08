// Vocabularies from files: a GGUF file's metadata, and sentencepiece's own file.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "model/gguf.h"
#include "model/pieces.h"
#include "permllm/error.h"

namespace permllm {
namespace {

void limit(const char* key, std::size_t size, std::size_t most) {
  if (size > most) throw Error(Code::unsupported, key, fmt::format("{} bytes, the limit is {}", size, most));
}

std::optional<bool> flag(const Gguf& file, const char* key) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) return std::nullopt;
  const bool* value = std::get_if<bool>(&found->second);
  if (value == nullptr) throw Error(Code::file, key, "is not true or false");
  return *value;
}

// Names a split pattern. Files from before there was the key, or whose converter did not know the vocabulary, do not say how text is split:
// that of GPT-2, which was meant by it, is right for its own vocabulary alone.
std::string pre_of(const Gguf& file, const std::string& pre_tokenizer) {
  constexpr const char* k_key = "tokenizer.ggml.pre";
  if (!pre_tokenizer.empty()) return pre_tokenizer;
  const std::string pre = file.has(k_key) ? file.string(k_key) : "";
  if (!pre.empty() && pre != "default") return pre;
  if (file.has("general.architecture") && file.string("general.architecture") == "gpt2") return "gpt-2";
  throw Error(
      Code::unsupported, k_key,
      fmt::format(
          "{}: how text is split is not known, and numbers, line ends or contractions would become other tokens "
          "than the model was trained on; convert the model anew, or name what it uses by --pre-tokenizer: {}",
          pre.empty() ? "is missing" : "is \"default\"", fmt::join(pre_tokenizers(), ", ")));
}

}  // namespace

Vocabulary Vocabulary::read(const Gguf& file, const std::string& pre_tokenizer) {
  Vocabulary v;
  v.model = file.string("tokenizer.ggml.model");
  if (v.model != "gpt2" && v.model != "llama") {
    throw Error(Code::unsupported, "tokenizer.ggml.model",
                fmt::format("\"{:.40}\" is not supported; \"gpt2\" (byte-level BPE) and \"llama\" (sentencepiece) are",
                            v.model));
  }
  v.tokens = file.strings("tokenizer.ggml.tokens");
  for (const std::int64_t type : file.numbers("tokenizer.ggml.token_type")) {
    if (type < k_normal || type > k_byte)
      throw Error(Code::file, "tokenizer.ggml.token_type",
                  fmt::format("{} of token {}, expected 1 to 6", type, v.types.size()));
    v.types.push_back(static_cast<std::uint32_t>(type));
  }
  const auto id = [&](const char* key) -> std::optional<TokenId> {
    if (!file.has(key)) return std::nullopt;
    const std::uint64_t value = file.number(key);
    if (value >= v.tokens.size())
      throw Error(Code::file, key, fmt::format("{}, the vocabulary has {} tokens", value, v.tokens.size()));
    return static_cast<TokenId>(value);
  };
  const auto eos = id("tokenizer.ggml.eos_token_id");
  if (!eos) throw Error(Code::file, "tokenizer.ggml.eos_token_id", "is missing from the file's metadata");
  v.eos = *eos;
  v.bos = id("tokenizer.ggml.bos_token_id");
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    if (const auto end = id(key)) v.ends.push_back(*end);
  }
  if (v.model == "llama") {
    if (!pre_tokenizer.empty())
      throw Error(Code::usage, "pre_tokenizer",
                  "is for byte-level vocabularies, and this one is sentencepiece's: leave it out");
    const auto found = file.metadata().find("tokenizer.ggml.scores");
    const auto* scores = found == file.metadata().end() ? nullptr : std::get_if<std::vector<double>>(&found->second);
    if (scores == nullptr) throw Error(Code::file, "tokenizer.ggml.scores", "is missing, or no list of real numbers");
    for (const double score : *scores) v.scores.push_back(static_cast<float>(score));
    constexpr const char* k_charsmap = "tokenizer.ggml.precompiled_charsmap";
    if (file.has(k_charsmap))
      throw Error(Code::unsupported, k_charsmap,
                  "is not supported where tokenizer.ggml.model is \"llama\": programs differ in whether they normalise "
                  "texts by it");
    v.add_bos = v.bos.has_value();
    v.add_space_prefix = flag(file, "tokenizer.ggml.add_space_prefix").value_or(true);
    v.remove_extra_whitespaces = flag(file, "tokenizer.ggml.remove_extra_whitespaces").value_or(false);
  } else {
    v.pre = pre_of(file, pre_tokenizer);
    if (file.has("tokenizer.ggml.merges")) v.merges = file.strings("tokenizer.ggml.merges");
    if (v.merges.empty())
      throw Error(Code::file, "tokenizer.ggml.merges",
                  "there are none: a text would become single bytes; convert the model anew");
    v.add_bos = v.bos && adds_bos_by_default(v.pre);
  }
  // add_eos_token has no say: an answer goes on where the prompt ends.
  v.add_bos = flag(file, "tokenizer.ggml.add_bos_token").value_or(v.add_bos);
  if (v.add_bos && !v.bos)
    throw Error(Code::file, "tokenizer.ggml.bos_token_id", "is missing, but a prompt shall begin with it");
  if (file.has("tokenizer.chat_template")) v.chat_template = file.string("tokenizer.chat_template");
  limit("tokenizer.chat_template", v.chat_template.size(), k_template_limit);
  limit("tokenizer.ggml.pre", v.pre.size(), k_pre_limit);
  if (std::max(v.tokens.size(), v.merges.size()) > k_most_tokens) {
    throw Error(Code::unsupported, "tokenizer.ggml.tokens",
                fmt::format("{} tokens, {} merges, the limit is {}", v.tokens.size(), v.merges.size(), k_most_tokens));
  }
  for (const std::string& token : v.tokens) limit("tokenizer.ggml.tokens", token.size(), k_token_limit);
  for (const std::string& merge : v.merges) limit("tokenizer.ggml.merges", merge.size(), k_token_limit);
  return v;
}

namespace {

// The fields of a protobuf message, in order. Cannot pass its end.
class ProtoReader {
 public:
  ProtoReader(std::string message, std::string_view bytes) : message_(std::move(message)), rest_(bytes) {}
  // The next field; false at the end.
  bool next() {
    if (rest_.empty()) return false;
    const std::uint64_t key = varint();
    field_ = key >> 3;
    type_ = key & 7;
    bytes_ = {};
    number_ = 0;
    switch (type_) {
      case 0:
        number_ = varint();
        break;
      case 1:
        bytes_ = take(8);
        break;
      case 2:
        bytes_ = take(varint());
        break;
      case 5:
        bytes_ = take(4);
        break;
      default:
        refuse(fmt::format("wire type {} is unknown", type_));
    }
    return true;
  }
  std::uint64_t field() const { return field_; }
  std::uint64_t number(const char* name) const {
    if (type_ != 0) refuse(fmt::format("{} is no whole number", name));
    return number_;
  }
  float real(const char* name) const {
    if (type_ != 5) refuse(fmt::format("{} is no real number", name));
    float value;
    std::memcpy(&value, bytes_.data(), sizeof value);
    return value;
  }
  std::string_view bytes(const char* name) const {
    if (type_ != 2) refuse(fmt::format("{} is no text", name));
    return bytes_;
  }
  [[noreturn]] void refuse(const std::string& why) const { throw Error(Code::file, message_, why); }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= std::uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
    refuse("a number has more than 64 bits");
  }
  std::string_view take(std::uint64_t size) {
    if (size > rest_.size()) refuse(fmt::format("it ends: {} bytes are left, {} are needed", rest_.size(), size));
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }
  std::string message_;
  std::string_view rest_, bytes_;
  std::uint64_t field_ = 0, type_ = 0, number_ = 0;
};

}  // namespace

namespace {

// What a sentencepiece file says of itself beside its pieces.
struct SentencePieceSpec {
  std::uint64_t model_type = 1;
  std::int32_t bos = 1, eos = 2;
};

void read_piece(ProtoReader piece, Vocabulary& v) {
  std::string token;
  float score = 0;
  std::uint64_t type = k_normal;
  while (piece.next()) {
    if (piece.field() == 1) token = piece.bytes("piece");
    if (piece.field() == 2) score = piece.real("score");
    if (piece.field() == 3) type = piece.number("type");
  }
  limit("pieces.piece", token.size(), k_token_limit);
  v.tokens.push_back(std::move(token));
  v.scores.push_back(score);
  v.types.push_back(static_cast<std::uint32_t>(std::min<std::uint64_t>(type, std::uint32_t{0} - 1)));
}

void read_trainer(ProtoReader trainer, SentencePieceSpec& spec) {
  while (trainer.next()) {
    if (trainer.field() == 3) spec.model_type = trainer.number("model_type");
    if (trainer.field() == 24 && trainer.number("treat_whitespace_as_suffix") != 0) {
      throw Error(Code::unsupported, "trainer_spec.treat_whitespace_as_suffix", "true is not supported");
    }
    if (trainer.field() == 41) spec.bos = static_cast<std::int32_t>(trainer.number("bos_id"));
    if (trainer.field() == 42) spec.eos = static_cast<std::int32_t>(trainer.number("eos_id"));
  }
}

void read_normalizer(ProtoReader normalizer, Vocabulary& v) {
  while (normalizer.next()) {
    if (normalizer.field() == 2) v.charsmap = normalizer.bytes("precompiled_charsmap");
    if (normalizer.field() == 3) v.add_space_prefix = normalizer.number("add_dummy_prefix") != 0;
    if (normalizer.field() == 4) v.remove_extra_whitespaces = normalizer.number("remove_extra_whitespaces") != 0;
    if (normalizer.field() == 5 && normalizer.number("escape_whitespaces") == 0) {
      throw Error(Code::unsupported, "normalizer_spec.escape_whitespaces", "false is not supported");
    }
  }
}

}  // namespace

Vocabulary Vocabulary::read_sentencepiece(std::span<const std::uint8_t> file, std::size_t image_tokens) {
  constexpr std::size_t k_most_image_tokens = 1 << 20;
  if (image_tokens > k_most_image_tokens)
    throw Error(Code::unsupported, "image_tokens",
                fmt::format("{}, the limit is {}", image_tokens, k_most_image_tokens));
  Vocabulary v;
  for (std::size_t i = 0; i < image_tokens; ++i) v.tokens.push_back(fmt::format("<image_{}>", i));
  v.types.assign(image_tokens, k_control);
  v.scores.assign(image_tokens, 0);
  SentencePieceSpec spec;
  v.add_space_prefix = v.remove_extra_whitespaces = true;
  ProtoReader model("ModelProto", {reinterpret_cast<const char*>(file.data()), file.size()});
  while (model.next()) {
    if (model.field() == 1)
      read_piece({fmt::format("pieces[{}]", v.tokens.size() - image_tokens), model.bytes("pieces")}, v);
    if (model.field() == 2) read_trainer({"trainer_spec", model.bytes("trainer_spec")}, spec);
    if (model.field() == 3) read_normalizer({"normalizer_spec", model.bytes("normalizer_spec")}, v);
  }
  if (spec.model_type != 1 && spec.model_type != 2) {
    throw Error(Code::unsupported, "trainer_spec.model_type",
                fmt::format("{} is not supported; 1 (unigram) and 2 (BPE) are", spec.model_type));
  }
  if (v.tokens.size() > k_most_tokens)
    throw Error(Code::unsupported, "pieces", fmt::format("{}, the limit is {}", v.tokens.size(), k_most_tokens));
  v.model = spec.model_type == 1 ? "unigram" : "llama";
  limit("normalizer_spec.precompiled_charsmap", v.charsmap.size(), k_charsmap_limit);
  const auto find = [&](const char* token) -> std::optional<TokenId> {
    const auto found = std::find(v.tokens.begin(), v.tokens.end(), token);
    if (found == v.tokens.end()) return std::nullopt;
    return static_cast<TokenId>(found - v.tokens.begin());
  };
  const auto sop = find("<sop>"), eop = find("<eop>");
  if (sop && eop && find("[gMASK]")) {
    v.pre = v.chat_template = "chatglm-6b";
    v.bos = sop;
    v.eos = *eop;
    return v;
  }
  const std::size_t pieces = v.tokens.size() - image_tokens;
  const auto inside = [&](std::int32_t id) { return id >= 0 && static_cast<std::size_t>(id) < pieces; };
  if (!inside(spec.eos))
    throw Error(Code::file, "trainer_spec.eos_id", fmt::format("{}, the model has {} pieces", spec.eos, pieces));
  v.eos = static_cast<TokenId>(image_tokens + static_cast<std::size_t>(spec.eos));
  if (inside(spec.bos)) v.bos = static_cast<TokenId>(image_tokens + static_cast<std::size_t>(spec.bos));
  v.add_bos = v.bos.has_value();
  return v;
}

}  // namespace permllm
