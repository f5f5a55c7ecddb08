// What methods and filters do with text.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "template/functions.h"
#include "template/operations.h"

namespace permllm::jinja {

std::int64_t integer_or(Machine& machine, const Value* value, std::int64_t otherwise) {
  if (value == nullptr || std::holds_alternative<None>(*value)) return otherwise;
  const auto whole = integer(*value);
  if (!whole) machine.fail("expected a whole number");
  return *whole;
}

bool truth_or(Machine& machine, const Value* value, bool otherwise) {
  return value == nullptr ? otherwise : truth(machine, *value);
}

TextPointer text_of(Machine& machine, const Value& value) {
  if (const auto* undefined = std::get_if<Undefined>(&value)) fail_undefined(machine, *undefined);
  const auto* text = std::get_if<TextPointer>(&value);
  if (text == nullptr) machine.fail(fmt::format("expected a text, got a {}", type_name(value)));
  return *text;
}

std::size_t find_text(Machine& machine, std::string_view text, std::string_view part, std::size_t from) {
  if (from > text.size()) return Text::npos;
  if (part.empty()) return from;
  // memmem takes time for the sum of both, not their product.
  const void* found = memmem(text.data() + from, text.size() - from, part.data(), part.size());
  const std::size_t at =
      found == nullptr ? Text::npos : static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
  machine.handle((found == nullptr ? text.size() : at) - from + part.size());
  return at;
}

Value strip(Machine& machine, const Text& text, const Value* characters, bool left, bool right) {
  const std::string_view bytes = text.bytes();
  std::optional<std::string> set;
  if (characters != nullptr && !std::holds_alternative<None>(*characters)) set = text_of(machine, *characters)->bytes();
  const auto goes = [&](std::string_view character) {
    if (!set) return is_space(code_point(character));
    machine.handle(set->size());
    for (std::size_t at = 0; at < set->size();) {
      const std::size_t size = character_size(std::string_view(*set).substr(at));
      if (std::string_view(*set).substr(at, size) == character) return true;
      at += size;
    }
    return false;
  };
  std::size_t begin = 0, end = bytes.size();
  while (left && begin < end) {
    const std::size_t size = character_size(bytes.substr(begin));
    if (!goes(bytes.substr(begin, size))) break;
    begin += size;
  }
  while (right && end > begin) {
    const std::size_t last = character_before(bytes, end);
    if (!goes(bytes.substr(last, end - last))) break;
    end = last;
  }
  return machine.text(text, begin, end);
}

Value replace(Machine& machine, const Text& text, const Text& old, const Text& by, std::int64_t count) {
  Builder out(machine);
  if (!old.empty()) {
    std::size_t at = 0;
    for (; count != 0; --count) {
      const std::size_t found = find_text(machine, text.bytes(), old.bytes(), at);
      if (found == Text::npos) break;
      out.add(text, at, found);
      out.add(by);
      at = found + old.size();
    }
    out.add(text, at);
    return out.take();
  }
  std::size_t at = 0;
  while (count != 0) {  // between all characters
    out.add(by);
    --count;
    if (at >= text.size()) break;
    const std::size_t size = character_size(std::string_view(text.bytes()).substr(at));
    out.add(text, at, at + size);
    at += size;
  }
  out.add(text, at);
  return out.take();
}

Value join(Machine& machine, const Text& separator, const Values& items, bool any) {
  Builder out(machine);
  for (std::size_t i = 0; i < items.size(); ++i) {
    machine.step();
    if (i > 0) out.add(separator);
    if (!any && !std::holds_alternative<TextPointer>(items[i])) machine.fail("what is joined is no text");
    print(machine, out, items[i]);
  }
  return out.take();
}

Value with_case(Machine& machine, const Text& text, std::string (*change)(std::string_view)) {
  machine.handle(16 * text.size());
  Builder out(machine);
  text.each_run([&](std::string_view bytes, bool contents) { out.add(change(bytes), contents); });
  return out.take();
}

Value capitalized(Machine& machine, const Text& text) {
  machine.handle(16 * text.size());
  Builder out(machine);
  const std::size_t first = text.empty() ? 0 : character_size(text.bytes());
  text.each_run([&](std::string_view bytes, bool contents) { out.add(upper(bytes), contents); }, 0, first);
  text.each_run([&](std::string_view bytes, bool contents) { out.add(lower(bytes), contents); }, first);
  return out.take();
}

Value padded(Machine& machine, const Text& text, std::int64_t width, std::string_view how, const Text& fill) {
  if (count_characters(fill.bytes()) != 1) machine.fail("what is filled with is not one character");
  machine.handle(text.size());
  const auto size = static_cast<std::int64_t>(count_characters(text.bytes()));
  const std::int64_t missing = std::max(width, size) - size;
  // As CPython centers: the odd one goes left where the width is odd.
  const std::int64_t left = how == "ljust" ? 0 : how == "rjust" ? missing : missing / 2 + (missing & width & 1);
  Builder out(machine);
  for (std::int64_t i = 0; i < left; ++i) out.add(fill);
  out.add(text);
  for (std::int64_t i = left; i < missing; ++i) out.add(fill);
  return out.take();
}

Values lines_of(Machine& machine, const Text& text, bool keep_ends) {
  const std::string_view bytes = text.bytes();
  machine.handle(bytes.size());
  Values lines;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t size = character_size(bytes.substr(at));
    std::size_t next = at + size;
    if (is_line_end(code_point(bytes.substr(at, size)))) {
      if (bytes[at] == '\r' && next < bytes.size() && bytes[next] == '\n') ++next;
      lines.push_back(machine.text(text, begin, keep_ends ? next : at));
      begin = next;
    }
    at = next;
  }
  if (begin < bytes.size()) lines.push_back(machine.text(text, begin));
  return lines;
}

Value reversed(Machine& machine, const Text& text) {
  Builder out(machine);
  for (std::size_t end = text.size(); end > 0;) {
    const std::size_t begin = character_before(text.bytes(), end);
    out.add(text, begin, end);
    end = begin;
  }
  return out.take();
}

Value percent_format(Machine& machine, const Text& format, const Value& values) {
  const auto* tuple = std::get_if<ListPointer>(&values);
  const bool many = tuple != nullptr && (*tuple)->kind == List::Kind::tuple;
  const auto* dict = std::get_if<DictPointer>(&values);
  const std::string_view bytes = format.bytes();
  std::size_t next = 0;
  Builder out(machine);
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t sign = std::min(bytes.find('%', at), bytes.size());
    out.add(format, at, sign);
    at = sign + 1;
    if (sign == bytes.size()) break;
    const Value* value = nullptr;
    if (at < bytes.size() && bytes[at] == '(') {
      const std::size_t end = bytes.find(')', at);
      if (dict == nullptr || end == std::string_view::npos) machine.fail("a format names what it is not given");
      value = find(machine, **dict, text_value(bytes.substr(at + 1, end - at - 1), false));
      if (value == nullptr) machine.fail("a format names what it is not given");
      at = end + 1;
    }
    std::int64_t digits = -1;
    if (at + 1 < bytes.size() && bytes[at] == '.' && bytes[at + 1] >= '0' && bytes[at + 1] <= '9') {
      digits = bytes[at + 1] - '0';
      at += 2;
    }
    const char kind = at < bytes.size() ? bytes[at] : '\0';
    ++at;
    if (kind == '%') {
      out.add("%");
      continue;
    }
    if (value == nullptr) {
      if (many ? next >= (*tuple)->items.size() : next > 0) machine.fail("a format is given too few values");
      value = many ? &(*tuple)->items[next] : &values;
      ++next;
    }
    if (kind == 's' && digits < 0) {
      print(machine, out, *value);
    } else if (kind == 'r' && digits < 0) {
      represent(machine, out, *value);
    } else if ((kind == 'd' || kind == 'i') && digits < 0 && integer(*value)) {
      out.add(std::to_string(*integer(*value)));
    } else if (kind == 'f' && number(*value) && std::isfinite(*number(*value))) {
      out.add(fmt::format("{:.{}f}", *number(*value), digits < 0 ? 6 : digits));
    } else {
      machine.fail("a format has an instruction that is not supported, or a value that does not fit it");
    }
  }
  const std::size_t given = many ? (*tuple)->items.size() : dict != nullptr || tuple != nullptr ? next : 1;
  if (next < given) machine.fail("a format is given too many values");
  return out.take();
}

}  // namespace permllm::jinja
