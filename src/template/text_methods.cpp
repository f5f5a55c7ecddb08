// The methods of str.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "template/functions.h"
#include "template/operations.h"

namespace permllm::jinja {
namespace {

const Text& of(const Value& value) { return *std::get<TextPointer>(value); }

// The last place of a part that ends at `end` or before; npos: none.
std::size_t find_last(Machine& machine, std::string_view text, std::string_view part, std::size_t end) {
  if (part.size() > end) return Text::npos;
  machine.handle(1 + text.size() * std::min<std::size_t>(part.size(), 64) / 64);
  for (std::size_t at = end - part.size() + 1; at-- > 0;) {
    if (part.empty() || (text[at] == part[0] && text.substr(at, part.size()) == part)) return at;
    if (text[at] == part[0]) machine.handle(part.size());
  }
  return Text::npos;
}

// Places in bytes of two bounds in characters, as of a slice.
std::pair<std::size_t, std::size_t> bounds(Machine& machine, std::string_view text, const Value* begin,
                                           const Value* end) {
  if (begin == nullptr && end == nullptr) return {0, text.size()};
  machine.handle(text.size());
  const auto size = static_cast<std::int64_t>(count_characters(text));
  const auto place = [&](const Value* given, std::int64_t otherwise) {
    std::int64_t at = integer_or(machine, given, otherwise);
    if (at < 0) at = std::max<std::int64_t>(at + size, 0);
    return at > size ? text.size() + 1 : place_of_character(text, static_cast<std::size_t>(at));
  };
  return {place(begin, 0), std::min(place(end, size), text.size())};
}

enum class Split { left, right };

// Calls piece(begin, end) for the parts between separators; from the right in that order.
template <class Piece>
void split_at(Machine& machine, std::string_view text, std::string_view separator, std::int64_t most, Split from,
              Piece piece) {
  if (separator.empty()) machine.fail("a separator is empty");
  if (from == Split::left) {
    std::size_t begin = 0;
    while (most != 0) {
      const std::size_t found = find_text(machine, text, separator, begin);
      if (found == Text::npos) break;
      piece(begin, found);
      begin = found + separator.size();
      --most;
    }
    return piece(begin, text.size());
  }
  std::size_t end = text.size();
  while (most != 0) {
    const std::size_t found = find_last(machine, text.substr(0, end), separator, end);
    if (found == Text::npos) break;
    piece(found + separator.size(), end);
    end = found;
    --most;
  }
  piece(0, end);
}

bool space_at(std::string_view text, std::size_t at) {
  return is_space(code_point(text.substr(at, character_size(text.substr(at)))));
}

template <class Piece>
void split_at_white(std::string_view text, std::int64_t most, Split from, Piece piece) {
  const auto after = [&](std::size_t at) { return at + character_size(text.substr(at)); };
  if (from == Split::left) {
    std::size_t at = 0;
    while (true) {
      while (at < text.size() && space_at(text, at)) at = after(at);
      if (at >= text.size()) return;
      if (most-- == 0) break;
      const std::size_t begin = at;
      while (at < text.size() && !space_at(text, at)) at = after(at);
      piece(begin, at);
    }
    std::size_t end = text.size();
    while (space_at(text, character_before(text, end))) end = character_before(text, end);
    return piece(at, end);
  }
  std::size_t at = text.size();
  while (true) {
    while (at > 0 && space_at(text, character_before(text, at))) at = character_before(text, at);
    if (at == 0) return;
    if (most-- == 0) break;
    const std::size_t end = at;
    while (at > 0 && !space_at(text, character_before(text, at))) at = character_before(text, at);
    piece(at, end);
  }
  std::size_t begin = 0;
  while (space_at(text, begin)) begin = after(begin);
  piece(begin, at);
}

Value split(Machine& machine, const Value& self, const Arguments& arguments, Split from) {
  const auto [separator, most] = bind<2>(machine, "split", arguments, {"sep", "maxsplit"});
  const Text& text = of(self);
  const std::int64_t limit = integer_or(machine, most, -1);
  machine.handle(text.size());
  Values parts;
  const auto add = [&](std::size_t begin, std::size_t end) { parts.push_back(machine.text(text, begin, end)); };
  if (separator == nullptr || std::holds_alternative<None>(*separator)) {
    split_at_white(text.bytes(), limit, from, add);
  } else {
    split_at(machine, text.bytes(), text_of(machine, *separator)->bytes(), limit, from, add);
  }
  if (from == Split::right) std::reverse(parts.begin(), parts.end());
  return machine.list(std::move(parts));
}

Value partition(Machine& machine, const Value& self, const Arguments& arguments, bool last) {
  const auto [separator] = bind<1>(machine, "partition", arguments, {"sep"}, 1);
  const Text &text = of(self), &part = *text_of(machine, *separator);
  if (part.empty()) machine.fail("a separator is empty");
  const std::size_t found = last ? find_last(machine, text.bytes(), part.bytes(), text.size())
                                 : find_text(machine, text.bytes(), part.bytes());
  Values parts;
  if (found != Text::npos) {
    parts = {machine.text(text, 0, found), *separator, machine.text(text, found + part.size())};
  } else if (last) {
    parts = {machine.text(""), machine.text(""), self};
  } else {
    parts = {self, machine.text(""), machine.text("")};
  }
  return machine.list(std::move(parts), List::Kind::tuple);
}

// The place in characters of a part; -1: it is not there.
std::int64_t place_of(Machine& machine, const Value& self, const Arguments& arguments, bool last) {
  const auto [part, begin, end] = bind<3>(machine, "find", arguments, {"sub", "start", "end"}, 1);
  const std::string_view text = of(self).bytes();
  const std::string_view wanted = text_of(machine, *part)->bytes();
  const auto [from, to] = bounds(machine, text, begin, end);
  if (from > to) return -1;
  std::size_t found = last ? find_last(machine, text.substr(from, to - from), wanted, to - from)
                           : find_text(machine, text.substr(0, to), wanted, from);
  if (found == Text::npos) return -1;
  if (last) found += from;
  machine.handle(text.size());
  return static_cast<std::int64_t>(count_characters(text.substr(0, found)));
}
Value find_or_fail(Machine& machine, const Value& self, const Arguments& arguments, bool last) {
  const std::int64_t found = place_of(machine, self, arguments, last);
  if (found < 0) machine.fail("a text is not in another");
  return found;
}

bool has_end(Machine& machine, const Value& self, const Arguments& arguments, bool suffix) {
  const auto [part, begin, end] = bind<3>(machine, "startswith", arguments, {"prefix", "start", "end"}, 1);
  const std::string_view all = of(self).bytes();
  const auto [from, to] = bounds(machine, all, begin, end);
  if (from > to) return false;
  const std::string_view text = all.substr(from, to - from);
  const auto fits = [&, suffix](const Value& value) {
    const std::string_view wanted = text_of(machine, value)->bytes();
    machine.handle(wanted.size());
    return suffix ? text.ends_with(wanted) : text.starts_with(wanted);
  };
  const auto* tuple = std::get_if<ListPointer>(part);
  if (tuple == nullptr) return fits(*part);
  if ((*tuple)->kind != List::Kind::tuple) machine.fail("expected a text or a tuple of texts");
  return std::any_of((*tuple)->items.begin(), (*tuple)->items.end(), fits);
}

template <class Test>
Value all_characters(Machine& machine, const Value& self, const Arguments& arguments, Test test) {
  bind_none(machine, "a test of characters", arguments);
  const std::string_view text = of(self).bytes();
  machine.handle(32 * text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = character_size(text.substr(at));
    if (!test(text.substr(at, size))) return false;
    at += size;
  }
  return !text.empty();
}

Value in_one_case(Machine& machine, const Value& self, CharacterKind wanted, CharacterKind other) {
  const std::string_view text = of(self).bytes();
  machine.handle(32 * text.size());
  bool any = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = character_size(text.substr(at));
    if (is(other, text.substr(at, size))) return false;
    any = any || is(wanted, text.substr(at, size));
    at += size;
  }
  return any;
}

// str.title: a letter behind a letter is small.
Value title(Machine& machine, const Value& self, const Arguments& arguments) {
  bind_none(machine, "title", arguments);
  Builder out(machine);
  bool inside = false;
  of(self).each_run([&](std::string_view bytes, bool contents) {
    for (std::size_t at = 0; at < bytes.size();) {
      const std::string_view character = bytes.substr(at, character_size(bytes.substr(at)));
      out.add(inside ? lower(character) : upper(character), contents);
      inside = is(CharacterKind::cased_upper, character) || is(CharacterKind::cased_lower, character);
      at += character.size();
    }
  });
  return out.take();
}

// "{} {1} {name}", without further instructions.
Value format(Machine& machine, const Value& self, const Arguments& arguments) {
  const Text& text = of(self);
  const std::string_view bytes = text.bytes();
  Builder out(machine);
  std::size_t next = 0;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t brace = std::min(bytes.find_first_of("{}", at), bytes.size());
    out.add(text, at, brace);
    if (brace == bytes.size()) break;
    if (brace + 1 < bytes.size() && bytes[brace + 1] == bytes[brace]) {
      out.add(text, brace, brace + 1);
      at = brace + 2;
      continue;
    }
    const std::size_t end = bytes.find('}', brace);
    if (bytes[brace] == '}' || end == std::string_view::npos) machine.fail("a brace of a format stands alone");
    const std::string_view field = bytes.substr(brace + 1, end - brace - 1);
    std::size_t number = 0;
    const auto [stop, error] = std::from_chars(field.data(), field.data() + field.size(), number);
    const bool numbered = error == std::errc() && stop == field.data() + field.size();
    const Value* value = nullptr;
    if (field.empty() || numbered) {
      if (field.empty()) number = next++;
      if (number < arguments.values.size()) value = &arguments.values[number];
    } else {
      for (const auto& [name, named] : arguments.named) {
        if (name == field) value = &named;
      }
    }
    if (value == nullptr)
      machine.fail("a field of a format is not given, or has instructions, which are not supported");
    print(machine, out, *value);
    at = end + 1;
  }
  return out.take();
}

Value zfill(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [width] = bind<1>(machine, "zfill", arguments, {"width"}, 1);
  const Text& text = of(self);
  const bool sign = text.bytes().starts_with('-') || text.bytes().starts_with('+');
  const auto size = static_cast<std::int64_t>(count_characters(text.bytes()));
  const std::int64_t missing = std::max<std::int64_t>(integer_or(machine, width, 0), size) - size;
  Builder out(machine);
  out.add(text, 0, sign ? 1 : 0);
  for (std::int64_t i = 0; i < missing; ++i) out.add("0");
  out.add(text, sign ? 1 : 0);
  return out.take();
}

template <bool left, bool right>
Value strip_method(Machine& machine, const Value& self, const Arguments& arguments) {
  const auto [characters] = bind<1>(machine, "strip", arguments, {"chars"});
  return strip(machine, of(self), characters, left, right);
}

Value pad(Machine& machine, const Value& self, const Arguments& arguments, const char* how) {
  const auto [width, fill] = bind<2>(machine, how, arguments, {"width", "fillchar"}, 1);
  const Text blank(" ", false);
  return padded(machine, of(self), integer_or(machine, width, 0), how,
                fill == nullptr ? blank : *text_of(machine, *fill));
}

Value without_affix(Machine& machine, const Value& self, const Arguments& arguments, bool suffix) {
  const auto [affix] = bind<1>(machine, "removeprefix", arguments, {"prefix"}, 1);
  const Text& text = of(self);
  const std::string_view part = text_of(machine, *affix)->bytes();
  if (suffix) return text.bytes().ends_with(part) ? machine.text(text, 0, text.size() - part.size()) : self;
  return text.bytes().starts_with(part) ? machine.text(text, part.size()) : self;
}

struct Method {
  const char* name;
  Callable call;
};

using M = Machine;
using V = Value;
using A = Arguments;
constexpr Method k_methods[] = {
    {"capitalize",
     [](M& m, const V& self, const A& a) { return bind_none(m, "capitalize", a), capitalized(m, of(self)); }},
    {"center", [](M& m, const V& self, const A& a) { return pad(m, self, a, "center"); }},
    {"count",
     [](M& m, const V& self, const A& a) -> V {
       const auto [part, begin, end] = bind<3>(m, "count", a, {"sub", "start", "end"}, 1);
       const auto [from, to] = bounds(m, of(self).bytes(), begin, end);
       if (from > to) return std::int64_t{0};
       const std::string_view text = std::string_view(of(self).bytes()).substr(from, to - from),
                              wanted = text_of(m, *part)->bytes();
       if (wanted.empty()) return static_cast<std::int64_t>(count_characters(text)) + 1;
       std::int64_t count = -1;
       split_at(m, text, wanted, -1, Split::left, [&](std::size_t, std::size_t) { ++count; });
       return count;
     }},
    {"endswith", [](M& m, const V& self, const A& a) -> V { return has_end(m, self, a, true); }},
    {"find", [](M& m, const V& self, const A& a) -> V { return place_of(m, self, a, false); }},
    {"format", format},
    {"index", [](M& m, const V& self, const A& a) { return find_or_fail(m, self, a, false); }},
    {"isalnum",
     [](M& m, const V& self, const A& a) {
       return all_characters(m, self, a, [](std::string_view c) {
         return is(CharacterKind::letter, c) || is(CharacterKind::numeric, c);
       });
     }},
    {"isalpha",
     [](M& m, const V& self, const A& a) {
       return all_characters(m, self, a, [](std::string_view c) { return is(CharacterKind::letter, c); });
     }},
    {"isascii",
     [](M& m, const V& self, const A& a) -> V {
       return of(self).empty() ||
              truth(m, all_characters(m, self, a, [](std::string_view c) { return code_point(c) < 0x80; }));
     }},
    {"isdecimal",
     [](M& m, const V& self, const A& a) {
       return all_characters(m, self, a, [](std::string_view c) { return is(CharacterKind::decimal, c); });
     }},
    {"isdigit",
     [](M& m, const V& self, const A& a) {
       return all_characters(m, self, a, [](std::string_view c) { return is(CharacterKind::decimal, c); });
     }},
    {"islower",
     [](M& m, const V& self, const A& a) {
       return bind_none(m, "islower", a), in_one_case(m, self, CharacterKind::cased_lower, CharacterKind::cased_upper);
     }},
    {"isnumeric",
     [](M& m, const V& self, const A& a) {
       return all_characters(m, self, a, [](std::string_view c) { return is(CharacterKind::numeric, c); });
     }},
    {"isspace",
     [](M& m, const V& self, const A& a) {
       return all_characters(m, self, a, [](std::string_view c) { return is_space(code_point(c)); });
     }},
    {"isupper",
     [](M& m, const V& self, const A& a) {
       return bind_none(m, "isupper", a), in_one_case(m, self, CharacterKind::cased_upper, CharacterKind::cased_lower);
     }},
    {"join",
     [](M& m, const V& self, const A& a) {
       const auto [items] = bind<1>(m, "join", a, {"iterable"}, 1);
       return join(m, of(self), items_of(m, *items)->items, false);
     }},
    {"ljust", [](M& m, const V& self, const A& a) { return pad(m, self, a, "ljust"); }},
    {"lower", [](M& m, const V& self, const A& a) { return bind_none(m, "lower", a), with_case(m, of(self), lower); }},
    {"lstrip", strip_method<true, false>},
    {"partition", [](M& m, const V& self, const A& a) { return partition(m, self, a, false); }},
    {"removeprefix", [](M& m, const V& self, const A& a) { return without_affix(m, self, a, false); }},
    {"removesuffix", [](M& m, const V& self, const A& a) { return without_affix(m, self, a, true); }},
    {"replace",
     [](M& m, const V& self, const A& a) {
       const auto [old, by, count] = bind<3>(m, "replace", a, {"old", "new", "count"}, 2);
       return replace(m, of(self), *text_of(m, *old), *text_of(m, *by), integer_or(m, count, -1));
     }},
    {"rfind", [](M& m, const V& self, const A& a) -> V { return place_of(m, self, a, true); }},
    {"rindex", [](M& m, const V& self, const A& a) { return find_or_fail(m, self, a, true); }},
    {"rjust", [](M& m, const V& self, const A& a) { return pad(m, self, a, "rjust"); }},
    {"rpartition", [](M& m, const V& self, const A& a) { return partition(m, self, a, true); }},
    {"rsplit", [](M& m, const V& self, const A& a) { return split(m, self, a, Split::right); }},
    {"rstrip", strip_method<false, true>},
    {"split", [](M& m, const V& self, const A& a) { return split(m, self, a, Split::left); }},
    {"splitlines",
     [](M& m, const V& self, const A& a) {
       const auto [keep] = bind<1>(m, "splitlines", a, {"keepends"});
       return m.list(lines_of(m, of(self), truth_or(m, keep, false)));
     }},
    {"startswith", [](M& m, const V& self, const A& a) -> V { return has_end(m, self, a, false); }},
    {"strip", strip_method<true, true>},
    {"title", title},
    {"upper", [](M& m, const V& self, const A& a) { return bind_none(m, "upper", a), with_case(m, of(self), upper); }},
    {"zfill", zfill},
};
// What else Python's str has: to be undefined here would be another meaning.
constexpr const char* k_unknown[] = {"casefold",    "encode",  "expandtabs", "format_map", "isidentifier",
                                     "isprintable", "istitle", "maketrans",  "swapcase",   "translate"};

}  // namespace

Callable find_text_method(Machine& machine, std::string_view name) {
  if (std::any_of(std::begin(k_unknown), std::end(k_unknown), [&](const char* other) { return name == other; }))
    machine.fail(fmt::format("the method {} of texts is not supported", name));
  const auto found = std::find_if(std::begin(k_methods), std::end(k_methods),
                                  [&](const Method& method) { return name == method.name; });
  return found == std::end(k_methods) ? nullptr : found->call;
}

}  // namespace permllm::jinja
