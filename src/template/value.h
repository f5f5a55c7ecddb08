// What a template computes with: Python's values, as far as templates use them. Lists and dicts never change once made, so none holds itself; what
// does change (namespaces, loops) belongs to the run.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "template/text.h"

namespace permllm::jinja {

struct Undefined {
  const std::string* name = nullptr;  // for the error of whoever uses it; the template's own
};
struct None {};
struct List;
struct Dict;
class Object;  // functions, macros, namespaces and loops: of one run, which owns them

using TextPointer = std::shared_ptr<const Text>;
using ListPointer = std::shared_ptr<const List>;
using DictPointer = std::shared_ptr<const Dict>;
using Value = std::variant<Undefined, None, bool, std::int64_t, double, TextPointer, ListPointer, DictPointer, Object*>;
using Values = std::vector<Value>;

struct List {
  enum class Kind {
    list,
    tuple,
    range,
    view,
    generator
  };  // a view is what a dict's keys() gives, a generator what select gives
  Kind kind = Kind::list;
  Values items;
  std::size_t depth = 1;       // of lists and dicts in each other, this one among them
  mutable bool spent = false;  // a generator gives its items once
};

struct Dict {
  std::vector<std::pair<Value, Value>> items;  // in the order in which they came
  std::size_t depth = 1;
};

inline constexpr std::size_t k_most_nested = 64;  // lists and dicts in each other

// What a template is given. Texts are of contents or the template's own, as said; of a JSON value all of them, keys too.
Value text_value(std::string_view text, bool contents);
Value list_value(Values items);
Value dict_value(std::vector<std::pair<std::string, Value>> items);  // keys are the template's own
// Errors: usage (nested too deep, a whole number of more than 63 bits).
Value json_value(const nlohmann::ordered_json& json, bool contents);

std::size_t depth_of(const Value& value);
const char* type_name(const Value& value);  // as Python calls it

}  // namespace permllm::jinja
