// Byte-level BPE: text is split by a pattern, the bytes of each part are merged by rank.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <pcre2.h>

#include <unordered_map>
#include <unordered_set>

#include "model/pieces.h"
#include "permllm/error.h"

namespace permllm {
namespace {

// Split patterns, each applied to the pieces of the one before.
constexpr const char* k_gpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* k_digits = R"(\p{N}|[^\p{N}]+)";  // each by itself
constexpr const char* k_llama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* k_qwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* k_tekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* k_gpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct Split {
  const char* name;                     // tokenizer.ggml.pre
  std::array<const char*, 2> patterns;  // nullptr: none
  bool ignore_merges = false;           // a whole part that is a token is that token, whatever merges make of it
  bool add_bos = false;                 // where the file does not say
};
constexpr Split k_splits[] = {
    {"gpt-2", {k_gpt2}},
    {"phi-2", {k_gpt2}},
    {"olmo", {k_gpt2}},
    {"smollm", {k_digits, k_gpt2}},
    {"refact", {k_digits, k_gpt2}},  // Granite
    {"starcoder", {k_digits, k_gpt2}},
    {"llama-bpe", {k_llama3}, true, true},
    {"llama3", {k_llama3}, true, true},
    {"llama-v3", {k_llama3}, true, true},
    {"dbrx", {k_llama3}},  // Phi 4, OLMo 2
    {"smaug-bpe", {k_llama3}},
    {"chatglm-bpe", {k_llama3}},
    {"glm4", {k_llama3}},
    {"qwen2", {k_qwen2}},
    {"deepseek-r1-qwen", {k_qwen2}},
    {"tekken", {k_tekken}, true, true},
    {"gpt-4o", {k_gpt4o}},
};

const Split* find_split(std::string_view pre) {
  const auto found =
      std::find_if(std::begin(k_splits), std::end(k_splits), [&](const Split& s) { return pre == s.name; });
  return found == std::end(k_splits) ? nullptr : found;
}

// The byte-level alphabet of GPT-2: printable bytes stand for themselves, the others for code points from 256 on.
std::array<std::string, 256> byte_alphabet() {
  std::array<std::string, 256> alphabet;
  unsigned next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
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
  explicit Pattern(std::string text) {
    // PCRE2's \s has U+180E, which is no white space for the libraries that these patterns were written for.
    for (const auto& [short_form, property] :
         {std::pair("\\s", "\\p{White_Space}"), std::pair("\\S", "\\P{White_Space}")}) {
      for (std::size_t at = 0; (at = text.find(short_form, at)) != std::string::npos;) text.replace(at, 2, property);
    }
    int error = 0;
    PCRE2_SIZE offset = 0;
    code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
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
      const int found =
          pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at, 0, match.get(), nullptr);
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

class ByteLevelBpe : public Pieces {
 public:
  ByteLevelBpe(const Vocabulary& v, const std::vector<std::uint32_t>& types) : vocabulary_(v) {
    const Split* split = find_split(v.pre);
    if (split == nullptr) {
      throw Error(Code::unsupported, "tokenizer.ggml.pre",
                  fmt::format("\"{:.40}\" is not supported; {} are (--pre-tokenizer names one that splits alike)",
                              v.pre, fmt::join(pre_tokenizers(), ", ")));
    }
    ignore_merges_ = split->ignore_merges;
    for (const char* pattern : split->patterns) {
      if (pattern != nullptr) patterns_.emplace_back(pattern);
    }
    bytes_of_code_.fill(-1);
    for (int byte = 0; byte < 256; ++byte) {
      const std::string& text = alphabet_[static_cast<std::size_t>(byte)];
      const unsigned code =
          text.size() == 1 ? static_cast<unsigned char>(text[0]) : (text[0] & 0x1fu) << 6 | (text[1] & 0x3fu);
      bytes_of_code_[code] = byte;
    }
    ids_.reserve(v.tokens.size());
    for (TokenId id = 0; id < v.tokens.size(); ++id) {
      if (types[id] == k_control || v.tokens[id].empty()) continue;
      ids_.emplace(v.tokens[id], id);
      longest_ = std::max(longest_, v.tokens[id].size());
    }
    added_.assign(v.tokens.size(), false);
    for (TokenId id = 0; id < v.tokens.size(); ++id) added_[id] = types[id] == k_user_defined;
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const auto found = ids_.find(alphabet_[byte]);
      byte_ids_[byte] = found == ids_.end() ? -1 : std::int64_t{found->second};
    }
    std::unordered_set<std::string_view> marks;  // which no merge makes
    for (TokenId id = 0; id < v.tokens.size(); ++id) {
      if (types[id] == k_control) marks.insert(v.tokens[id]);
    }
    merges_.reserve(v.merges.size());
    std::string whole;
    for (std::uint32_t rank = 0; rank < v.merges.size(); ++rank) {
      const std::string_view merge = v.merges[rank];
      const std::size_t space = merge.find(' ', 1);
      const auto id = [&](std::string_view token) -> std::optional<TokenId> {
        const auto found = ids_.find(token);
        if (found != ids_.end()) return found->second;
        if (!marks.contains(token))
          throw Error(Code::file, "tokenizer.ggml.merges",
                      fmt::format("merge {} names a token that the vocabulary lacks", rank));
        return std::nullopt;
      };
      if (space == std::string_view::npos)
        throw Error(Code::file, "tokenizer.ggml.merges", fmt::format("merge {} is not two tokens", rank));
      const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
      whole.assign(left).append(right);
      const auto from = id(left), to = id(right), both = id(whole);
      if (from && to && both) merges_.emplace(pair_key(*from, *to), std::pair(rank, *both));
    }
  }

  void encode(std::string_view text, std::vector<TokenId>& out) const override { encode(text, 0, out); }

  std::string bytes(TokenId id) const override {
    const std::string& token = vocabulary_.tokens[id];
    if (added_[id]) return token;
    std::string bytes;
    for (std::size_t i = 0; i < token.size();) {
      const auto first = static_cast<unsigned char>(token[i]);
      const std::size_t length = first < 0x80 ? 1 : 2;
      const unsigned code =
          length == 1 || i + 1 == token.size() ? first : (first & 0x1fu) << 6 | (token[i + 1] & 0x3fu);
      if (code >= bytes_of_code_.size() || bytes_of_code_[code] < 0) return token;  // an added token's own text
      bytes += static_cast<char>(bytes_of_code_[code]);
      i += length;
    }
    return bytes;
  }

 private:
  void encode(std::string_view text, std::size_t level, std::vector<TokenId>& out) const {
    if (level == patterns_.size()) return merge(text, out);
    patterns_[level].split(text, [&](std::string_view piece) { encode(piece, level + 1, out); });
  }

  void merge(std::string_view piece, std::vector<TokenId>& out) const {
    if (ignore_merges_ && piece.size() <= longest_) {
      std::string token;
      for (const char c : piece) token += alphabet_[static_cast<unsigned char>(c)];
      if (const auto found = ids_.find(token); found != ids_.end()) return out.push_back(found->second);
    }
    std::vector<TokenId> symbols;
    for (const char c : piece) {
      const std::int64_t id = byte_ids_[static_cast<unsigned char>(c)];
      if (id >= 0) symbols.push_back(static_cast<TokenId>(id));  // else a byte that the vocabulary cannot express
    }
    const auto merged =
        merge_best(symbols, [&](TokenId left, TokenId right) -> std::optional<std::pair<std::uint32_t, TokenId>> {
          const auto found = merges_.find(pair_key(left, right));
          if (found == merges_.end()) return std::nullopt;
          return found->second;
        });
    out.insert(out.end(), merged.begin(), merged.end());
  }

  const Vocabulary& vocabulary_;
  std::vector<Pattern> patterns_;
  bool ignore_merges_ = false;
  std::array<std::string, 256> alphabet_ = byte_alphabet();
  std::array<int, 512> bytes_of_code_;                 // the alphabet the other way round; -1: none
  std::unordered_map<std::string_view, TokenId> ids_;  // without control tokens
  std::size_t longest_ = 0;
  std::vector<bool> added_;                 // user-defined: its text is not in the alphabet
  std::array<std::int64_t, 256> byte_ids_;  // -1: the vocabulary lacks the byte
  std::unordered_map<std::uint64_t, std::pair<std::uint32_t, TokenId>> merges_;  // pair -> rank, merged token
};

}  // namespace

std::unique_ptr<Pieces> byte_level_bpe(const Vocabulary& vocabulary, const std::vector<std::uint32_t>& types) {
  return std::make_unique<ByteLevelBpe>(vocabulary, types);
}

std::vector<std::string> pre_tokenizers() {
  std::vector<std::string> names;
  for (const Split& s : k_splits) names.emplace_back(s.name);
  return names;
}

bool adds_bos_by_default(std::string_view pre) {
  const Split* split = find_split(pre);
  return split != nullptr && split->add_bos;
}

}  // namespace permllm
