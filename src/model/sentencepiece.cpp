// Vocabularies of sentencepiece, by its published algorithms: BPE by the best score (Llama, Mistral, Phi 3, Gemma) and
// unigram. Own code, because sentencepiece's library is not made for what comes from a peer: it follows a normalisation's
// double array without bounds and resegments by recursion; and it turns bytes that are no UTF-8 into U+FFFD.
#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <unordered_map>

#include "model/pieces.h"
#include "permllm/error.h"

namespace permllm {
namespace {

constexpr std::string_view k_blank = "\xe2\x96\x81";  // U+2581 stands for a blank

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (std::size_t at = 0;;) {
    const std::size_t found = text.find(from, at);
    out += text.substr(at, found - at);
    if (found == std::string_view::npos) return out;
    out += to;
    at = found + from.size();
  }
}

// A normalisation as sentencepiece stores it: the size of a double array (Darts), the array, texts that end in 0. The array
// leads from a text's beginning to the place of what replaces it.
class Charsmap {
 public:
  explicit Charsmap(const std::string& blob) {
    if (blob.empty()) return;
    std::uint32_t size = 0;
    if (blob.size() >= sizeof size) std::memcpy(&size, blob.data(), sizeof size);
    if (size == 0 || size % sizeof(std::uint32_t) != 0 || size >= blob.size() - sizeof size || blob.back() != '\0') {
      throw Error(Code::file, "normalizer_spec.precompiled_charsmap", "is no double array with texts behind it");
    }
    units_.resize(size / sizeof(std::uint32_t));
    std::memcpy(units_.data(), blob.data() + sizeof size, size);
    texts_ = std::string_view(blob).substr(sizeof size + size);
  }
  // The longest beginning of text that is replaced, and its replacement. Length 0: none.
  std::pair<std::size_t, std::string_view> longest(std::string_view text) const {
    std::pair<std::size_t, std::string_view> best{0, {}};
    if (units_.empty()) return best;
    std::size_t at = offset(units_[0]);
    for (std::size_t i = 0; i < text.size(); ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      at ^= byte;
      if (at >= units_.size() || (units_[at] & 0x800000ffu) != byte) break;
      const bool leaf = (units_[at] >> 8 & 1) != 0;
      at ^= offset(units_[at]);
      if (!leaf || at >= units_.size()) continue;
      const std::size_t place = units_[at] & 0x7fffffffu;
      if (place < texts_.size())
        best = {i + 1,
                {texts_.data() + place, strnlen(texts_.data() + place, std::min(texts_.size() - place, k_longest))}};
    }
    return best;
  }

 private:
  static constexpr std::size_t k_longest = 256;  // no real replacement is longer; a prompt must not grow without bound
  static std::size_t offset(std::uint32_t unit) {
    return static_cast<std::size_t>(unit >> 10) << ((unit & 0x200u) >> 6);
  }
  std::vector<std::uint32_t> units_;
  std::string_view texts_;
};

class SentencePiece : public Pieces {
 public:
  SentencePiece(const Vocabulary& v, const std::vector<std::uint32_t>& types)
      : vocabulary_(v),
        types_(types),
        unigram_(v.model == "unigram"),
        chatglm_(v.pre == "chatglm-6b"),
        charsmap_(v.charsmap) {
    if (v.scores.size() != v.tokens.size()) {
      throw Error(Code::file, "tokenizer.ggml.scores",
                  fmt::format("{} scores for {} tokens", v.scores.size(), v.tokens.size()));
    }
    float least = std::numeric_limits<float>::max();
    std::array<std::optional<TokenId>, 256> of_byte;
    std::size_t bytes = 0;
    ids_.reserve(v.tokens.size());
    for (TokenId id = 0; id < v.tokens.size(); ++id) {
      if (!std::isfinite(v.scores[id]))
        throw Error(Code::file, "tokenizer.ggml.scores", fmt::format("the score of token {} is not finite", id));
      switch (types[id]) {
        case k_byte: {
          std::optional<TokenId>& known = of_byte[byte_of(id)];
          bytes += known ? 0 : 1;
          if (!known) known = id;
          break;
        }
        case k_unknown:
          if (!unknown_) unknown_ = id;
          break;
        case k_control:
          break;
        default: {
          std::string_view piece = v.tokens[id];
          // GGUF files hold user-defined tokens with blanks as they are.
          if (piece.find(' ') != std::string_view::npos) piece = escaped_.emplace_back(replaced(piece, " ", k_blank));
          longest_ = std::max(longest_, piece.size());
          ids_.emplace(piece, id);
          if (types[id] == k_user_defined) user_defined_.add(piece, id);
          if (types[id] == k_user_defined && !v.charsmap.empty()) plain_user_defined_.add(v.tokens[id], id);
          if (unigram_ && types[id] != k_unused) lattice_.add(piece, id);
          if (types[id] == k_normal) {
            least = std::min(least, v.scores[id]);
            most_ = std::max(most_, v.scores[id]);
          }
        }
      }
    }
    if (bytes != 0 && bytes != byte_ids_.size()) {
      throw Error(Code::file, "tokenizer.ggml.token_type",
                  fmt::format("{} tokens of single bytes, expected all 256 or none", bytes));
    }
    has_bytes_ = bytes != 0;
    for (std::size_t byte = 0; byte < byte_ids_.size(); ++byte) byte_ids_[byte] = of_byte[byte].value_or(0);
    unknown_score_ = least - 10;
    user_defined_.prepare();
    plain_user_defined_.prepare();
    lattice_.prepare();
  }

  void encode(std::string_view text, std::vector<TokenId>& out) const override {
    const std::string normal = normalized(chatglm_ ? with_blank_tokens(text) : std::string(text));
    if (unigram_) {
      best_path(normal, out);
    } else {
      merge(normal, out);
    }
  }

  std::string bytes(TokenId id) const override {
    if (types_[id] == k_byte) return std::string(1, static_cast<char>(byte_of(id)));
    if (types_[id] == k_unknown) return " \xe2\x81\x87 ";  // as sentencepiece shows it
    const std::string& token = vocabulary_.tokens[id];
    if (chatglm_) {
      if (token == "<n>") return "\n";
      if (token == "<|tab|>") return "\t";
      for (std::size_t n = 2; n <= k_most_blanks && token.starts_with("<|blank_"); ++n) {
        if (token == fmt::format("<|blank_{}|>", n)) return std::string(n, ' ');
      }
    }
    return replaced(token, k_blank, " ");
  }

 private:
  static constexpr std::size_t k_most_blanks = 80;

  unsigned byte_of(TokenId id) const {  // "<0x0A>"
    const std::string& token = vocabulary_.tokens[id];
    constexpr std::string_view digits = "0123456789ABCDEF";
    if (token.size() == 6 && token.starts_with("<0x") && token[5] == '>') {
      const std::size_t high = digits.find(token[3]), low = digits.find(token[4]);
      if (high < 16 && low < 16) return static_cast<unsigned>(16 * high + low);
    }
    throw Error(Code::file, "tokenizer.ggml.tokens",
                fmt::format("token {} is of the type of bytes, but not written like <0x0A>", id));
  }

  // ChatGLM-6B: line ends, tabs and runs of blanks are tokens of their own.
  static std::string with_blank_tokens(std::string_view text) {
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
      std::size_t run = 0;
      while (run < k_most_blanks && at + run < text.size() && text[at + run] == ' ') ++run;
      if (run >= 2) {
        out += fmt::format("<|blank_{}|>", run);
        at += run;
        continue;
      }
      if (text[at] == '\n')
        out += "<n>";
      else if (text[at] == '\t')
        out += "<|tab|>";
      else
        out += text[at];
      ++at;
    }
    return out;
  }

  // How much of the text's beginning is one step of normalisation, and what it becomes.
  std::pair<std::size_t, std::string_view> step(std::string_view text) const {
    if (const std::size_t length = plain_user_defined_.longest(text).first; length > 0)
      return {length, text.substr(0, length)};
    if (const auto replacement = charsmap_.longest(text); replacement.first > 0) return replacement;
    const std::size_t length = character_length(text);
    return {length, text.substr(0, length)};
  }

  std::string normalized(std::string_view text) const {
    const bool strip = vocabulary_.remove_extra_whitespaces;
    while (strip && !text.empty()) {
      const auto [length, becomes] = step(text);
      if (becomes != " ") break;
      text.remove_prefix(length);
    }
    if (text.empty()) return "";
    std::string out;
    if (vocabulary_.add_space_prefix) out = k_blank;
    for (bool after_blank = strip; !text.empty();) {
      auto [length, becomes] = step(text);
      text.remove_prefix(length);
      while (after_blank && becomes.starts_with(' ')) becomes.remove_prefix(1);
      if (becomes.empty()) continue;
      for (const char c : becomes) {
        if (c == ' ')
          out += k_blank;
        else
          out += c;
      }
      after_blank = strip && becomes.ends_with(' ');
    }
    while (strip && out.ends_with(k_blank)) out.resize(out.size() - k_blank.size());
    return out;
  }

  // A character that no token has.
  void spell(std::string_view text, std::vector<TokenId>& out, std::size_t begin) const {
    if (has_bytes_) {
      for (const char c : text) out.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    } else if (unknown_ && (out.size() == begin || out.back() != *unknown_)) {
      out.push_back(*unknown_);
    }
  }

  struct Symbol {
    std::string_view text;
    bool fixed;  // user-defined: takes no part in merges
    bool operator==(const Symbol& other) const {
      return text.size() == other.text.size();
    }  // one place's text only grows
  };

  void merge(std::string_view text, std::vector<TokenId>& out) const {
    std::vector<Symbol> symbols;
    for (std::size_t at = 0; at < text.size();) {
      std::size_t length = user_defined_.longest(text.substr(at)).first;
      const bool fixed = length > 0;
      if (!fixed) length = character_length(text.substr(at));
      symbols.push_back({text.substr(at, length), fixed});
      at += length;
    }
    std::unordered_map<std::string_view, std::pair<std::string_view, std::string_view>> parts;  // of unused tokens
    const auto merged =
        merge_best(symbols, [&](const Symbol& left, const Symbol& right) -> std::optional<std::pair<float, Symbol>> {
          if (left.fixed || right.fixed) return std::nullopt;
          const std::string_view both(left.text.data(), left.text.size() + right.text.size());
          if (both.size() > longest_) return std::nullopt;
          const auto found = ids_.find(both);
          if (found == ids_.end()) return std::nullopt;
          if (types_[found->second] == k_unused) parts[both] = {left.text, right.text};
          return std::pair(-vocabulary_.scores[found->second], Symbol{both, false});
        });
    const std::size_t begin = out.size();
    std::vector<std::string_view> rest;
    for (const Symbol& symbol : merged) {
      for (rest.push_back(symbol.text); !rest.empty();) {
        const std::string_view piece = rest.back();
        rest.pop_back();
        const auto found = ids_.find(piece);
        if (found == ids_.end()) {
          spell(piece, out, begin);
        } else if (const auto part = parts.find(piece); types_[found->second] == k_unused && part != parts.end()) {
          rest.push_back(part->second.second);
          rest.push_back(part->second.first);
        } else {
          out.push_back(found->second);
        }
      }
    }
  }

  // Unigram: the path of tokens with the greatest sum of scores.
  void best_path(std::string_view text, std::vector<TokenId>& out) const {
    struct End {
      float score = 0;
      std::size_t begin = std::string_view::npos;
      std::optional<TokenId> id;  // nullopt: a character that no token has
    };
    std::vector<End> ends(text.size() + 1);
    const auto reach = [&](std::size_t begin, std::size_t end, float score, std::optional<TokenId> id) {
      if (ends[end].begin == std::string_view::npos || score > ends[end].score) ends[end] = {score, begin, id};
    };
    for (std::size_t at = 0, character = 0; at < text.size(); at += character) {
      character = character_length(text.substr(at));
      bool single = false;
      lattice_.each(text.substr(at), [&](std::size_t length, TokenId id) {
        const float score =
            types_[id] == k_user_defined ? static_cast<float>(length) * most_ - 0.1f : vocabulary_.scores[id];
        reach(at, at + length, ends[at].score + score, id);
        single = single || length == character;
      });
      if (!single) reach(at, at + character, ends[at].score + unknown_score_, std::nullopt);
    }
    std::vector<std::pair<std::string_view, std::optional<TokenId>>> path;
    for (std::size_t end = text.size(); end > 0; end = ends[end].begin) {
      path.emplace_back(text.substr(ends[end].begin, end - ends[end].begin), ends[end].id);
    }
    const std::size_t begin = out.size();
    for (auto piece = path.rbegin(); piece != path.rend(); ++piece) {
      if (piece->second) {
        out.push_back(*piece->second);
      } else {
        spell(piece->first, out, begin);
      }
    }
  }

  const Vocabulary& vocabulary_;
  const std::vector<std::uint32_t>& types_;
  bool unigram_, chatglm_;
  Charsmap charsmap_;
  std::deque<std::string> escaped_;
  std::unordered_map<std::string_view, TokenId> ids_;  // normal, user-defined and unused tokens
  PrefixMatcher user_defined_, plain_user_defined_, lattice_;
  std::array<TokenId, 256> byte_ids_{};
  bool has_bytes_ = false;
  std::optional<TokenId> unknown_;
  std::size_t longest_ = 0;
  float most_ = std::numeric_limits<float>::lowest(), unknown_score_ = 0;
};

}  // namespace

std::unique_ptr<Pieces> sentencepiece(const Vocabulary& vocabulary, const std::vector<std::uint32_t>& types) {
  return std::make_unique<SentencePiece>(vocabulary, types);
}

}  // namespace permllm
