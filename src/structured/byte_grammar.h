// A context-free grammar over bytes, and how far a text has come in it: which bytes may follow decides which tokens a model may choose.
#pragma once

#include <bitset>
#include <cstdint>
#include <string_view>
#include <vector>

namespace permllm {

class ByteGrammar {
 public:
  using Rule = std::uint32_t;
  using ByteSet = std::bitset<256>;
  struct Symbol {
    enum Kind : std::uint8_t { bytes, rule, end } kind = end;
    Rule of = 0;
    ByteSet set = {};
  };
  using Sequence = std::vector<Symbol>;

  // A rule without alternatives, which nothing keeps; they are added once it can be referred to.
  Rule add();
  void alternative(Rule rule, const Sequence& sequence);

  static Symbol one_of(std::string_view bytes);
  static Symbol range(std::uint8_t first, std::uint8_t last);
  static Symbol refer(Rule rule) { return {Symbol::rule, rule, {}}; }
  static Sequence literal(std::string_view text);

 private:
  friend class GrammarState;
  std::vector<Symbol> code_;                       // sequences, one behind the other, each with its end
  std::vector<std::vector<std::uint32_t>> rules_;  // where the alternatives of each begin
};

class GrammarState {
 public:
  // At the beginning of a rule; the grammar outlives it.
  GrammarState(const ByteGrammar& grammar, ByteGrammar::Rule start);
  // Goes on by a text. False: that may not follow, and the state is as before.
  bool push(std::string_view text);
  // The bytes that may follow.
  ByteGrammar::ByteSet next() const;
  // Whether what was pushed is whole; more may follow all the same.
  bool complete() const;

 private:
  using Stack = std::vector<std::uint32_t>;  // places in the code, the one at hand last
  static constexpr std::size_t k_deepest = 512;
  struct Ways;
  static void expand(const ByteGrammar& grammar, Stack stack, Ways& ways);
  bool step(std::uint8_t byte);

  const ByteGrammar* grammar_;
  std::vector<Stack> stacks_;  // ways in which the text can be read, each before a byte; an empty one is at its end
};

}  // namespace permllm
