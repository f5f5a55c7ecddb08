// Runs a tree. One run each.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "template/functions.h"
#include "template/machine.h"
#include "template/syntax.h"

namespace permllm::jinja {

using Variables = std::vector<std::pair<std::string, Value>>;

class Evaluator {
 public:
  Evaluator(const Limits& limits, const std::tm& now, const Variables& variables);
  Text run(const Body& body);

 private:
  // Names that a part of the template has set: of the template, a turn of a loop, a macro's call. What a macro sees it holds on to.
  struct Scope {
    Scope* outer = nullptr;
    std::vector<std::pair<std::string_view, Value>> values;
    bool held = false;
  };
  class Inner;    // a scope within the one that is current, or within a macro's
  class Capture;  // output that goes into a value
  class Macro;
  class Loop;
  enum class Flow { on, leave, next };

  Flow execute(const Body& body);
  Flow execute(const Statement& statement);
  Flow loop(const Statement& statement);
  Flow set_block(const Statement& statement);
  void emit(const Value& value);
  void assign(const Expression& target, const Value& value);
  void set(std::string_view name, const Value& value);
  Value look_up(const std::string& name);
  Macro* function(const Statement& statement);
  Value call_macro(const Statement& macro, Scope* outer, const Arguments& arguments);

  Value evaluate(const Expression& expression);
  Value value_of(const Expression& expression);
  Value compare(const Expression& expression);
  Value call(const Expression& expression, Macro* caller);
  Value slice_of(const Expression& expression);
  Arguments arguments_of(const Expression& expression);

  Machine machine_;
  const Variables& variables_;
  std::vector<std::unique_ptr<Scope>> scopes_, free_;
  Scope* scope_ = nullptr;
  Builder* out_ = nullptr;
  Value filtered_;  // what a block's filters begin with
};

}  // namespace permllm::jinja
