// Inside the tokenizer: how text without control tokens becomes tokens, one implementation for each kind of vocabulary.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <queue>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/tokenizer.h"

namespace permllm {

class Pieces {
 public:
  virtual ~Pieces() = default;
  virtual void encode(std::string_view text, std::vector<TokenId>& out) const = 0;
  virtual std::string bytes(TokenId id) const = 0;  // of a token that is no control token
};

// The vocabulary outlives what is made of it. `types` with control tokens as the tokenizer sees them. Errors: as Tokenizer's.
std::unique_ptr<Pieces> byte_level_bpe(const Vocabulary& vocabulary, const std::vector<std::uint32_t>& types);
std::unique_ptr<Pieces> sentencepiece(const Vocabulary& vocabulary, const std::vector<std::uint32_t>& types);
bool adds_bos_by_default(std::string_view pre);  // of a byte-level vocabulary

// The length of the UTF-8 character that a text begins with; of one that is cut off, what there is of it.
constexpr std::size_t character_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const std::size_t whole = byte(0) >= 0xf0 ? 4 : byte(0) >= 0xe0 ? 3 : byte(0) >= 0xc0 ? 2 : 1;
  std::size_t length = 1;
  while (length < whole && length < text.size() && (byte(length) & 0xc0) == 0x80) ++length;
  return length;
}

// Which of many texts a text begins with: a sorted list, narrowed byte by byte. Holds views; memory of a trie would not be
// bounded by the texts' size.
class PrefixMatcher {
 public:
  void add(std::string_view text, TokenId id) {
    if (!text.empty()) entries_.push_back({text, id});
  }
  // Of equal texts the one that was added first stays.
  void prepare() {
    const auto text_of = [](const auto& entry) { return entry.first; };
    std::ranges::stable_sort(entries_, {}, text_of);
    const auto same = [&](const auto& a, const auto& b) { return text_of(a) == text_of(b); };
    const auto rest = std::unique(entries_.begin(), entries_.end(), same);
    entries_.erase(rest, entries_.end());
    for (std::size_t i = 0, byte = 0; byte <= 256; ++byte) {
      while (i < entries_.size() && static_cast<unsigned char>(entries_[i].first[0]) < byte) ++i;
      begin_[byte] = i;
    }
  }
  bool empty() const { return entries_.empty(); }
  // Shortest first: each(length, id).
  template <class Each>
  void each(std::string_view text, Each found) const {
    if (text.empty()) return;
    const auto first = static_cast<unsigned char>(text[0]);
    std::size_t low = begin_[first], high = begin_[first + 1u];
    for (std::size_t length = 1; low < high; ++length) {
      if (entries_[low].first.size() == length) {
        found(length, entries_[low].second);
        ++low;
      }
      if (length == text.size()) return;
      const auto at = [&](const auto& entry) { return static_cast<unsigned char>(entry.first[length]); };
      const auto next = static_cast<unsigned char>(text[length]);
      const auto begin = entries_.begin() + static_cast<std::ptrdiff_t>(low),
                 end = entries_.begin() + static_cast<std::ptrdiff_t>(high);
      const auto from = std::partition_point(begin, end, [&](const auto& entry) { return at(entry) < next; });
      const auto to = std::partition_point(from, end, [&](const auto& entry) { return at(entry) == next; });
      low = static_cast<std::size_t>(from - entries_.begin());
      high = static_cast<std::size_t>(to - entries_.begin());
    }
  }
  // Length 0: none.
  std::pair<std::size_t, TokenId> longest(std::string_view text) const {
    std::pair<std::size_t, TokenId> best{0, 0};
    each(text, [&](std::size_t length, TokenId id) { best = {length, id}; });
    return best;
  }

 private:
  std::vector<std::pair<std::string_view, TokenId>> entries_;
  std::array<std::size_t, 257> begin_{};  // of the texts whose first byte is this one or higher
};

// Merges the best adjacent pair of symbols until none is left: symbols in a linked list, candidate pairs in a heap.
// merge(left, right): the pair's rank, lowest first (among equals the leftmost), and what it becomes; nullopt: not merged.
template <class Symbol, class Merge>
std::vector<Symbol> merge_best(const std::vector<Symbol>& symbols, Merge merge) {
  using Merged = typename std::invoke_result_t<Merge, const Symbol&, const Symbol&>::value_type;
  struct Node {
    Symbol symbol;
    std::int64_t previous, next;
    bool live = true;
  };
  struct Candidate {
    std::int64_t left, right;
    Symbol left_symbol, right_symbol;
    Merged merged;
    bool operator<(const Candidate& other) const {
      return merged.first != other.merged.first ? merged.first > other.merged.first : left > other.left;
    }
  };
  const auto size = static_cast<std::int64_t>(symbols.size());
  std::vector<Node> nodes;
  nodes.reserve(symbols.size());
  for (std::int64_t i = 0; i < size; ++i) nodes.push_back({symbols[static_cast<std::size_t>(i)], i - 1, i + 1});
  const auto node = [&](std::int64_t i) -> Node& { return nodes[static_cast<std::size_t>(i)]; };
  std::priority_queue<Candidate> candidates;
  const auto consider = [&](std::int64_t left, std::int64_t right) {
    if (left < 0 || right >= size) return;
    const auto merged = merge(node(left).symbol, node(right).symbol);
    if (merged) candidates.push({left, right, node(left).symbol, node(right).symbol, *merged});
  };
  for (std::int64_t i = 0; i + 1 < size; ++i) consider(i, i + 1);
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    Node& left = node(best.left);
    Node& right = node(best.right);
    if (!left.live || !right.live || left.next != best.right || !(left.symbol == best.left_symbol) ||
        !(right.symbol == best.right_symbol))
      continue;
    left.symbol = best.merged.second;
    left.next = right.next;
    right.live = false;
    if (left.next < size) node(left.next).previous = best.left;
    consider(left.previous, best.left);
    consider(best.left, left.next);
  }
  std::vector<Symbol> out;
  for (const Node& n : nodes) {
    if (n.live) out.push_back(n.symbol);
  }
  return out;
}

}  // namespace permllm
