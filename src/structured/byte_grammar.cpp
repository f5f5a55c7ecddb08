#include "structured/byte_grammar.h"

#include <algorithm>
#include <set>

namespace permllm {

ByteGrammar::Rule ByteGrammar::add() {
  rules_.emplace_back();
  return static_cast<Rule>(rules_.size() - 1);
}

void ByteGrammar::alternative(Rule rule, const Sequence& sequence) {
  rules_.at(rule).push_back(static_cast<std::uint32_t>(code_.size()));
  code_.insert(code_.end(), sequence.begin(), sequence.end());
  code_.emplace_back();
}

ByteGrammar::Symbol ByteGrammar::one_of(std::string_view bytes) {
  Symbol symbol{Symbol::bytes, 0, {}};
  for (const char c : bytes) symbol.set.set(static_cast<unsigned char>(c));
  return symbol;
}

ByteGrammar::Symbol ByteGrammar::range(std::uint8_t first, std::uint8_t last) {
  Symbol symbol{Symbol::bytes, 0, {}};
  for (std::size_t byte = first; byte <= last; ++byte) symbol.set.set(byte);
  return symbol;
}

ByteGrammar::Sequence ByteGrammar::literal(std::string_view text) {
  Sequence sequence;
  for (const char& c : text) sequence.push_back(one_of({&c, 1}));
  return sequence;
}

// Ways that part and meet again are gone once, or they would double at each meeting. Most steps are few, and need no list of them.
struct GrammarState::Ways {
  std::vector<Stack>& to;
  std::size_t steps = 0;
  std::set<Stack> gone = {};
  bool is_new(const Stack& stack) {
    constexpr std::size_t k_few = 64;
    return ++steps <= k_few || gone.insert(stack).second;
  }
};

GrammarState::GrammarState(const ByteGrammar& grammar, ByteGrammar::Rule start) : grammar_(&grammar) {
  Ways ways{stacks_};
  for (const std::uint32_t place : grammar.rules_.at(start)) expand(grammar, {place}, ways);
}

// Rules at hand give way to their alternatives until a byte is at hand. What a rule leaves behind at its own end is not kept, so that lists do not
// deepen the stack.
void GrammarState::expand(const ByteGrammar& grammar, Stack stack, Ways& ways) {
  using Symbol = ByteGrammar::Symbol;
  while (!stack.empty() && grammar.code_[stack.back()].kind == Symbol::end) stack.pop_back();
  if (stack.size() > k_deepest) return;
  if (stack.empty() || grammar.code_[stack.back()].kind == Symbol::bytes) {
    if (std::find(ways.to.begin(), ways.to.end(), stack) == ways.to.end()) ways.to.push_back(std::move(stack));
    return;
  }
  if (!ways.is_new(stack)) return;
  const std::uint32_t place = stack.back();
  stack.pop_back();
  if (grammar.code_[place + 1].kind != Symbol::end) stack.push_back(place + 1);
  for (const std::uint32_t begin : grammar.rules_[grammar.code_[place].of]) {
    Stack next = stack;
    next.push_back(begin);
    expand(grammar, std::move(next), ways);
  }
}

bool GrammarState::step(std::uint8_t byte) {
  std::vector<Stack> next;
  Ways ways{next};
  for (const Stack& stack : stacks_) {
    if (stack.empty() || !grammar_->code_[stack.back()].set.test(byte)) continue;
    Stack behind = stack;
    ++behind.back();
    expand(*grammar_, std::move(behind), ways);
  }
  stacks_ = std::move(next);
  return !stacks_.empty();
}

bool GrammarState::push(std::string_view text) {
  GrammarState after = *this;
  for (const char c : text) {
    if (!after.step(static_cast<std::uint8_t>(c))) return false;
  }
  stacks_ = std::move(after.stacks_);
  return true;
}

ByteGrammar::ByteSet GrammarState::next() const {
  ByteGrammar::ByteSet all;
  for (const Stack& stack : stacks_) {
    if (!stack.empty()) all |= grammar_->code_[stack.back()].set;
  }
  return all;
}

bool GrammarState::complete() const {
  return std::any_of(stacks_.begin(), stacks_.end(), [](const Stack& stack) { return stack.empty(); });
}

}  // namespace permllm
