#include "model/tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <queue>
#include <unordered_map>

#include "model/gguf.h"
#include "permllm/error.h"

namespace permllm {
namespace {

// Split patterns of the byte-level BPE families by tokenizer.ggml.pre, each applied to the pieces of the one before.
constexpr const char* k_gpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
struct Split {
  const char* name;
  std::array<const char*, 2> patterns;  // nullptr: none
};
constexpr Split k_splits[] = {
    {"gpt-2", {k_gpt2, nullptr}},
    {"default", {k_gpt2, nullptr}},
    {"smollm", {R"(\p{N}|[^\p{N}]+)", k_gpt2}},  // each digit by itself
};

enum TokenType : std::uint32_t { k_control = 3, k_user_defined = 4 };

// The byte-level alphabet of GPT-2: printable bytes stand for themselves, the others for code points from 256 on.
std::array<std::string, 256> byte_alphabet() {
  std::array<std::string, 256> alphabet;
  unsigned next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
    const unsigned code = printable ? byte : next++;
    std::string& text = alphabet[byte];
    if (code < 0x80) {
      text = static_cast<char>(code);
    } else {
      text = {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
    }
  }
  return alphabet;
}

struct Pattern {
  explicit Pattern(const char* text) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text), PCRE2_ZERO_TERMINATED,
                             PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF, &error, &offset, nullptr));
    PERMLLM_ASSERT(code != nullptr);
    pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // without it the interpreter does the same
  }
  std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code{nullptr, pcre2_code_free};

  // Calls piece(part) for every match and everything between matches (bytes that are no UTF-8), in order.
  template <class Piece>
  void split(std::string_view text, Piece piece) const {
    const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(
        pcre2_match_data_create_from_pattern(code.get(), nullptr), pcre2_match_data_free);
    std::size_t at = 0;
    while (at < text.size()) {
      const int found = pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at, 0, match.get(), nullptr);
      const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match.get());
      if (found < 0) break;
      if (ends[0] > at) piece(text.substr(at, ends[0] - at));
      piece(text.substr(ends[0], ends[1] - ends[0]));
      at = ends[1];
    }
    if (at < text.size()) piece(text.substr(at));
  }
};

constexpr std::uint64_t pair_key(TokenId left, TokenId right) { return std::uint64_t{left} << 32 | right; }

}  // namespace

Vocabulary Vocabulary::read(const Gguf& file) {
  Vocabulary v;
  v.model = file.string("tokenizer.ggml.model");
  v.pre = file.has("tokenizer.ggml.pre") ? file.string("tokenizer.ggml.pre") : "default";
  v.tokens = file.strings("tokenizer.ggml.tokens");
  for (const std::int64_t type : file.numbers("tokenizer.ggml.token_type")) v.types.push_back(static_cast<std::uint32_t>(type));
  if (file.has("tokenizer.ggml.merges")) v.merges = file.strings("tokenizer.ggml.merges");
  const auto id = [&](const char* key) {
    const std::uint64_t value = file.number(key);
    if (value >= v.tokens.size()) throw Error(Code::file, key, fmt::format("{}, the vocabulary has {} tokens", value, v.tokens.size()));
    return static_cast<TokenId>(value);
  };
  v.eos = id("tokenizer.ggml.eos_token_id");
  v.bos = file.has("tokenizer.ggml.bos_token_id") ? id("tokenizer.ggml.bos_token_id") : v.eos;
  if (const auto found = file.metadata().find("tokenizer.ggml.add_bos_token"); found != file.metadata().end()) {
    const bool* flag = std::get_if<bool>(&found->second);
    if (flag == nullptr) throw Error(Code::file, "tokenizer.ggml.add_bos_token", "is not true or false");
    v.add_bos = *flag;
  }
  if (file.has("tokenizer.chat_template")) v.chat_template = file.string("tokenizer.chat_template");
  const auto limit = [](const char* key, std::size_t size, std::size_t most) {
    if (size > most) throw Error(Code::unsupported, key, fmt::format("{} bytes, the limit is {}", size, most));
  };
  limit("tokenizer.chat_template", v.chat_template.size(), std::size_t{1} << 20);
  for (const std::string& token : v.tokens) limit("tokenizer.ggml.tokens", token.size(), std::size_t{1} << 12);
  for (const std::string& merge : v.merges) limit("tokenizer.ggml.merges", merge.size(), std::size_t{1} << 12);
  return v;
}

struct Tokenizer::Impl {
  Vocabulary vocabulary;
  std::vector<Pattern> patterns;
  std::array<std::string, 256> alphabet = byte_alphabet();
  std::array<int, 512> bytes_of_code;  // the alphabet the other way round; -1: none
  std::unordered_map<std::string, TokenId> ids;
  std::array<std::int64_t, 256> byte_ids;                                            // -1: the vocabulary lacks the byte
  std::unordered_map<std::uint64_t, std::pair<std::uint32_t, TokenId>> merges;       // pair -> rank, merged token
  std::vector<std::string> texts;                                                    // bytes of each token
  std::vector<std::pair<std::string, TokenId>> special, user_defined;                // longest first

  void prepare();
  std::string bytes_of(const std::string& token) const;
  void merge_piece(std::string_view piece, std::vector<TokenId>& out) const;
  void encode_plain(std::string_view text, std::size_t level, std::vector<TokenId>& out) const;
};

std::string Tokenizer::Impl::bytes_of(const std::string& token) const {
  std::string bytes;
  for (std::size_t i = 0; i < token.size();) {
    const auto first = static_cast<unsigned char>(token[i]);
    const std::size_t length = first < 0x80 ? 1 : 2;
    const unsigned code = length == 1 || i + 1 == token.size() ? first : (first & 0x1fu) << 6 | (token[i + 1] & 0x3fu);
    if (code >= bytes_of_code.size() || bytes_of_code[code] < 0) return token;  // an added token's own text
    bytes += static_cast<char>(bytes_of_code[code]);
    i += length;
  }
  return bytes;
}

void Tokenizer::Impl::prepare() {
  const Vocabulary& v = vocabulary;
  if (v.model != "gpt2") {
    throw Error(Code::unsupported, "tokenizer.ggml.model", fmt::format("\"{:.40}\" is not supported; \"gpt2\" (byte-level BPE) is", v.model));
  }
  const auto split = std::find_if(std::begin(k_splits), std::end(k_splits), [&](const Split& s) { return v.pre == s.name; });
  if (split == std::end(k_splits)) {
    throw Error(Code::unsupported, "tokenizer.ggml.pre", fmt::format("\"{:.40}\" is not supported; gpt-2, default and smollm are", v.pre));
  }
  for (const char* pattern : split->patterns) {
    if (pattern != nullptr) patterns.emplace_back(pattern);
  }
  if (v.tokens.empty() || v.types.size() != v.tokens.size()) {
    throw Error(Code::file, "tokenizer.ggml.token_type", fmt::format("{} types for {} tokens", v.types.size(), v.tokens.size()));
  }
  if (v.eos >= v.tokens.size() || v.bos >= v.tokens.size()) throw Error(Code::file, "tokenizer.ggml.eos_token_id", "is outside the vocabulary");
  bytes_of_code.fill(-1);
  for (int byte = 0; byte < 256; ++byte) {
    const std::string& text = alphabet[static_cast<std::size_t>(byte)];
    const unsigned code = text.size() == 1 ? static_cast<unsigned char>(text[0]) : (text[0] & 0x1fu) << 6 | (text[1] & 0x3fu);
    bytes_of_code[code] = byte;
  }
  for (TokenId id = 0; id < v.tokens.size(); ++id) {
    const bool added = v.types[id] == k_control || v.types[id] == k_user_defined;
    ids.emplace(v.tokens[id], id);
    texts.push_back(added ? v.tokens[id] : bytes_of(v.tokens[id]));
    if (v.types[id] == k_control && !v.tokens[id].empty()) special.emplace_back(v.tokens[id], id);
    if (v.types[id] == k_user_defined && !v.tokens[id].empty()) user_defined.emplace_back(v.tokens[id], id);
  }
  const auto longest_first = [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); };
  special.insert(special.end(), user_defined.begin(), user_defined.end());
  std::stable_sort(special.begin(), special.end(), longest_first);
  std::stable_sort(user_defined.begin(), user_defined.end(), longest_first);
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const auto found = ids.find(alphabet[byte]);
    byte_ids[byte] = found == ids.end() ? -1 : std::int64_t{found->second};
  }
  merges.reserve(v.merges.size());
  for (std::uint32_t rank = 0; rank < v.merges.size(); ++rank) {
    const std::string& merge = v.merges[rank];
    const std::size_t space = merge.find(' ', 1);
    const auto id = [&](const std::string& token) {
      const auto found = ids.find(token);
      if (found == ids.end()) throw Error(Code::file, "tokenizer.ggml.merges", fmt::format("merge {} names a token that the vocabulary lacks", rank));
      return found->second;
    };
    if (space == std::string::npos) throw Error(Code::file, "tokenizer.ggml.merges", fmt::format("merge {} is not two tokens", rank));
    const std::string left = merge.substr(0, space), right = merge.substr(space + 1);
    merges.emplace(pair_key(id(left), id(right)), std::pair(rank, id(left + right)));
  }
}

// Merges the best-ranked adjacent pair until none is left: symbols in a linked list, candidate pairs in a heap.
void Tokenizer::Impl::merge_piece(std::string_view piece, std::vector<TokenId>& out) const {
  struct Symbol {
    TokenId id;
    std::int64_t previous, next;
    bool live = true;
  };
  struct Candidate {
    std::uint32_t rank;
    std::int64_t left, right;
    TokenId left_id, right_id, merged;
    bool operator<(const Candidate& other) const { return rank != other.rank ? rank > other.rank : left > other.left; }
  };
  std::vector<Symbol> symbols;
  for (const char c : piece) {
    const std::int64_t id = byte_ids[static_cast<unsigned char>(c)];
    if (id < 0) continue;  // a byte that the vocabulary cannot express
    const auto at = static_cast<std::int64_t>(symbols.size());
    symbols.push_back({static_cast<TokenId>(id), at - 1, at + 1});
  }
  const auto size = static_cast<std::int64_t>(symbols.size());
  const auto symbol = [&](std::int64_t i) -> Symbol& { return symbols[static_cast<std::size_t>(i)]; };
  std::priority_queue<Candidate> candidates;
  const auto consider = [&](std::int64_t left, std::int64_t right) {
    if (left < 0 || right >= size) return;
    const auto found = merges.find(pair_key(symbol(left).id, symbol(right).id));
    if (found != merges.end()) {
      candidates.push({found->second.first, left, right, symbol(left).id, symbol(right).id, found->second.second});
    }
  };
  for (std::int64_t i = 0; i + 1 < size; ++i) consider(i, i + 1);
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    Symbol& left = symbol(best.left);
    Symbol& right = symbol(best.right);
    if (!left.live || !right.live || left.id != best.left_id || right.id != best.right_id || left.next != best.right) continue;
    left.id = best.merged;
    left.next = right.next;
    right.live = false;
    if (left.next < size) symbol(left.next).previous = best.left;
    consider(left.previous, best.left);
    consider(best.left, left.next);
  }
  for (const Symbol& s : symbols) {
    if (s.live) out.push_back(s.id);
  }
}

void Tokenizer::Impl::encode_plain(std::string_view text, std::size_t level, std::vector<TokenId>& out) const {
  if (level == patterns.size()) return merge_piece(text, out);
  patterns[level].split(text, [&](std::string_view piece) { encode_plain(piece, level + 1, out); });
}

Tokenizer::Tokenizer(Vocabulary vocabulary) : impl_(new Impl) {
  impl_->vocabulary = std::move(vocabulary);
  impl_->prepare();
}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

const Vocabulary& Tokenizer::vocabulary() const { return impl_->vocabulary; }

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool parse_special) const {
  const auto& added = parse_special ? impl_->special : impl_->user_defined;
  std::vector<TokenId> out;
  std::size_t plain = 0;  // begin of the text that no added token covers
  for (std::size_t at = 0; at < text.size() && !added.empty();) {
    const auto found = std::find_if(added.begin(), added.end(), [&](const auto& token) { return text.substr(at).starts_with(token.first); });
    if (found == added.end()) {
      ++at;
      continue;
    }
    impl_->encode_plain(text.substr(plain, at - plain), 0, out);
    out.push_back(found->second);
    at += found->first.size();
    plain = at;
  }
  impl_->encode_plain(text.substr(plain), 0, out);
  return out;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool special) const {
  std::string bytes;
  for (const TokenId id : ids) {
    PERMLLM_ASSERT(id < impl_->texts.size());
    if (special || impl_->vocabulary.types[id] != k_control) bytes += impl_->texts[id];
  }
  return bytes;
}

bool Tokenizer::is_end(TokenId id) const {
  if (id == impl_->vocabulary.eos) return true;
  if (id >= impl_->texts.size() || impl_->vocabulary.types[id] != k_control) return false;
  const std::string& text = impl_->texts[id];
  return text == "<|im_end|>" || text == "<|endoftext|>" || text == "<|eot_id|>";
}

std::string Utf8Stream::push(std::string_view bytes) {
  pending_ += bytes;
  // An incomplete character at the end is at most three bytes long.
  std::size_t end = pending_.size();
  for (std::size_t back = 1; back <= 3 && back <= pending_.size(); ++back) {
    const auto byte = static_cast<unsigned char>(pending_[pending_.size() - back]);
    if ((byte & 0xc0) == 0x80) continue;
    const std::size_t length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    if (length > back) end = pending_.size() - back;
    break;
  }
  std::string whole = valid_utf8(std::string_view(pending_).substr(0, end));
  pending_.erase(0, end);
  return whole;
}

std::string Utf8Stream::finish() {
  std::string rest = valid_utf8(pending_);
  pending_.clear();
  return rest;
}

std::string valid_utf8(std::string_view bytes) {
  std::string out;
  for (std::size_t i = 0; i < bytes.size();) {
    const auto first = static_cast<unsigned char>(bytes[i]);
    const std::size_t length = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
    bool valid = length > 0 && i + length <= bytes.size();
    for (std::size_t k = 1; valid && k < length; ++k) valid = (static_cast<unsigned char>(bytes[i + k]) & 0xc0) == 0x80;
    if (valid && length > 2) {
      // No overlong forms, no surrogates, nothing above U+10FFFF.
      const auto second = static_cast<unsigned char>(bytes[i + 1]);
      valid = !(first == 0xe0 && second < 0xa0) && !(first == 0xed && second > 0x9f) && !(first == 0xf0 && second < 0x90) &&
              !(first == 0xf4 && second > 0x8f);
    }
    if (valid) {
      out += bytes.substr(i, length);
      i += length;
    } else {
      out += "\xef\xbf\xbd";
      ++i;
    }
  }
  return out;
}

}  // namespace permllm
