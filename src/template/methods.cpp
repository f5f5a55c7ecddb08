// The methods of list and dict.
#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "template/functions.h"
#include "template/operations.h"

namespace permllm::jinja {
namespace {

struct Method {
  const char* name;
  Callable call;
};

Value get(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [key, otherwise] = bind<2>(machine, "get", arguments, {"key", "default"}, 1);
  const Value* found = find(machine, *std::get<DictPointer>(self), *key);
  return found != nullptr ? *found : otherwise != nullptr ? *otherwise : Value(None{});
}
template <int which>  // 0: keys, 1: values, 2: both
Value view(Machine& machine, const Value& self, const Arguments& arguments) {
  bind_none(machine, "keys", arguments);
  Values items;
  for (const auto& [key, value] : std::get<DictPointer>(self)->items) {
    items.push_back(which == 0 ? key : which == 1 ? value : machine.list({key, value}, List::Kind::tuple));
  }
  return machine.list(std::move(items), List::Kind::view);
}
Value place_in_list(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [wanted] = bind<1>(machine, "index", arguments, {"value"}, 1);
  const Values& items = std::get<ListPointer>(self)->items;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (equal(machine, items[i], *wanted)) return static_cast<std::int64_t>(i);
  }
  machine.fail("a value is not in a list");
}
Value count_in_list(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [wanted] = bind<1>(machine, "count", arguments, {"value"}, 1);
  const Values& items = std::get<ListPointer>(self)->items;
  return static_cast<std::int64_t>(std::count_if(
      items.begin(), items.end(), [&, one = wanted](const Value& item) { return equal(machine, item, *one); }));
}
Value same(Machine& machine, const Value& self, const Arguments& arguments) {
  bind_none(machine, "copy", arguments);
  return self;
}

constexpr Method k_dict_methods[] = {
    {"copy", same}, {"get", get}, {"items", view<2>}, {"keys", view<0>}, {"values", view<1>}};
constexpr Method k_list_methods[] = {{"copy", same}, {"count", count_in_list}, {"index", place_in_list}};
constexpr std::string_view k_changing_dicts[] = {"clear", "pop", "popitem", "setdefault", "update"};
constexpr std::string_view k_changing_lists[] = {"append", "clear",  "extend",  "insert",
                                                 "pop",    "remove", "reverse", "sort"};

// What Python's numbers have: to be undefined here would be another meaning.
constexpr std::string_view k_of_numbers[] = {"as_integer_ratio", "bit_count", "bit_length", "conjugate", "denominator",
                                             "from_bytes",       "fromhex",   "hex",        "imag",      "is_integer",
                                             "numerator",        "real",      "to_bytes"};

bool is_one_of(std::span<const std::string_view> names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

template <std::size_t n>
Callable find_in(const Method (&methods)[n], std::string_view name) {
  const auto found =
      std::find_if(std::begin(methods), std::end(methods), [&](const Method& m) { return name == m.name; });
  return found == std::end(methods) ? nullptr : found->call;
}

}  // namespace

Callable find_method(Machine& machine, const Value& self, std::string_view name) {
  if (std::holds_alternative<TextPointer>(self)) return find_text_method(machine, name);
  if (number(self) && is_one_of(k_of_numbers, name))
    machine.fail(fmt::format("the attribute {} of numbers is not supported", name));
  const bool dict = std::holds_alternative<DictPointer>(self);
  const auto* list = std::get_if<ListPointer>(&self);
  if (!dict && (list == nullptr || (*list)->kind > List::Kind::tuple)) return nullptr;
  const bool is_list = list != nullptr && (*list)->kind == List::Kind::list;
  if ((dict && is_one_of(k_changing_dicts, name)) || (is_list && is_one_of(k_changing_lists, name)))
    machine.fail(fmt::format("{} would change a list or dict, which no template may", name));
  return dict ? find_in(k_dict_methods, name) : find_in(k_list_methods, name);
}

}  // namespace permllm::jinja
