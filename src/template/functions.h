// Functions, methods, filters and tests by their names.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "template/machine.h"

namespace permllm::jinja {

using Callable = Value (*)(Machine& machine, const Value& self, const Arguments& arguments);

// Of str, list and dict; null: there is none of that name. Errors: methods that Python has and this has not, and those that change a list or dict.
Callable find_method(Machine& machine, const Value& self, std::string_view name);
Callable find_text_method(Machine& machine, std::string_view name);
Value call_filter(Machine& machine, std::string_view name, const Value& value, const Arguments& arguments);
bool call_test(Machine& machine, std::string_view name, const Value& value, const Arguments& arguments);
bool is_filter(std::string_view name);
bool is_test(std::string_view name);
// range, namespace, raise_exception and so on; null: there is none of that name.
Callable find_global(std::string_view name);

// A method of a value, or a function, as a value.
class Function : public Object {
 public:
  Function(Callable function, Value self) : function_(function), self_(std::move(self)) {}
  const char* type() const override { return "function"; }
  bool callable() const override { return true; }
  Value call(Machine& machine, const Arguments& arguments) override { return function_(machine, self_, arguments); }

 private:
  Callable function_;
  Value self_;
};

class Namespace : public Object {
 public:
  const char* type() const override { return "namespace"; }
  std::optional<Value> attribute(Machine& machine, std::string_view name) override;
  void set(Machine& machine, std::string_view name, Value value);

 private:
  std::vector<std::pair<std::string, Value>> values_;
};

// The arguments of a function of that name by their places or names; null: not given. Errors: too many, unknown, twice, too few.
template <std::size_t n>
std::array<const Value*, n> bind(Machine& machine, const char* function, const Arguments& arguments,
                                 const std::array<const char*, n>& names, std::size_t required = 0) {
  std::array<const Value*, n> bound{};
  if (arguments.values.size() > n) machine.fail(std::string(function) + " takes fewer arguments");
  for (std::size_t i = 0; i < arguments.values.size(); ++i) bound[i] = &arguments.values[i];
  for (const auto& [name, value] : arguments.named) {
    std::size_t i = 0;
    while (i < n && name != names[i]) ++i;
    if (i == n || bound[i] != nullptr) machine.fail(std::string(function) + " takes no argument of that name");
    bound[i] = &value;
  }
  for (std::size_t i = 0; i < required; ++i) {
    if (bound[i] == nullptr) machine.fail(std::string(function) + " takes more arguments");
  }
  return bound;
}
inline void bind_none(Machine& machine, const char* function, const Arguments& arguments) {
  if (!arguments.values.empty() || !arguments.named.empty())
    machine.fail(std::string(function) + " takes no arguments");
}

// An argument of a type; the default where it is not given or none.
std::int64_t integer_or(Machine& machine, const Value* value, std::int64_t otherwise);
bool truth_or(Machine& machine, const Value* value, bool otherwise);
TextPointer text_of(Machine& machine, const Value& value);  // of a str and nothing else

// Of text: shared by methods and filters.
Value strip(Machine& machine, const Text& text, const Value* characters, bool left, bool right);
Value replace(Machine& machine, const Text& text, const Text& old, const Text& by, std::int64_t count);
Value join(Machine& machine, const Text& separator, const Values& items, bool any);  // any: of any type, by str()
Value with_case(Machine& machine, const Text& text, std::string (*change)(std::string_view));
Value capitalized(Machine& machine, const Text& text);
Value padded(Machine& machine, const Text& text, std::int64_t width, std::string_view how, const Text& fill);
Values lines_of(Machine& machine, const Text& text, bool keep_ends);
Value reversed(Machine& machine, const Text& text);
Value percent_format(Machine& machine, const Text& format, const Value& values);
std::size_t find_text(Machine& machine, std::string_view text, std::string_view part, std::size_t from = 0);

}  // namespace permllm::jinja
