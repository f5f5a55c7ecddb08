// Tests: what may stand behind "is".
#include <fmt/format.h>

#include <algorithm>

#include "template/functions.h"
#include "template/operations.h"

namespace permllm::jinja {
namespace {

using M = Machine;
using V = Value;
using A = Arguments;

const Value& other(Machine& machine, const Arguments& arguments) {
  return *bind<1>(machine, "a test", arguments, {"other"}, 1)[0];
}
bool rest_is(Machine& machine, const Value& self, std::int64_t by, std::int64_t rest) {
  return equal(machine, arithmetic(machine, "%", self, by), rest);
}
bool in_case(Machine& machine, const Value& self, const char* method) {
  const Value text = to_text(machine, self);
  return truth(machine, find_method(machine, text, method)(machine, text, {}));
}

struct Test {
  const char* name;
  bool (*call)(Machine& machine, const Value& self, const Arguments& arguments);
};
template <class... Types>
bool is_one(Machine& machine, const Value& self, const Arguments& arguments) {
  bind_none(machine, "a test", arguments);
  return (std::holds_alternative<Types>(self) || ...);
}
template <bool which>
bool is_truth(Machine& machine, const Value& self, const Arguments& arguments) {
  bind_none(machine, "a test", arguments);
  const auto* flag = std::get_if<bool>(&self);
  return flag != nullptr && *flag == which;
}
constexpr Test k_tests[] = {
    {"!=", [](M& m, const V& self, const A& a) { return !equal(m, self, other(m, a)); }},
    {"<", [](M& m, const V& self, const A& a) { return order(m, self, other(m, a)) < 0; }},
    {"<=", [](M& m, const V& self, const A& a) { return order(m, self, other(m, a)) <= 0; }},
    {"==", [](M& m, const V& self, const A& a) { return equal(m, self, other(m, a)); }},
    {">", [](M& m, const V& self, const A& a) { return order(m, self, other(m, a)) > 0; }},
    {">=", [](M& m, const V& self, const A& a) { return order(m, self, other(m, a)) >= 0; }},
    {"boolean", is_one<bool>},
    {"callable",
     [](M& m, const V& self, const A& a) {
       bind_none(m, "callable", a);
       const auto* object = std::get_if<Object*>(&self);
       return std::holds_alternative<Undefined>(self) || (object != nullptr && (*object)->callable());
     }},
    {"defined", [](M& m, const V& self, const A& a) { return !is_one<Undefined>(m, self, a); }},
    {"divisibleby",
     [](M& m, const V& self, const A& a) { return equal(m, arithmetic(m, "%", self, other(m, a)), std::int64_t{0}); }},
    {"eq", [](M& m, const V& self, const A& a) { return equal(m, self, other(m, a)); }},
    {"equalto", [](M& m, const V& self, const A& a) { return equal(m, self, other(m, a)); }},
    {"even", [](M& m, const V& self, const A& a) { return bind_none(m, "even", a), rest_is(m, self, 2, 0); }},
    {"false", is_truth<false>},
    {"filter",
     [](M& m, const V& self, const A& a) { return bind_none(m, "filter", a), is_filter(text_of(m, self)->bytes()); }},
    {"float", is_one<double>},
    {"ge", [](M& m, const V& self, const A& a) { return order(m, self, other(m, a)) >= 0; }},
    {"greaterthan", [](M& m, const V& self, const A& a) { return order(m, self, other(m, a)) > 0; }},
    {"gt", [](M& m, const V& self, const A& a) { return order(m, self, other(m, a)) > 0; }},
    {"in", [](M& m, const V& self, const A& a) { return contains(m, other(m, a), self); }},
    {"integer", is_one<std::int64_t>},
    {"iterable", [](M& m, const V& self, const A& a) { return bind_none(m, "iterable", a), is_iterable(self); }},
    {"le", [](M& m, const V& self, const A& a) { return order(m, self, other(m, a)) <= 0; }},
    {"lessthan", [](M& m, const V& self, const A& a) { return order(m, self, other(m, a)) < 0; }},
    {"lower", [](M& m, const V& self, const A& a) { return bind_none(m, "lower", a), in_case(m, self, "islower"); }},
    {"lt", [](M& m, const V& self, const A& a) { return order(m, self, other(m, a)) < 0; }},
    {"mapping", is_one<DictPointer>},
    {"ne", [](M& m, const V& self, const A& a) { return !equal(m, self, other(m, a)); }},
    {"none", is_one<None>},
    {"number", is_one<bool, std::int64_t, double>},
    {"odd", [](M& m, const V& self, const A& a) { return bind_none(m, "odd", a), rest_is(m, self, 2, 1); }},
    {"sameas",
     [](M& m, const V& self, const A& a) {
       const Value& there = other(m, a);
       if (self.index() != there.index()) return false;
       const bool by_value = self.index() <= 4;
       if (const auto* list = std::get_if<ListPointer>(&self)) return *list == std::get<ListPointer>(there);
       if (const auto* dict = std::get_if<DictPointer>(&self)) return *dict == std::get<DictPointer>(there);
       if (!by_value && !std::holds_alternative<Object*>(self)) m.fail("texts are not compared by sameas");
       return equal(m, self, there);
     }},
    {"sequence",
     [](M& m, const V& self, const A& a) {
       bind_none(m, "sequence", a);
       const auto* list = std::get_if<ListPointer>(&self);
       if (list != nullptr) return (*list)->kind <= List::Kind::range;
       return std::holds_alternative<TextPointer>(self) || std::holds_alternative<DictPointer>(self) ||
              std::holds_alternative<Undefined>(self);
     }},
    {"string", is_one<TextPointer>},
    {"test",
     [](M& m, const V& self, const A& a) { return bind_none(m, "test", a), is_test(text_of(m, self)->bytes()); }},
    {"true", is_truth<true>},
    {"undefined", is_one<Undefined>},
    {"upper", [](M& m, const V& self, const A& a) { return bind_none(m, "upper", a), in_case(m, self, "isupper"); }},
};

const Test* find(std::string_view name) {
  const auto found =
      std::find_if(std::begin(k_tests), std::end(k_tests), [&](const Test& test) { return name == test.name; });
  return found == std::end(k_tests) ? nullptr : found;
}

}  // namespace

bool is_test(std::string_view name) { return find(name) != nullptr; }

bool call_test(Machine& machine, std::string_view name, const Value& value, const Arguments& arguments) {
  const Test* test = find(name);
  if (test == nullptr) machine.fail(fmt::format("the test \"{:.40}\" is not supported", name));
  return test->call(machine, value, arguments);
}

}  // namespace permllm::jinja
