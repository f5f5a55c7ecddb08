#include "base/text.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

namespace permllm {
namespace {

constexpr std::string_view k_replacement = "\xef\xbf\xbd";  // U+FFFD

// The character that valid UTF-8 begins with.
struct Character {
  char32_t code = 0;
  std::size_t bytes = 0;
};
Character first_of(std::string_view text) {
  const auto byte = static_cast<unsigned char>(text[0]);
  const std::size_t bytes = byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
  char32_t code = bytes == 1 ? byte : byte & (0x7fu >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) code = code << 6 | (static_cast<unsigned char>(text[i]) & 0x3fu);
  return {code, bytes};
}

bool draws(char32_t code) {
  struct Range {
    char32_t first, last;
  };
  // Controls; then the marks of the bidirectional algorithm (UAX 9).
  constexpr Range k_ranges[] = {{0, 0x1f},        {0x7f, 0x9f},     {0x61c, 0x61c},
                                {0x200e, 0x200f}, {0x202a, 0x202e}, {0x2066, 0x2069}};
  return std::any_of(std::begin(k_ranges), std::end(k_ranges),
                     [&](const Range& range) { return code >= range.first && code <= range.last; });
}

// Of valid UTF-8.
std::string shown(std::string_view text, bool lines) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const Character character = first_of(text.substr(at));
    if (!draws(character.code) || (lines && (character.code == '\n' || character.code == '\t'))) {
      out += text.substr(at, character.bytes);
    } else if (!lines || character.code != '\r') {
      out += k_replacement;
    }
    at += character.bytes;
  }
  return out;
}

template <class Json>
std::string ascii_line(const Json& json) {
  return json.dump(-1, ' ', true, Json::error_handler_t::replace);
}

}  // namespace

std::string Utf8Stream::push(std::string_view bytes) {
  pending_ += bytes;
  // An incomplete character at the end is at most three bytes long.
  std::size_t end = pending_.size();
  for (std::size_t back = 1; back <= 3 && back <= pending_.size(); ++back) {
    const auto byte = static_cast<unsigned char>(pending_[pending_.size() - back]);
    if ((byte & 0xc0) == 0x80) continue;
    const std::size_t length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    if (length > back) end = pending_.size() - back;
    break;
  }
  std::string whole = valid_utf8(std::string_view(pending_).substr(0, end));
  pending_.erase(0, end);
  return whole;
}

std::string Utf8Stream::finish() {
  std::string rest = valid_utf8(pending_);
  pending_.clear();
  return rest;
}

std::string valid_utf8(std::string_view bytes) {
  std::string out;
  for (std::size_t i = 0; i < bytes.size();) {
    const auto first = static_cast<unsigned char>(bytes[i]);
    const std::size_t length = first < 0x80   ? 1
                               : first < 0xc2 ? 0
                               : first < 0xe0 ? 2
                               : first < 0xf0 ? 3
                               : first < 0xf5 ? 4
                                              : 0;
    bool valid = length > 0 && i + length <= bytes.size();
    for (std::size_t k = 1; valid && k < length; ++k) valid = (static_cast<unsigned char>(bytes[i + k]) & 0xc0) == 0x80;
    if (valid && length > 2) {
      // No overlong forms, no surrogates, nothing above U+10FFFF.
      const auto second = static_cast<unsigned char>(bytes[i + 1]);
      valid = !(first == 0xe0 && second < 0xa0) && !(first == 0xed && second > 0x9f) &&
              !(first == 0xf0 && second < 0x90) && !(first == 0xf4 && second > 0x8f);
    }
    if (valid) {
      out += bytes.substr(i, length);
      i += length;
    } else {
      out += k_replacement;
      ++i;
    }
  }
  return out;
}

std::string for_terminal(std::string_view text) { return shown(valid_utf8(text), false); }

std::string TerminalText::push(std::string_view bytes) { return shown(characters_.push(bytes), true); }
std::string TerminalText::finish() { return shown(characters_.finish(), true); }

std::string to_json_line(const nlohmann::json& json) { return ascii_line(json); }
std::string to_json_line(const nlohmann::ordered_json& json) { return ascii_line(json); }

}  // namespace permllm
