// Values as text: str(), repr() and JSON.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <list>

#include "template/operations.h"

namespace permllm::jinja {
namespace {

template <class T>
const T* as(const Value& value) {
  return std::get_if<T>(&value);
}
template <class T>
const T* inside(const Value& value) {
  const auto* pointer = as<std::shared_ptr<const T>>(value);
  return pointer == nullptr ? nullptr : pointer->get();
}
const Text* text(const Value& value) { return inside<Text>(value); }
const List* list(const Value& value) { return inside<List>(value); }
const Dict* dict(const Value& value) { return inside<Dict>(value); }

void escape(Machine& machine, Builder& out, const Text& of, bool json, bool ascii, char quote) {
  of.each_run([&](std::string_view bytes, bool contents) {
    std::size_t plain = 0;  // begin of what stays as it is
    for (std::size_t at = 0; at < bytes.size();) {
      const std::size_t size = character_size(bytes.substr(at));
      const char32_t code = code_point(bytes.substr(at, size));
      std::string escaped;
      if (code == '\\' || code == static_cast<unsigned char>(quote)) {
        escaped = {'\\', static_cast<char>(code)};
      } else if (code == '\n') {
        escaped = "\\n";
      } else if (code == '\r') {
        escaped = "\\r";
      } else if (code == '\t') {
        escaped = "\\t";
      } else if (json && code == '\b') {
        escaped = "\\b";
      } else if (json && code == '\f') {
        escaped = "\\f";
      } else if (json && (code < 0x20 || (ascii && code >= 0x7f && code <= 0x10ffff && code != 0x7f))) {
        if (code < 0x10000) {
          escaped = fmt::format("\\u{:04x}", static_cast<std::uint32_t>(code));
        } else {
          const auto over = static_cast<std::uint32_t>(code) - 0x10000;
          escaped = fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + (over >> 10), 0xdc00 + (over & 0x3ff));
        }
      } else if (!json && code <= 0x10ffff && !is_printable(code)) {
        const auto value = static_cast<std::uint32_t>(code);
        escaped = value < 0x100     ? fmt::format("\\x{:02x}", value)
                  : value < 0x10000 ? fmt::format("\\u{:04x}", value)
                                    : fmt::format("\\U{:08x}", value);
      }
      at += size;
      if (escaped.empty()) continue;
      out.add(bytes.substr(plain, at - size - plain), contents);
      out.add(escaped, contents);
      plain = at;
    }
    out.add(bytes.substr(plain), contents);
    machine.handle((json ? 1 : 16) * bytes.size());
  });
}

void json_text(Machine& machine, Builder& out, const Text& of, bool ascii) {
  out.add("\"");
  escape(machine, out, of, true, ascii, '"');
  out.add("\"");
}

}  // namespace

std::string real_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  // The shortest digits that read back as the same, as "d.ddde+xx".
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  const std::string_view shortest(buffer, static_cast<std::size_t>(end - buffer));
  const std::size_t e = shortest.find('e');
  int exponent = 0;
  std::string_view digits = shortest.substr(e + 1);
  const bool down = digits.starts_with('-');
  digits.remove_prefix(1);
  std::from_chars(digits.data(), digits.data() + digits.size(), exponent);
  if (down) exponent = -exponent;
  if (exponent < -4 || exponent >= 16) {
    return fmt::format("{}e{}{:02}", shortest.substr(0, e), exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  char fixed[64];
  const auto stop = std::to_chars(fixed, fixed + sizeof fixed, value, std::chars_format::fixed).ptr;
  std::string out(fixed, stop);
  if (out.find('.') == std::string::npos) out += ".0";
  return out;
}

void print(Machine& machine, Builder& out, const Value& value) {
  if (const Text* of = text(value)) {
    out.add(*of);
  } else if (as<Undefined>(value) == nullptr) {
    represent(machine, out, value);
  }
}

TextPointer to_text(Machine& machine, const Value& value) {
  if (const auto* of = as<TextPointer>(value)) return *of;
  Builder out(machine);
  print(machine, out, value);
  return std::get<TextPointer>(out.take());
}

void represent(Machine& machine, Builder& out, const Value& value) {
  const Machine::Level level(machine);
  if (as<Undefined>(value) != nullptr) {
    out.add("Undefined");
  } else if (as<None>(value) != nullptr) {
    out.add("None");
  } else if (const auto* flag = as<bool>(value)) {
    out.add(*flag ? "True" : "False");
  } else if (const auto* whole = as<std::int64_t>(value)) {
    out.add(std::to_string(*whole));
  } else if (const auto* real = as<double>(value)) {
    out.add(real_text(*real));
  } else if (const Text* of = text(value)) {
    const bool twice = of->bytes().find('\'') != std::string::npos && of->bytes().find('"') == std::string::npos;
    const char quote = twice ? '"' : '\'';
    out.add(std::string_view(&quote, 1));
    escape(machine, out, *of, false, false, quote);
    out.add(std::string_view(&quote, 1));
  } else if (const List* many = list(value)) {
    if (many->kind > List::Kind::tuple) machine.fail(fmt::format("a {} cannot be printed", type_name(value)));
    const bool tuple = many->kind == List::Kind::tuple;
    out.add(tuple ? "(" : "[");
    for (std::size_t i = 0; i < many->items.size(); ++i) {
      if (i > 0) out.add(", ");
      represent(machine, out, many->items[i]);
    }
    out.add(tuple && many->items.size() == 1 ? ",)" : tuple ? ")" : "]");
  } else if (const Dict* entries = dict(value)) {
    out.add("{");
    for (std::size_t i = 0; i < entries->items.size(); ++i) {
      if (i > 0) out.add(", ");
      represent(machine, out, entries->items[i].first);
      out.add(": ");
      represent(machine, out, entries->items[i].second);
    }
    out.add("}");
  } else {
    machine.fail(fmt::format("a {} cannot be printed", (*as<Object*>(value))->type()));
  }
}

namespace {

struct JsonStyle {
  std::optional<std::string> indent;  // of a level; nullopt: on one line
  std::string comma, colon;
  bool sorted, ascii;
};

void write(Machine& machine, Builder& out, const Value& value, const JsonStyle& style, std::size_t levels) {
  const Machine::Level level(machine);
  const auto new_line = [&](std::size_t depth) {
    if (!style.indent) return;
    out.add("\n");
    for (std::size_t i = 0; i < depth; ++i) out.add(*style.indent);
  };
  if (const Text* of = text(value)) {
    json_text(machine, out, *of, style.ascii);
  } else if (as<None>(value) != nullptr) {
    out.add("null");
  } else if (const auto* flag = as<bool>(value)) {
    out.add(*flag ? "true" : "false");
  } else if (const auto* real = as<double>(value)) {
    out.add(std::isnan(*real) ? "NaN" : std::isinf(*real) ? (*real < 0 ? "-Infinity" : "Infinity") : real_text(*real));
  } else if (const auto* whole = as<std::int64_t>(value)) {
    out.add(std::to_string(*whole));
  } else if (const List* many = list(value); many != nullptr && many->kind <= List::Kind::tuple) {
    out.add("[");
    for (std::size_t i = 0; i < many->items.size(); ++i) {
      if (i > 0) out.add(style.comma);
      new_line(levels + 1);
      write(machine, out, many->items[i], style, levels + 1);
    }
    if (!many->items.empty()) new_line(levels);
    out.add("]");
  } else if (const Dict* entries = dict(value)) {
    std::list<const std::pair<Value, Value>*> all;
    for (const auto& entry : entries->items) all.push_back(&entry);
    if (style.sorted) all.sort([&](const auto* a, const auto* b) { return order(machine, a->first, b->first) < 0; });
    out.add("{");
    bool first = true;
    for (const auto* entry : all) {
      if (!std::exchange(first, false)) out.add(style.comma);
      new_line(levels + 1);
      const Value& key = entry->first;
      if (text(key) != nullptr) {
        write(machine, out, key, style, 0);
      } else if (list(key) != nullptr) {
        machine.fail("keys of JSON are texts");
      } else {  // numbers and so on, as texts
        out.add("\"");
        write(machine, out, key, style, 0);
        out.add("\"");
      }
      out.add(style.colon);
      write(machine, out, entry->second, style, levels + 1);
    }
    if (!all.empty()) new_line(levels);
    out.add("}");
  } else {
    machine.fail(fmt::format("a {} has no JSON", type_name(value)));
  }
}

}  // namespace

void write_json(Machine& machine, Builder& out, const Value& value, const Value& indent, bool sorted, bool ascii,
                std::string_view comma, std::string_view colon) {
  JsonStyle style{std::nullopt, std::string(comma), std::string(colon), sorted, ascii};
  if (const auto blanks = integer(indent)) {
    if (*blanks > 1000) machine.fail("an indent is too wide");
    style.indent = std::string(static_cast<std::size_t>(std::max<std::int64_t>(*blanks, 0)), ' ');
  } else if (const Text* of = text(indent)) {
    style.indent = of->bytes();
  }
  write(machine, out, value, style, 0);
}

}  // namespace permllm::jinja
