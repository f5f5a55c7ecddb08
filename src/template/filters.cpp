// Filters.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <list>

#include "template/functions.h"
#include "template/operations.h"

namespace permllm::jinja {
namespace {

using M = Machine;
using V = Value;
using A = Arguments;

Value generator(Machine& machine, Values items) { return machine.list(std::move(items), List::Kind::generator); }

// An item's attribute by a path: "a.b", "a.0", or a number.
Value by_path(Machine& machine, const Value& value, const Value* path) {
  if (path == nullptr || std::holds_alternative<None>(*path)) return value;
  const auto* text = std::get_if<TextPointer>(path);
  if (text == nullptr) return item(machine, value, *path);
  Value at = value;
  std::string_view rest = (*text)->bytes();
  while (true) {
    const std::size_t dot = std::min(rest.find('.'), rest.size());
    const std::string_view part = rest.substr(0, dot);
    std::int64_t number = 0;
    const auto [stop, error] = std::from_chars(part.data(), part.data() + part.size(), number);
    const bool digits = error == std::errc() && stop == part.data() + part.size() && part[0] != '-';
    at = item(machine, at, digits ? Value(number) : text_value(part, false));
    if (dot == rest.size()) return at;
    rest.remove_prefix(dot + 1);
  }
}

// What sort, unique, min and max compare.
Value key_of(Machine& machine, const Value& value, const Value* path, bool case_sensitive) {
  Value key = by_path(machine, value, path);
  const auto* text = std::get_if<TextPointer>(&key);
  return text == nullptr || case_sensitive ? key : with_case(machine, **text, lower);
}

Value sort(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [reverse, sensitive, path] =
      bind<3>(machine, "sort", arguments, {"reverse", "case_sensitive", "attribute"});
  std::list<std::pair<Values, Value>> keyed;  // whose sort is safe whatever the order is, and stable
  std::vector<Value> paths;
  if (const auto* text = path == nullptr ? nullptr : std::get_if<TextPointer>(path)) {
    std::string_view rest = (*text)->bytes();
    for (std::size_t comma = 0; comma != std::string_view::npos; rest.remove_prefix(comma + 1)) {
      comma = rest.find(',');
      paths.push_back(text_value(rest.substr(0, comma), false));
      if (comma == std::string_view::npos) break;
    }
  } else {
    paths.push_back(path == nullptr ? Value(None{}) : *path);
  }
  const ListPointer items = items_of(machine, self);
  const std::size_t bytes = (96 + sizeof(Value) * (1 + paths.size())) * items->items.size();
  machine.charge(bytes);
  for (const Value& item : items->items) {
    Values keys;
    for (const Value& one : paths) keys.push_back(key_of(machine, item, &one, truth_or(machine, sensitive, false)));
    keyed.emplace_back(std::move(keys), item);
  }
  const bool down = truth_or(machine, reverse, false);
  const auto first = [&](const auto& a, const auto& b) {
    for (std::size_t i = 0; i < a.first.size(); ++i) {
      if (!equal(machine, a.first[i], b.first[i])) return order(machine, a.first[i], b.first[i]) < 0;
    }
    return false;
  };
  keyed.sort([&](const auto& a, const auto& b) { return down ? first(b, a) : first(a, b); });
  Values sorted;
  for (auto& [keys, value] : keyed) sorted.push_back(std::move(value));
  machine.release(bytes);
  return machine.list(std::move(sorted));
}

Value unique(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [sensitive, path] = bind<2>(machine, "unique", arguments, {"case_sensitive", "attribute"});
  Values seen, out;
  const ListPointer all = items_of(machine, self);
  for (const Value& item : all->items) {
    Value key = key_of(machine, item, path, truth_or(machine, sensitive, false));
    if (std::any_of(seen.begin(), seen.end(), [&](const Value& other) { return equal(machine, key, other); })) continue;
    seen.push_back(std::move(key));
    out.push_back(item);
  }
  return generator(machine, std::move(out));
}

template <bool greatest>
Value extreme(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [sensitive, path] = bind<2>(machine, "min", arguments, {"case_sensitive", "attribute"});
  const ListPointer items = items_of(machine, self);
  const Value* best = nullptr;
  Value best_key;
  for (const Value& item : items->items) {
    Value key = key_of(machine, item, path, truth_or(machine, sensitive, false));
    if (best != nullptr && (greatest ? order(machine, key, best_key) <= 0 : order(machine, key, best_key) >= 0))
      continue;
    best = &item;
    best_key = std::move(key);
  }
  return best == nullptr ? Value(Undefined{}) : *best;
}

Value first(Machine& machine, const Value& self, const Arguments& arguments) {
  bind_none(machine, "first", arguments);
  const ListPointer items = items_of(machine, self);
  return items->items.empty() ? Value(Undefined{}) : items->items.front();
}
Value last(Machine& machine, const Value& self, const Arguments& arguments) {
  bind_none(machine, "last", arguments);
  const auto* list = std::get_if<ListPointer>(&self);
  if (list != nullptr && (*list)->kind == List::Kind::generator) machine.fail("last of a generator");
  const ListPointer items = items_of(machine, self);
  return items->items.empty() ? Value(Undefined{}) : items->items.back();
}
Value reverse(Machine& machine, const Value& self, const Arguments& arguments) {
  bind_none(machine, "reverse", arguments);
  if (const auto* text = std::get_if<TextPointer>(&self)) return reversed(machine, **text);
  const auto* list = std::get_if<ListPointer>(&self);
  const bool once = list != nullptr && (*list)->kind == List::Kind::generator;
  Values items = items_of(machine, self)->items;
  std::reverse(items.begin(), items.end());
  return machine.list(std::move(items), once ? List::Kind::list : List::Kind::generator);
}

std::string_view trimmed(std::string_view text) {
  const auto white = [](char c) { return is_space(static_cast<unsigned char>(c)); };
  while (!text.empty() && white(text.front())) text.remove_prefix(1);
  while (!text.empty() && white(text.back())) text.remove_suffix(1);
  return text;
}
// Python's int(text, base) and float(text).
std::optional<std::int64_t> parse_whole(Machine& machine, std::string_view text, std::int64_t base) {
  text = trimmed(text);
  const bool minus = text.starts_with('-');
  if (minus || text.starts_with('+')) text.remove_prefix(1);
  const auto prefix = [&](std::string_view small, std::string_view large, std::int64_t of) {
    if ((base == of || base == 0) && (text.starts_with(small) || text.starts_with(large))) {
      text.remove_prefix(2);
      if (text.starts_with('_')) text.remove_prefix(1);
      base = of;
    }
  };
  prefix("0x", "0X", 16);
  prefix("0o", "0O", 8);
  prefix("0b", "0B", 2);
  if (base == 0) base = 10;
  if (base < 2 || base > 36) machine.fail("a base is none");
  std::string digits(minus ? "-" : "");
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '_' && i > 0 && i + 1 < text.size() && text[i + 1] != '_') continue;
    if (text[i] == '-' || text[i] == '_') return std::nullopt;
    digits += text[i];
  }
  std::int64_t value = 0;
  const auto [stop, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, static_cast<int>(base));
  if (error == std::errc::result_out_of_range) machine.fail("a whole number has more than 64 bits");
  if (error != std::errc() || stop != digits.data() + digits.size()) return std::nullopt;
  return value;
}
std::optional<double> parse_real(std::string_view text) {
  text = trimmed(text);
  const bool minus = text.starts_with('-');
  if (minus || text.starts_with('+')) text.remove_prefix(1);
  std::string digits;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto digit = [&](std::size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '9'; };
    if (text[i] == '_' && i > 0 && digit(i - 1) && digit(i + 1)) continue;
    digits += text[i];
  }
  if (digits.empty() || digits[0] == '-' || digits[0] == '+' || digits.find('(') != std::string::npos)
    return std::nullopt;
  double value = 0;
  const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (stop != digits.data() + digits.size() || error == std::errc::invalid_argument) return std::nullopt;
  if (error == std::errc::result_out_of_range) value = digits.find("e-") != std::string::npos ? 0 : HUGE_VAL;
  return minus ? -value : value;
}

Value whole_of_real(Machine& machine, double value) {
  if (!(std::abs(value) < 9.2e18)) machine.fail("a whole number has more than 64 bits");
  return static_cast<std::int64_t>(value);
}

Value to_int(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [otherwise, base] = bind<2>(machine, "int", arguments, {"default", "base"});
  const Value fallback = otherwise == nullptr ? Value(std::int64_t{0}) : *otherwise;
  if (const auto* undefined = std::get_if<Undefined>(&self)) fail_undefined(machine, *undefined);
  if (const auto* text = std::get_if<TextPointer>(&self)) {
    machine.handle((*text)->size());
    if (const auto whole = parse_whole(machine, (*text)->bytes(), integer_or(machine, base, 10))) return *whole;
    const auto real = parse_real((*text)->bytes());
    if (!real || std::isnan(*real)) return fallback;
    return whole_of_real(machine, *real);
  }
  if (const auto whole = integer(self)) return *whole;
  const auto* real = std::get_if<double>(&self);
  if (real == nullptr || std::isnan(*real)) return fallback;
  return whole_of_real(machine, *real);
}
Value to_float(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [otherwise] = bind<1>(machine, "float", arguments, {"default"});
  if (const auto* undefined = std::get_if<Undefined>(&self)) fail_undefined(machine, *undefined);
  auto value = number(self);
  if (const auto* text = std::get_if<TextPointer>(&self)) {
    machine.handle((*text)->size());
    value = parse_real((*text)->bytes());
  }
  return value ? Value(*value) : otherwise == nullptr ? Value(0.0) : *otherwise;
}

Value round(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [given, how] = bind<2>(machine, "round", arguments, {"precision", "method"});
  const std::int64_t precision = integer_or(machine, given, 0);
  const std::string method = how == nullptr ? "common" : text_of(machine, *how)->bytes();
  const auto value = number(self);
  if (!value || precision < 0 || precision > 15) machine.fail("round takes a number and a precision of 0 to 15");
  if (method == "common") {
    if (const auto whole = integer(self)) return *whole;
    if (!std::isfinite(*value)) return *value;
    return *parse_real(fmt::format("{:.{}f}", *value, precision));
  }
  if (method != "ceil" && method != "floor") machine.fail("round knows common, ceil and floor");
  const double scale = std::pow(10.0, static_cast<double>(precision)), scaled = *value * scale;
  return (method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale;
}

Value indent(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [width, first_too, blank] = bind<3>(machine, "indent", arguments, {"width", "first", "blank"});
  Builder text(machine), by(machine), out(machine);
  text.add(*text_of(machine, self));
  text.add("\n");
  if (width != nullptr && std::holds_alternative<TextPointer>(*width)) {
    by.add(*text_of(machine, *width));
  } else {
    for (std::int64_t i = integer_or(machine, width, 4); i > 0; --i) by.add(" ");
  }
  const Values lines = lines_of(machine, text.text(), false);
  if (truth_or(machine, first_too, false)) out.add(by.text());
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const Text& line = *std::get<TextPointer>(lines[i]);
    if (i > 0) out.add("\n");
    if (i > 0 && (!line.empty() || truth_or(machine, blank, false))) out.add(by.text());
    out.add(line);
  }
  return out.take();
}

// The filter's title: a letter is great behind white space and what opens.
Value title(Machine& machine, const Value& self, const Arguments& arguments) {
  bind_none(machine, "title", arguments);
  Builder out(machine);
  machine.handle(16 * to_text(machine, self)->size());
  bool begins = true;
  to_text(machine, self)->each_run([&](std::string_view bytes, bool contents) {
    for (std::size_t at = 0; at < bytes.size();) {
      const std::string_view character = bytes.substr(at, character_size(bytes.substr(at)));
      out.add(begins ? upper(character) : lower(character), contents);
      begins = is_space(code_point(character)) || std::string_view("-({[<").find(character) != std::string_view::npos;
      at += character.size();
    }
  });
  return out.take();
}

Value to_json(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [ascii, indent, separators, sorted] =
      bind<4>(machine, "tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  const bool lines = indent != nullptr && !std::holds_alternative<None>(*indent);
  std::string comma = lines ? "," : ", ", colon = ": ";
  if (separators != nullptr && !std::holds_alternative<None>(*separators)) {
    const ListPointer both = items_of(machine, *separators);
    if (both->items.size() != 2) machine.fail("separators are two");
    comma = text_of(machine, both->items[0])->bytes();
    colon = text_of(machine, both->items[1])->bytes();
  }
  Builder out(machine);
  write_json(machine, out, self, lines ? *indent : Value(None{}), truth_or(machine, sorted, false),
             truth_or(machine, ascii, false), comma, colon);
  return out.take();
}

Value default_of(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [otherwise, falsy] = bind<2>(machine, "default", arguments, {"default_value", "boolean"});
  const bool replace =
      std::holds_alternative<Undefined>(self) || (truth_or(machine, falsy, false) && !truth(machine, self));
  return !replace ? self : otherwise != nullptr ? *otherwise : machine.text("");
}

Value map(Machine& machine, const Value& self, const Arguments& arguments) {
  Values out;
  if (!truth(machine, self)) return generator(machine, std::move(out));  // of none too, as jinja2 has it
  const ListPointer items = items_of(machine, self);
  if (arguments.values.empty()) {
    const auto [path, otherwise] = bind<2>(machine, "map", arguments, {"attribute", "default"}, 1);
    for (const Value& item : items->items) {
      Value made = by_path(machine, item, path);
      const bool missing = std::holds_alternative<Undefined>(made) && otherwise != nullptr;
      out.push_back(missing ? *otherwise : std::move(made));
    }
    return generator(machine, std::move(out));
  }
  const TextPointer name = text_of(machine, arguments.values[0]);
  Arguments rest{{arguments.values.begin() + 1, arguments.values.end()}, arguments.named};
  const Machine::Level level(machine);
  for (const Value& item : items->items) out.push_back(call_filter(machine, name->bytes(), item, rest));
  return generator(machine, std::move(out));
}

// select and reject, of items or by an attribute of theirs.
template <bool keep, bool by_attribute>
Value choose(Machine& machine, const Value& self, const Arguments& arguments) {
  const std::size_t before = by_attribute ? 1 : 0;
  if (arguments.values.size() < before) machine.fail("an attribute is not given");
  const Value* path = by_attribute ? &arguments.values[0] : nullptr;
  const bool with_test = arguments.values.size() > before;
  Arguments rest;
  TextPointer test;
  if (with_test) {
    test = text_of(machine, arguments.values[before]);
    rest.values.assign(arguments.values.begin() + static_cast<std::ptrdiff_t>(before + 1), arguments.values.end());
    rest.named = arguments.named;
  }
  Values out;
  if (!truth(machine, self)) return generator(machine, std::move(out));  // of none too, as jinja2 has it
  const ListPointer all = items_of(machine, self);
  for (const Value& item : all->items) {
    const Value value = by_path(machine, item, path);
    machine.step();
    if ((with_test ? call_test(machine, test->bytes(), value, rest) : truth(machine, value)) == keep)
      out.push_back(item);
  }
  return generator(machine, std::move(out));
}

Value batch(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [count, fill] = bind<2>(machine, "batch", arguments, {"linecount", "fill_with"}, 1);
  const std::int64_t size = integer_or(machine, count, 0);
  if (size < 1 || size > 100'000) machine.fail("a batch has 1 to 100,000 items");
  Values out, row;
  const ListPointer all = items_of(machine, self);
  for (const Value& item : all->items) {
    if (row.size() == static_cast<std::size_t>(size)) out.push_back(machine.list(std::exchange(row, {})));
    row.push_back(item);
  }
  if (!row.empty()) {
    if (fill != nullptr && !std::holds_alternative<None>(*fill)) row.resize(static_cast<std::size_t>(size), *fill);
    out.push_back(machine.list(std::move(row)));
  }
  return generator(machine, std::move(out));
}

Value dict_sort(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [sensitive, by, reverse] = bind<3>(machine, "dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const auto* dict = std::get_if<DictPointer>(&self);
  const std::string which = by == nullptr ? "key" : text_of(machine, *by)->bytes();
  if (dict == nullptr || (which != "key" && which != "value"))
    machine.fail("dictsort takes a dict, by key or by value");
  Values pairs;
  for (const auto& [key, value] : (*dict)->items) pairs.push_back(machine.list({key, value}, List::Kind::tuple));
  Arguments how;
  how.named = {{"attribute", Value(std::int64_t{which == "key" ? 0 : 1})},
               {"reverse", truth_or(machine, reverse, false)},
               {"case_sensitive", truth_or(machine, sensitive, false)}};
  return sort(machine, machine.list(std::move(pairs)), how);
}

Value items(Machine& machine, const Value& self, const Arguments& arguments) {
  bind_none(machine, "items", arguments);
  const auto* dict = std::get_if<DictPointer>(&self);
  if (dict == nullptr && !std::holds_alternative<Undefined>(self)) machine.fail("items takes a dict");
  Values out;
  if (dict != nullptr) {
    for (const auto& [key, value] : (*dict)->items) out.push_back(machine.list({key, value}, List::Kind::tuple));
  }
  return generator(machine, std::move(out));
}

Value sum(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [path, start] = bind<2>(machine, "sum", arguments, {"attribute", "start"});
  Value total = start == nullptr ? Value(std::int64_t{0}) : *start;
  const ListPointer all = items_of(machine, self);
  for (const Value& item : all->items) total = arithmetic(machine, "+", total, by_path(machine, item, path));
  return total;
}

Value count(Machine& machine, const Value& self, const Arguments& arguments) {
  bind_none(machine, "length", arguments);
  const auto size = length(machine, self);
  if (!size) machine.fail(fmt::format("a {} has no length", type_name(self)));
  return static_cast<std::int64_t>(*size);
}

Value join_filter(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [separator, path] = bind<2>(machine, "join", arguments, {"d", "attribute"});
  Values parts;
  const ListPointer all = items_of(machine, self);
  for (const Value& item : all->items) parts.push_back(by_path(machine, item, path));
  const TextPointer between = separator == nullptr ? std::make_shared<const Text>() : to_text(machine, *separator);
  return join(machine, *between, parts, true);
}

Value attr(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [name] = bind<1>(machine, "attr", arguments, {"name"}, 1);
  if (const auto* undefined = std::get_if<Undefined>(&self)) fail_undefined(machine, *undefined);
  if (std::holds_alternative<DictPointer>(self)) {
    const Callable method = find_method(machine, self, text_of(machine, *name)->bytes());
    return method == nullptr ? Value(Undefined{}) : machine.object<Function>(method, self);
  }
  return item(machine, self, *name);
}

struct Filter {
  const char* name;
  Callable call;
};
constexpr Filter k_filters[] = {
    {"abs",
     [](M& m, const V& self, const A& a) -> V {
       bind_none(m, "abs", a);
       if (const auto whole = integer(self)) return *whole < 0 ? negative(m, self) : V(*whole);
       if (const auto* real = std::get_if<double>(&self)) return std::abs(*real);
       m.fail("abs takes a number");
     }},
    {"attr", attr},
    {"batch", batch},
    {"capitalize",
     [](M& m, const V& self, const A& a) { return bind_none(m, "capitalize", a), capitalized(m, *to_text(m, self)); }},
    {"center",
     [](M& m, const V& self, const A& a) {
       const auto [width] = bind<1>(m, "center", a, {"width"});
       return padded(m, *to_text(m, self), integer_or(m, width, 80), "center", Text(" ", false));
     }},
    {"count", count},
    {"d", default_of},
    {"default", default_of},
    {"dictsort", dict_sort},
    {"first", first},
    {"float", to_float},
    {"format",
     [](M& m, const V& self, const A& a) {
       if (!a.named.empty()) m.fail("format takes no named values");
       return percent_format(m, *to_text(m, self), m.list(a.values, List::Kind::tuple));
     }},
    {"indent", indent},
    {"int", to_int},
    {"items", items},
    {"join", join_filter},
    {"last", last},
    {"length", count},
    {"list", [](M& m, const V& self, const A& a) { return bind_none(m, "list", a), m.list(items_of(m, self)->items); }},
    {"lower",
     [](M& m, const V& self, const A& a) { return bind_none(m, "lower", a), with_case(m, *to_text(m, self), lower); }},
    {"map", map},
    {"max", extreme<true>},
    {"min", extreme<false>},
    {"reject", choose<false, false>},
    {"rejectattr", choose<false, true>},
    {"replace",
     [](M& m, const V& self, const A& a) {
       const auto [old, by, times] = bind<3>(m, "replace", a, {"old", "new", "count"}, 2);
       return replace(m, *to_text(m, self), *to_text(m, *old), *to_text(m, *by), integer_or(m, times, -1));
     }},
    {"reverse", reverse},
    {"round", round},
    {"safe", [](M& m, const V& self, const A& a) -> V { return bind_none(m, "safe", a), to_text(m, self); }},
    {"select", choose<true, false>},
    {"selectattr", choose<true, true>},
    {"sort", sort},
    {"string", [](M& m, const V& self, const A& a) -> V { return bind_none(m, "string", a), to_text(m, self); }},
    {"sum", sum},
    {"title", title},
    {"tojson", to_json},
    {"trim",
     [](M& m, const V& self, const A& a) {
       const auto [characters] = bind<1>(m, "trim", a, {"chars"});
       return strip(m, *to_text(m, self), characters, true, true);
     }},
    {"unique", unique},
    {"upper",
     [](M& m, const V& self, const A& a) { return bind_none(m, "upper", a), with_case(m, *to_text(m, self), upper); }},
};

const Filter* find(std::string_view name) {
  const auto found = std::find_if(std::begin(k_filters), std::end(k_filters),
                                  [&](const Filter& filter) { return name == filter.name; });
  return found == std::end(k_filters) ? nullptr : found;
}

}  // namespace

bool is_filter(std::string_view name) { return find(name) != nullptr; }

Value call_filter(Machine& machine, std::string_view name, const Value& value, const Arguments& arguments) {
  const Filter* filter = find(name);
  if (filter == nullptr) machine.fail(fmt::format("the filter \"{:.40}\" is not supported", name));
  return filter->call(machine, value, arguments);
}

}  // namespace permllm::jinja
