#include "template/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace permllm::jinja {
namespace {

// Line ends are \n; one at the very end is left out.
std::string with_plain_line_ends(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
    out += source[i] == '\r' ? '\n' : source[i];
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c); }

class Lexer {
 public:
  Lexer(std::string_view source, const Limits& limits) : source_(with_plain_line_ends(source)), limits_(limits) {}

  std::vector<Token> run() {
    if (source_.size() > limits_.source)
      fail(fmt::format("the template has {} bytes, the limit is {}", source_.size(), limits_.source));
    while (at_ < source_.size()) root();
    add(Token::Type::end);
    return std::move(tokens_);
  }

 private:
  using Type = Token::Type;

  [[noreturn]] void fail(const std::string& why) const { refuse(Code::unsupported, line_, why); }
  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  bool is_at(std::string_view text) const { return rest().starts_with(text); }
  // Goes on behind so many bytes.
  void skip(std::size_t bytes) {
    line_ += static_cast<std::size_t>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                                 source_.begin() + static_cast<std::ptrdiff_t>(at_ + bytes), '\n'));
    at_ += bytes;
    if (at_ > 0) line_begins_ = source_[at_ - 1] == '\n';
  }
  std::size_t white(std::size_t from) const {
    std::size_t end = from;
    while (end < source_.size()) {
      const std::string_view at = std::string_view(source_).substr(end);
      const std::size_t size = character_size(at);
      if (!is_space(code_point(at.substr(0, size)))) break;
      end += size;
    }
    return end - from;
  }
  Token& add(Type type, std::string text = "") {
    if (tokens_.size() >= limits_.nodes)
      fail(fmt::format("the template is longer than {} words and signs", limits_.nodes));
    tokens_.push_back({type, line_, std::move(text)});
    return tokens_.back();
  }
  // Text before a tag, as the tag's sign and the place where the text begins leave it.
  void data(std::string_view text, char sign, bool is_output) {
    std::size_t keep = text.size();
    if (sign == '-') {
      keep = 0;
      for (std::size_t i = 0; i < text.size();) {
        const std::size_t size = character_size(text.substr(i));
        i += size;
        if (!is_space(code_point(text.substr(i - size, size)))) keep = i;
      }
    } else if (sign != '+' && !is_output) {
      const std::size_t line = text.rfind('\n') + 1;  // 0 where there is none
      if (line > 0 || line_begins_) {
        const std::size_t from = static_cast<std::size_t>(text.data() - source_.data()) + line;
        if (white(from) >= text.size() - line) keep = line;
      }
    }
    if (keep > 0) add(Type::data, std::string(text.substr(0, keep)));
    skip(text.size());
  }
  char sign_at(std::size_t at) const {
    return at < source_.size() && (source_[at] == '-' || source_[at] == '+') ? source_[at] : ' ';
  }

  // How long the end of a tag is, with what it swallows: "-%}" all white space behind it, "%}" a line end, "+%}" nothing. 0: none is here.
  std::size_t end_at(std::size_t at, std::string_view mark, bool plus, bool swallows) const {
    const std::string_view text = std::string_view(source_).substr(at);
    if (text.starts_with('-') && text.substr(1).starts_with(mark)) return 3 + white(at + 3);
    if (plus && text.starts_with('+') && text.substr(1).starts_with(mark)) return 3;
    if (!text.starts_with(mark)) return 0;
    return 2 + (swallows && text.substr(2).starts_with('\n') ? 1 : 0);
  }
  // "{% raw %}", from where its sign may stand: the length. 0: it is none.
  std::size_t raw_tag(std::size_t at, std::string_view word, bool is_end) const {
    const std::size_t begin = at;
    if (sign_at(at) != ' ') ++at;
    at += white(at);
    if (!std::string_view(source_).substr(at).starts_with(word)) return 0;
    at += word.size();
    at += white(at);
    const std::size_t end = end_at(at, "%}", is_end, is_end);
    return end == 0 ? 0 : at + end - begin;
  }

  void root() {
    std::size_t tag = at_;
    do {
      tag = source_.find('{', tag);
      if (tag == std::string::npos) {
        add(Type::data, std::string(rest()));
        return skip(source_.size() - at_);
      }
      ++tag;
    } while (tag >= source_.size() || (source_[tag] != '{' && source_[tag] != '%' && source_[tag] != '#'));
    const char kind = source_[tag];
    const char sign = sign_at(tag + 1);
    data(std::string_view(source_).substr(at_, tag - 1 - at_), sign, kind == '{');
    const std::size_t raw = kind == '%' ? raw_tag(tag + 1, "raw", false) : 0;
    if (raw > 0) {
      skip(2 + raw);
      return raw_block();
    }
    skip(sign == ' ' ? 2 : 3);
    if (kind == '#') return comment();
    add(kind == '{' ? Type::output_begin : Type::block_begin);
    inside(kind == '{');
  }

  void raw_block() {
    for (std::size_t end = source_.find("{%", at_); end != std::string::npos; end = source_.find("{%", end + 2)) {
      const std::size_t tag = raw_tag(end + 2, "endraw", true);
      if (tag == 0) continue;
      data(std::string_view(source_).substr(at_, end - at_), sign_at(end + 2), false);
      return skip(2 + tag);
    }
    fail("{% raw %} has no end");
  }

  void comment() {
    // "(.*?)" is lazy: the first place at which any end stands, its sign among it.
    for (std::size_t end = source_.find("#}", at_); end != std::string::npos;) {
      const bool sign = end > at_ && (source_[end - 1] == '-' || source_[end - 1] == '+');
      const std::size_t begin = sign ? end - 1 : end;
      return skip(begin - at_ + end_at(begin, "#}", true, true));
    }
    fail("{# has no end");
  }

  // Between the marks of a tag.
  void inside(bool is_output) {
    std::string open;
    while (true) {
      if (open.empty()) {
        if (const std::size_t end = is_output ? end_at(at_, "}}", false, false) : end_at(at_, "%}", true, true);
            end > 0) {
          add(is_output ? Type::output_end : Type::block_end);
          return skip(end);
        }
      }
      if (at_ >= source_.size()) {
        fail("a tag has no end");
      } else if (const std::size_t blank = white(at_); blank > 0) {
        skip(blank);
      } else if (is_digit(source_[at_])) {
        number();
      } else if (is_name(source_[at_])) {
        std::size_t size = 1;
        while (at_ + size < source_.size() && is_name(source_[at_ + size])) ++size;
        add(Type::name, std::string(rest().substr(0, size)));
        skip(size);
      } else if (source_[at_] == '\'' || source_[at_] == '"') {
        string();
      } else {
        sign(open);
      }
    }
  }

  void sign(std::string& open) {
    for (const std::string_view two : {"//", "**", "==", "!=", ">=", "<="}) {
      if (is_at(two)) {
        add(Type::sign, std::string(two));
        return skip(2);
      }
    }
    constexpr std::string_view signs = "+-/*%~[](){}><=.:|,;";
    const char c = source_[at_];
    if (signs.find(c) == std::string_view::npos) fail("a character stands where none is expected");
    if (c == '(' || c == '[' || c == '{') {
      open += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c) fail(fmt::format("\"{}\" closes nothing", c));
      open.pop_back();
    }
    add(Type::sign, std::string(1, c));
    skip(1);
  }

  // Digits with single underscores between them, without these; "" where none stand.
  std::size_t digits(std::size_t from, std::string& out) const {
    std::size_t at = from;
    while (at < source_.size() &&
           (is_digit(source_[at]) || (at > from && source_[at] == '_' && is_digit(source_[at - 1]) &&
                                      at + 1 < source_.size() && is_digit(source_[at + 1])))) {
      if (source_[at] != '_') out += source_[at];
      ++at;
    }
    return at - from;
  }

  void number() {
    const auto at = [&](std::size_t i) { return at_ + i < source_.size() ? source_[at_ + i] : '\0'; };
    std::string text;
    std::size_t size = digits(at_, text);
    bool real = false;
    if (at_ == 0 || source_[at_ - 1] != '.') {
      if (at(size) == '.' && is_digit(at(size + 1))) {
        text += '.';
        size += 1 + digits(at_ + size + 1, text);
        real = true;
      }
      if (at(size) == 'e' || at(size) == 'E') {
        const bool sign = at(size + 1) == '+' || at(size + 1) == '-';
        if (is_digit(at(size + (sign ? 2 : 1)))) {
          text += 'e';
          if (at(size + 1) == '-') text += '-';
          size += sign ? 2 : 1;
          size += digits(at_ + size, text);
          real = true;
        }
      }
    }
    int base = 10;
    if (!real && at(0) == '0') {
      const char kind = static_cast<char>(at(1) | 0x20);
      base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
      if (base != 10) {
        text.clear();
        size = 2;
        while (is_name(at(size))) {
          if (at(size) != '_') text += at(size);
          ++size;
        }
      } else if (text.find_first_not_of('0') != std::string::npos) {
        fail("a number begins with 0");
      }
    }
    const char *begin = text.data(), *end = begin + text.size();
    Token& token = add(real ? Type::real : Type::integer);
    const auto [stop, error] =
        real ? std::from_chars(begin, end, token.real) : std::from_chars(begin, end, token.integer, base);
    if (error != std::errc() || stop != end || text.empty()) fail("a number is not supported");
    skip(size);
  }

  // As Python reads a literal's escapes.
  void string() {
    const char quote = source_[at_];
    const std::size_t line = line_;
    std::string out;
    std::size_t at = at_ + 1;
    const auto code = [&](std::size_t most, bool exactly, std::string_view digits) {
      char32_t value = 0;
      std::size_t n = 0;
      for (; n < most && at < source_.size(); ++n, ++at) {
        const std::size_t digit =
            digits.find(static_cast<char>(source_[at] >= 'A' && source_[at] <= 'F' ? source_[at] | 0x20 : source_[at]));
        if (digit == std::string_view::npos) break;
        value = value * static_cast<char32_t>(digits.size()) + static_cast<char32_t>(digit);
      }
      if (exactly && n < most) fail("an escape in a string has too few digits");
      if (value > 0x10ffff || (value >= 0xd800 && value < 0xe000)) fail("an escape in a string is no character");
      out += utf8(value);
    };
    constexpr std::string_view hex = "0123456789abcdef", octal = "01234567";
    while (true) {
      if (at >= source_.size()) fail("a string has no end");
      const char c = source_[at++];
      if (c == quote) break;
      if (c != '\\') {
        out += c;
        continue;
      }
      if (at >= source_.size()) fail("a string has no end");
      const char escape = source_[at++];
      constexpr std::string_view names = "\\'\"abfnrtv", values = "\\'\"\a\b\f\n\r\t\v";
      if (const std::size_t known = names.find(escape); known != std::string_view::npos) {
        out += values[known];
      } else if (escape == 'x') {
        code(2, true, hex);
      } else if (escape == 'u') {
        code(4, true, hex);
      } else if (escape == 'U') {
        code(8, true, hex);
      } else if (escape >= '0' && escape <= '7') {
        --at;
        code(3, false, octal);
      } else if (escape == 'N') {
        fail("names of characters in strings are not supported");
      } else if (escape != '\n') {
        out += '\\';
        out += escape;
      }
    }
    skip(at - at_);
    add(Type::string, std::move(out)).line = line;
  }

  const std::string source_;
  const Limits& limits_;
  std::size_t at_ = 0, line_ = 1;
  bool line_begins_ = true;  // what was read last ended a line
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> lex(std::string_view source, const Limits& limits) { return Lexer(source, limits).run(); }

}  // namespace permllm::jinja
