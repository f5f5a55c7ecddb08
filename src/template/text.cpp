#include "template/text.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <memory>

#include "permllm/error.h"

namespace permllm::jinja {
namespace {

using Pattern = std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)>;
using Match = std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)>;

constexpr char32_t k_no_character = 0x110000;

PCRE2_SPTR pcre(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

Pattern compile(std::string_view pattern) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  Pattern code(
      pcre2_compile(pcre(pattern), pattern.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_DOTALL, &error, &offset, nullptr),
      pcre2_code_free);
  PERMLLM_ASSERT(code != nullptr);
  return code;
}

// One character beyond ASCII in the other case, by PCRE2's tables of Unicode.
std::string other_case(std::string_view character, std::string_view to) {
  static const Pattern any = compile(".");
  std::array<char, 32> out;
  PCRE2_SIZE size = out.size();
  const int made =
      pcre2_substitute(any.get(), pcre(character), character.size(), 0, PCRE2_SUBSTITUTE_EXTENDED | PCRE2_NO_UTF_CHECK,
                       nullptr, nullptr, pcre(to), to.size(), reinterpret_cast<PCRE2_UCHAR*>(out.data()), &size);
  return made == 1 ? std::string(out.data(), size) : std::string(character);
}

template <class Ascii>
std::string changed(std::string_view text, std::string_view to, Ascii ascii) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view character = text.substr(at, character_size(text.substr(at)));
    const char32_t code = code_point(character);
    if (code < 0x80) {
      out += ascii(character[0]);
    } else if (code == k_no_character) {
      out += character;
    } else if (code == 0xdf && to == "\\U$0") {
      out += "SS";
    } else {
      out += other_case(character, to);
    }
    at += character.size();
  }
  return out;
}

}  // namespace

std::size_t Text::run_at(std::size_t place) const {
  return static_cast<std::size_t>(
      std::partition_point(runs_.begin(), runs_.end(), [&](const Run& run) { return run.end <= place; }) -
      runs_.begin());
}

bool Text::contents_at(std::size_t place) const {
  const std::size_t run = run_at(place);
  return run < runs_.size() && runs_[run].contents;
}

void Text::add(std::string_view bytes, bool contents) {
  if (bytes.empty()) return;
  bytes_ += bytes;
  if (!runs_.empty() && runs_.back().contents == contents) {
    runs_.back().end = bytes_.size();
  } else {
    runs_.push_back({bytes_.size(), contents});
  }
}

void Text::add(const Text& text, std::size_t begin, std::size_t end) {
  text.each_run([&](std::string_view bytes, bool contents) { add(bytes, contents); }, begin, end);
}

std::size_t character_size(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0xc2 || first > 0xf4) return 1;
  const std::size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (size > text.size()) return 1;
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 1;
  }
  const bool overlong = (first == 0xe0 && byte(1) < 0xa0) || (first == 0xf0 && byte(1) < 0x90);
  const bool beyond = (first == 0xed && byte(1) >= 0xa0) || (first == 0xf4 && byte(1) >= 0x90);
  return overlong || beyond ? 1 : size;
}

std::size_t count_characters(std::string_view text) {
  std::size_t count = 0;
  for (std::size_t at = 0; at < text.size(); at += character_size(text.substr(at))) ++count;
  return count;
}

std::size_t character_before(std::string_view text, std::size_t place) {
  for (std::size_t size = std::min<std::size_t>(4, place); size > 1; --size) {
    if (character_size(text.substr(place - size, size)) == size) return place - size;
  }
  return place - 1;
}

std::size_t place_of_character(std::string_view text, std::size_t number) {
  std::size_t at = 0;
  for (; number > 0 && at < text.size(); --number) at += character_size(text.substr(at));
  return at;
}

char32_t code_point(std::string_view character) {
  const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(character[i])); };
  switch (character.size()) {
    case 1:
      return byte(0) < 0x80 ? byte(0) : k_no_character;
    case 2:
      return (byte(0) & 0x1f) << 6 | (byte(1) & 0x3f);
    case 3:
      return (byte(0) & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f);
    default:
      return (byte(0) & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f);
  }
}

std::string utf8(char32_t code) {
  const auto byte = [](char32_t bits) { return static_cast<char>(static_cast<unsigned char>(bits)); };
  if (code < 0x80) return {byte(code)};
  if (code < 0x800) return {byte(0xc0 | code >> 6), byte(0x80 | (code & 0x3f))};
  if (code < 0x10000) return {byte(0xe0 | code >> 12), byte(0x80 | (code >> 6 & 0x3f)), byte(0x80 | (code & 0x3f))};
  return {byte(0xf0 | code >> 18), byte(0x80 | (code >> 12 & 0x3f)), byte(0x80 | (code >> 6 & 0x3f)),
          byte(0x80 | (code & 0x3f))};
}

bool is_space(char32_t code) {
  return (code >= 9 && code <= 13) || (code >= 28 && code <= 32) || code == 0x85 || code == 0xa0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f ||
         code == 0x3000;
}

bool is_line_end(char32_t code) {
  return (code >= 10 && code <= 13) || (code >= 28 && code <= 30) || code == 0x85 || code == 0x2028 || code == 0x2029;
}

bool is_printable(char32_t code) {
  if (code < 0x7f) return code >= 0x20;
  static const Pattern other = compile("[\\p{C}\\p{Z}]");
  if (code == k_no_character) return false;
  const Match match(pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  const std::string character = utf8(code);
  return pcre2_match(other.get(), pcre(character), character.size(), 0, PCRE2_NO_UTF_CHECK, match.get(), nullptr) < 0;
}

std::string upper(std::string_view text) {
  return changed(text, "\\U$0", [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; });
}

std::string lower(std::string_view text) {
  return changed(text, "\\L$0", [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
}

bool is(CharacterKind kind, std::string_view character) {
  static const std::array<Pattern, 5> patterns{compile("\\p{L}"), compile("\\p{Nd}"), compile("\\p{N}"),
                                               compile("[\\p{Lu}\\p{Lt}]"), compile("\\p{Ll}")};
  const char32_t code = code_point(character);
  if (code < 0x80) {
    const bool up = code >= 'A' && code <= 'Z', low = code >= 'a' && code <= 'z', digit = code >= '0' && code <= '9';
    return kind == CharacterKind::letter        ? up || low
           : kind == CharacterKind::cased_upper ? up
           : kind == CharacterKind::cased_lower ? low
                                                : digit;
  }
  if (code == k_no_character) return false;
  const Match match(pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  return pcre2_match(patterns[static_cast<std::size_t>(kind)].get(), pcre(character), character.size(), 0,
                     PCRE2_NO_UTF_CHECK, match.get(), nullptr) >= 0;
}

}  // namespace permllm::jinja
