#include "template/operations.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "template/functions.h"

namespace permllm::jinja {
namespace {

template <class T>
const T* as(const Value& value) {
  return std::get_if<T>(&value);
}
const Text* text(const Value& value) {
  const auto* pointer = as<TextPointer>(value);
  return pointer == nullptr ? nullptr : pointer->get();
}
const List* list(const Value& value) {
  const auto* pointer = as<ListPointer>(value);
  return pointer == nullptr ? nullptr : pointer->get();
}
const Dict* dict(const Value& value) {
  const auto* pointer = as<DictPointer>(value);
  return pointer == nullptr ? nullptr : pointer->get();
}

[[noreturn]] void fail_types(Machine& machine, std::string_view sign, const Value& left, const Value& right) {
  for (const Value* value : {&left, &right}) {
    if (const auto* undefined = as<Undefined>(*value)) fail_undefined(machine, *undefined);
  }
  machine.fail(fmt::format("{} does not go with {} and {}", sign, type_name(left), type_name(right)));
}

Value integers(Machine& machine, std::string_view sign, std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  bool wrong = false;
  if (sign == "+") {
    wrong = __builtin_add_overflow(a, b, &result);
  } else if (sign == "-") {
    wrong = __builtin_sub_overflow(a, b, &result);
  } else if (sign == "*") {
    wrong = __builtin_mul_overflow(a, b, &result);
  } else if (sign == "/") {
    if (b == 0) machine.fail("division by zero");
    return static_cast<double>(a) / static_cast<double>(b);
  } else if (sign == "//" || sign == "%") {
    if (b == 0) machine.fail("division by zero");
    if (b == -1) {
      wrong = sign == "//" && __builtin_sub_overflow(std::int64_t{0}, a, &result);
    } else {
      const std::int64_t quotient = a / b, rest = a % b;
      const bool below = rest != 0 && (rest < 0) != (b < 0);  // Python rounds down
      result = sign == "//" ? quotient - (below ? 1 : 0) : rest + (below ? b : 0);
    }
  } else {
    if (b < 0) {
      if (a == 0) machine.fail("division by zero");
      return std::pow(static_cast<double>(a), static_cast<double>(b));
    }
    result = 1;
    for (std::int64_t base = a, exponent = b; exponent > 0 && !wrong; exponent >>= 1) {
      if ((exponent & 1) != 0) wrong = __builtin_mul_overflow(result, base, &result);
      if (exponent > 1 && !wrong) wrong = __builtin_mul_overflow(base, base, &base);
    }
  }
  if (wrong) machine.fail("a whole number has more than 64 bits");
  return result;
}

Value reals(Machine& machine, std::string_view sign, double a, double b) {
  if (sign == "+") return a + b;
  if (sign == "-") return a - b;
  if (sign == "*") return a * b;
  if (sign == "**") {
    if (a == 0 && b < 0) machine.fail("division by zero");
    const double power = std::pow(a, b);
    if (std::isnan(power) && !std::isnan(a) && !std::isnan(b)) machine.fail("a power is no real number");
    if (std::isinf(power) && std::isfinite(a) && std::isfinite(b)) machine.fail("a number is too large");
    return power;
  }
  if (b == 0) machine.fail("division by zero");
  if (sign == "/") return a / b;
  double rest = std::fmod(a, b);
  if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
  if (rest == 0) rest = std::copysign(0.0, b);
  if (sign == "%") return rest;
  double quotient = (a - rest) / b;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double whole = std::floor(quotient);
  return quotient - whole > 0.5 ? whole + 1 : whole;
}

Value repeated(Machine& machine, const Value& value, std::int64_t count) {
  const std::size_t times = count < 0 ? 0 : static_cast<std::size_t>(count);
  if (const Text* one = text(value)) {
    Builder out(machine);
    for (std::size_t i = 0; i < times && !one->empty(); ++i) out.add(*one);
    return out.take();
  }
  const List& one = *list(value);
  Values items;
  for (std::size_t i = 0; i < times && !one.items.empty(); ++i) {
    machine.step(one.items.size());
    items.insert(items.end(), one.items.begin(), one.items.end());
    if (items.size() * sizeof(Value) > machine.limits().memory) machine.fail("takes more memory than a template may");
  }
  return machine.list(std::move(items), one.kind);
}

}  // namespace

void fail_undefined(Machine& machine, const Undefined& value) {
  machine.fail(value.name == nullptr ? std::string("a value is undefined")
                                     : fmt::format("\"{:.60}\" is undefined", *value.name));
}

std::optional<std::int64_t> integer(const Value& value) {
  if (const auto* whole = as<std::int64_t>(value)) return *whole;
  if (const auto* flag = as<bool>(value)) return *flag ? 1 : 0;
  return std::nullopt;
}

std::optional<double> number(const Value& value) {
  if (const auto* real = as<double>(value)) return *real;
  if (const auto whole = integer(value)) return static_cast<double>(*whole);
  return std::nullopt;
}

std::optional<std::size_t> length(Machine& machine, const Value& value) {
  if (as<Undefined>(value) != nullptr) return 0;
  if (const Text* of = text(value)) {
    machine.handle(of->size());
    return count_characters(of->bytes());
  }
  if (const List* of = list(value); of != nullptr && of->kind != List::Kind::generator) return of->items.size();
  if (const Dict* of = dict(value)) return of->items.size();
  return std::nullopt;
}

bool truth(Machine&, const Value& value) {
  if (as<Undefined>(value) != nullptr || as<None>(value) != nullptr) return false;
  if (const auto of = number(value)) return *of != 0;
  if (const Text* of = text(value)) return !of->empty();
  if (const List* of = list(value)) return of->kind == List::Kind::generator || !of->items.empty();
  if (const Dict* of = dict(value)) return !of->items.empty();
  return true;
}

bool equal(Machine& machine, const Value& left, const Value& right) {
  const Machine::Level level(machine);
  const auto a = integer(left), b = integer(right);
  if (a && b) return *a == *b;
  if (const auto x = number(left), y = number(right); x && y) {
    const auto wide = [](std::optional<std::int64_t> whole, double real) {
      return whole ? static_cast<long double>(*whole) : static_cast<long double>(real);
    };
    return wide(a, *x) == wide(b, *y);
  }
  if (left.index() != right.index()) return false;
  if (const Text* of = text(left)) {
    const Text& other = *text(right);
    machine.handle(std::min(of->size(), other.size()));
    return of->bytes() == other.bytes();
  }
  if (const List* of = list(left)) {
    const List& other = *list(right);
    if (of->kind == List::Kind::generator || of->kind == List::Kind::view) return of == &other;
    if (of->kind != other.kind || of->items.size() != other.items.size()) return false;
    return std::equal(of->items.begin(), of->items.end(), other.items.begin(),
                      [&](const Value& x, const Value& y) { return equal(machine, x, y); });
  }
  if (const Dict* of = dict(left)) {
    const Dict& other = *dict(right);
    if (of->items.size() != other.items.size()) return false;
    return std::all_of(of->items.begin(), of->items.end(), [&](const auto& entry) {
      const Value* there = find(machine, other, entry.first);
      return there != nullptr && equal(machine, entry.second, *there);
    });
  }
  if (const auto* of = as<Object*>(left)) return *of == *as<Object*>(right);
  return true;  // None and None, undefined and undefined
}

int order(Machine& machine, const Value& left, const Value& right) {
  const Machine::Level level(machine);
  if (number(left) && number(right)) {
    const auto wide = [](const Value& value) {
      const auto whole = integer(value);
      return whole ? static_cast<long double>(*whole) : static_cast<long double>(*number(value));
    };
    const long double a = wide(left), b = wide(right);
    if (std::isnan(a) || std::isnan(b)) machine.fail("a number is none");
    return a < b ? -1 : a > b ? 1 : 0;
  }
  if (const Text* a = text(left), *b = text(right); a != nullptr && b != nullptr) {
    machine.handle(std::min(a->size(), b->size()));
    return a->bytes().compare(b->bytes());  // UTF-8 has the order of code points
  }
  const List *a = list(left), *b = list(right);
  if (a == nullptr || b == nullptr || a->kind != b->kind || a->kind > List::Kind::tuple)
    fail_types(machine, "<", left, right);
  for (std::size_t i = 0; i < std::min(a->items.size(), b->items.size()); ++i) {
    if (!equal(machine, a->items[i], b->items[i])) return order(machine, a->items[i], b->items[i]);
  }
  return a->items.size() < b->items.size() ? -1 : a->items.size() > b->items.size() ? 1 : 0;
}

const Value* find(Machine& machine, const Dict& of, const Value& key) {
  if (list(key) != nullptr && list(key)->kind == List::Kind::tuple) {
  } else if (list(key) != nullptr || dict(key) != nullptr) {
    machine.fail(fmt::format("a {} can be no key", type_name(key)));
  }
  const Text* name = text(key);
  machine.step(1 + of.items.size() / 8);
  for (const auto& [there, value] : of.items) {
    if (name != nullptr) {  // the common case, without a step for each
      if (const Text* other = text(there);
          other != nullptr && other->size() == name->size() && other->bytes() == name->bytes())
        return &value;
    } else if (equal(machine, there, key)) {
      return &value;
    }
  }
  return nullptr;
}

bool contains(Machine& machine, const Value& all, const Value& one) {
  if (const Text* of = text(all)) {
    const Text* part = text(one);
    if (part == nullptr) fail_types(machine, "in", one, all);
    return find_text(machine, of->bytes(), part->bytes()) != Text::npos;
  }
  if (const Dict* of = dict(all)) return find(machine, *of, one) != nullptr;
  if (!is_iterable(all)) fail_types(machine, "in", one, all);
  const ListPointer items = items_of(machine, all);
  return std::any_of(items->items.begin(), items->items.end(),
                     [&](const Value& value) { return equal(machine, one, value); });
}

Value arithmetic(Machine& machine, std::string_view sign, const Value& left, const Value& right) {
  const auto a = integer(left), b = integer(right);
  if (a && b) return integers(machine, sign, *a, *b);
  if (const auto x = number(left), y = number(right); x && y) return reals(machine, sign, *x, *y);
  const Text *first = text(left), *second = text(right);
  const List *many = list(left), *more = list(right);
  const auto plain = [](const List* of) { return of != nullptr && of->kind <= List::Kind::tuple; };
  if (sign == "+" && first != nullptr && second != nullptr) {
    Builder out(machine);
    out.add(*first);
    out.add(*second);
    return out.take();
  }
  if (sign == "+" && plain(many) && plain(more) && many->kind == more->kind) {
    machine.step(many->items.size() + more->items.size());
    Values items = many->items;
    items.insert(items.end(), more->items.begin(), more->items.end());
    return machine.list(std::move(items), many->kind);
  }
  if (sign == "*" && (first != nullptr || plain(many)) && b) return repeated(machine, left, *b);
  if (sign == "*" && (second != nullptr || plain(more)) && a) return repeated(machine, right, *a);
  if (sign == "%" && first != nullptr) return percent_format(machine, *first, right);
  fail_types(machine, sign, left, right);
}

Value negative(Machine& machine, const Value& value) {
  if (const auto whole = integer(value)) return integers(machine, "-", 0, *whole);
  if (const auto* real = as<double>(value)) return -*real;
  fail_types(machine, "-", value, value);
}

bool is_iterable(const Value& value) {
  return as<Undefined>(value) != nullptr || text(value) != nullptr || list(value) != nullptr || dict(value) != nullptr;
}

ListPointer items_of(Machine& machine, const Value& value) {
  if (const auto* of = as<ListPointer>(value)) {
    if ((*of)->kind != List::Kind::generator) return *of;
    if ((*of)->spent) return std::make_shared<const List>();
    (*of)->spent = true;
    return *of;
  }
  Values items;
  if (const Text* of = text(value)) {
    for (std::size_t at = 0; at < of->size();) {
      const std::size_t size = character_size(std::string_view(of->bytes()).substr(at));
      items.push_back(machine.text(*of, at, at + size));
      at += size;
    }
  } else if (const Dict* entries = dict(value)) {
    for (const auto& entry : entries->items) items.push_back(entry.first);
  } else if (as<Undefined>(value) == nullptr) {
    machine.fail(fmt::format("a {} cannot be gone through", type_name(value)));
  }
  return std::get<ListPointer>(machine.list(std::move(items)));
}

Value attribute(Machine& machine, const Value& value, const std::string& name) {
  if (const auto* undefined = as<Undefined>(value)) fail_undefined(machine, *undefined);
  if (const auto* object = as<Object*>(value)) return (*object)->attribute(machine, name).value_or(Undefined{&name});
  if (const Callable method = find_method(machine, value, name)) return machine.object<Function>(method, value);
  if (const Dict* of = dict(value)) {
    const Text key(name, false);
    machine.step(1 + of->items.size() / 8);
    for (const auto& [there, found] : of->items) {
      if (const Text* other = text(there); other != nullptr && other->bytes() == name) return found;
    }
  }
  return Undefined{&name};
}

Value item(Machine& machine, const Value& value, const Value& key) {
  if (const auto* undefined = as<Undefined>(value)) fail_undefined(machine, *undefined);
  if (const Dict* of = dict(value)) {
    if (list(key) == nullptr || list(key)->kind == List::Kind::tuple) {
      if (dict(key) == nullptr) {
        if (const Value* found = find(machine, *of, key)) return *found;
      }
    }
  } else if (const auto whole = integer(key)) {
    const auto count = length(machine, value);
    if (count && (text(value) != nullptr || list(value)->kind <= List::Kind::range)) {
      const auto size = static_cast<std::int64_t>(*count);
      const std::int64_t at = *whole < 0 ? *whole + size : *whole;
      if (*whole < -size || at >= size) return Undefined{};
      if (const List* many = list(value)) return many->items[static_cast<std::size_t>(at)];
      const Text& characters = *text(value);
      const std::string_view bytes = characters.bytes();
      const std::size_t begin = place_of_character(bytes, static_cast<std::size_t>(at));
      return machine.text(characters, begin, begin + character_size(bytes.substr(begin)));
    }
  }
  const Text* name = text(key);
  if (name == nullptr) return Undefined{};
  if (const auto* object = as<Object*>(value))
    return (*object)->attribute(machine, name->bytes()).value_or(Undefined{});
  if (const Callable method = find_method(machine, value, name->bytes()))
    return machine.object<Function>(method, value);
  return Undefined{};
}

Value slice(Machine& machine, const Value& value, const Value& begin, const Value& end, const Value& step) {
  if (const auto* undefined = as<Undefined>(value)) fail_undefined(machine, *undefined);
  const Text* of = text(value);
  const List* many = list(value);
  if (of == nullptr && (many == nullptr || many->kind > List::Kind::tuple))
    machine.fail(fmt::format("a {} has no slices", type_name(value)));
  const auto bound = [&](const Value& given) -> std::optional<std::int64_t> {
    if (as<None>(given) != nullptr) return std::nullopt;
    const auto whole = integer(given);
    if (!whole) machine.fail("a slice has bounds that are no whole numbers");
    return whole;
  };
  const auto size = static_cast<std::int64_t>(*length(machine, value));
  const std::int64_t by = std::clamp(bound(step).value_or(1), -size - 1, size + 1);
  if (by == 0) machine.fail("a slice has a step of 0");
  const std::int64_t least = by > 0 ? 0 : -1, most = by > 0 ? size : size - 1;
  const auto placed = [&](std::optional<std::int64_t> given, std::int64_t otherwise) {
    if (!given) return otherwise;
    return std::clamp(*given < 0 ? *given + size : *given, least, most);
  };
  std::int64_t from = placed(bound(begin), by > 0 ? 0 : size - 1);
  const std::int64_t to = placed(bound(end), by > 0 ? size : -1);
  std::vector<std::size_t> places;  // of a text's characters, where they are not bytes
  const bool bytes = of != nullptr && static_cast<std::size_t>(size) == of->size();
  if (of != nullptr && by == 1) {
    if (from >= to) return machine.text("");
    if (bytes) return machine.text(*of, static_cast<std::size_t>(from), static_cast<std::size_t>(to));
    const std::size_t first = place_of_character(of->bytes(), static_cast<std::size_t>(from));
    const std::string_view rest = std::string_view(of->bytes()).substr(first);
    return machine.text(*of, first, first + place_of_character(rest, static_cast<std::size_t>(to - from)));
  }
  Values items;
  Builder out(machine);
  if (of != nullptr && !bytes) {
    machine.charge(sizeof(std::size_t) * static_cast<std::size_t>(size));
    for (std::size_t at = 0; at < of->size(); at += character_size(std::string_view(of->bytes()).substr(at)))
      places.push_back(at);
    machine.release(sizeof(std::size_t) * static_cast<std::size_t>(size));
  }
  for (; by > 0 ? from < to : from > to;) {
    machine.step();
    const auto at = static_cast<std::size_t>(from);
    if (of == nullptr) {
      items.push_back(many->items[at]);
    } else {
      const std::size_t place = bytes ? at : places[at];
      out.add(*of, place, place + character_size(std::string_view(of->bytes()).substr(place)));
    }
    if (by > 0 ? from >= to - by : from <= to - by) break;
    from += by;
  }
  return of != nullptr ? out.take() : machine.list(std::move(items), many->kind);
}

}  // namespace permllm::jinja
