// Inside the parser: expressions, from the loosest operator to the tightest.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "template/lexer.h"
#include "template/syntax.h"

namespace permllm::jinja {

class ExpressionParser {
 protected:
  ExpressionParser(std::string_view source, const Limits& limits) : limits_(limits), tokens_(lex(source, limits)) {}

  using Type = Token::Type;

  // Tokens.
  const Token& now() const { return tokens_[at_]; }
  const Token& after() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  const Token& take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  static bool is(const Token& token, Type type, std::string_view text) {
    return token.type == type && token.text == text;
  }
  bool at_name(std::string_view name) const { return is(now(), Type::name, name); }
  bool at_sign(std::string_view sign) const { return is(now(), Type::sign, sign); }
  bool skip_name(std::string_view name) { return at_name(name) && (take(), true); }
  bool skip_sign(std::string_view sign) { return at_sign(sign) && (take(), true); }
  [[noreturn]] void fail(const std::string& why) const { refuse(Code::unsupported, now().line, why); }
  static std::string shown(const Token& token) {
    switch (token.type) {
      case Type::name:
      case Type::sign:
        return fmt::format("\"{:.40}\"", token.text);
      case Type::string:
        return "a string";
      case Type::integer:
      case Type::real:
        return "a number";
      case Type::end:
        return "the template's end";
      default:
        return "the end of the tag";
    }
  }
  [[noreturn]] void unexpected(const char* expected) const {
    fail(fmt::format("expected {}, got {}", expected, shown(now())));
  }
  void expect_sign(const char* sign) {
    if (!skip_sign(sign)) unexpected(fmt::format("\"{}\"", sign).c_str());
  }
  std::string expect_name() {
    if (now().type != Type::name) unexpected("a name");
    return take().text;
  }
  void expect(Type type, const char* what) {
    if (now().type != type) unexpected(what);
    take();
  }

  // A level of what is written in each other.
  class Level {
   public:
    explicit Level(ExpressionParser& parser) : parser_(parser) {
      if (++parser.nesting_ > parser.limits_.nesting) parser.fail("is nested deeper than a template may");
    }
    ~Level() { --parser_.nesting_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    ExpressionParser& parser_;
  };

  // The tree's own depth, which long chains ("a + b + c") have without nesting, is bounded too: it is walked by recursion.
  template <class... Parts>
  ExpressionPointer make(Expression::Kind kind, std::size_t line, std::string text, Parts... parts) {
    std::vector<ExpressionPointer> all;
    (all.push_back(std::move(parts)), ...);
    return make_of(kind, line, std::move(text), std::move(all));
  }
  ExpressionPointer make_of(Expression::Kind kind, std::size_t line, std::string text,
                            std::vector<ExpressionPointer> parts, std::vector<std::string> names = {}) {
    auto made = std::make_unique<Expression>();
    made->kind = kind;
    made->line = line;
    made->text = std::move(text);
    for (const ExpressionPointer& part : parts) made->depth = std::max(made->depth, part->depth + 1);
    if (made->depth > limits_.depth) fail("is nested deeper than a template may");
    made->parts = std::move(parts);
    made->names = std::move(names);
    return made;
  }
  ExpressionPointer constant(std::size_t line, Value value) {
    auto made = std::make_unique<Expression>();
    made->kind = Expression::Kind::constant;
    made->line = line;
    made->constant = std::move(value);
    return made;
  }
  ExpressionPointer absent() { return make(Expression::Kind::absent, now().line, ""); }

  // Expressions, the loosest first.
  ExpressionPointer expression(bool with_condition = true) {
    const Level level(*this);
    ExpressionPointer left = disjunction();
    while (with_condition && at_name("if")) {
      const std::size_t line = take().line;
      ExpressionPointer condition = disjunction();
      ExpressionPointer otherwise = skip_name("else") ? expression() : absent();
      left = make(Expression::Kind::conditional, line, "", std::move(left), std::move(condition), std::move(otherwise));
    }
    return left;
  }
  ExpressionPointer disjunction() {
    ExpressionPointer left = conjunction();
    while (at_name("or")) {
      const std::size_t line = take().line;
      left = make(Expression::Kind::logical_or, line, "", std::move(left), conjunction());
    }
    return left;
  }
  ExpressionPointer conjunction() {
    ExpressionPointer left = negation();
    while (at_name("and")) {
      const std::size_t line = take().line;
      left = make(Expression::Kind::logical_and, line, "", std::move(left), negation());
    }
    return left;
  }
  ExpressionPointer negation() {
    const Level level(*this);
    if (!at_name("not")) return comparison();
    const std::size_t line = take().line;
    return make(Expression::Kind::logical_not, line, "", negation());
  }
  ExpressionPointer comparison() {
    const std::size_t line = now().line;
    std::vector<ExpressionPointer> parts;
    std::vector<std::string> signs;
    parts.push_back(sum());
    while (true) {
      const bool sign = now().type == Type::sign && (now().text == "==" || now().text == "!=" || now().text == "<" ||
                                                     now().text == "<=" || now().text == ">" || now().text == ">=");
      if (sign || at_name("in")) {
        signs.push_back(take().text);
      } else if (at_name("not") && is(after(), Type::name, "in")) {
        take();
        take();
        signs.push_back("not in");
      } else {
        break;
      }
      parts.push_back(sum());
    }
    if (signs.empty()) return std::move(parts[0]);
    return make_of(Expression::Kind::comparison, line, "", std::move(parts), std::move(signs));
  }
  ExpressionPointer sum() {
    ExpressionPointer left = concatenation();
    while (at_sign("+") || at_sign("-")) {
      const Token& sign = take();
      left = make(Expression::Kind::arithmetic, sign.line, sign.text, std::move(left), concatenation());
    }
    return left;
  }
  ExpressionPointer concatenation() {
    const std::size_t line = now().line;
    std::vector<ExpressionPointer> parts;
    parts.push_back(product());
    while (skip_sign("~")) parts.push_back(product());
    if (parts.size() == 1) return std::move(parts[0]);
    return make_of(Expression::Kind::concatenation, line, "", std::move(parts));
  }
  ExpressionPointer product() {
    ExpressionPointer left = power();
    while (at_sign("*") || at_sign("/") || at_sign("//") || at_sign("%")) {
      const Token& sign = take();
      left = make(Expression::Kind::arithmetic, sign.line, sign.text, std::move(left), power());
    }
    return left;
  }
  ExpressionPointer power() {
    ExpressionPointer left = unary();
    while (at_sign("**")) {
      const Token& sign = take();
      left = make(Expression::Kind::arithmetic, sign.line, sign.text, std::move(left), unary());
    }
    return left;
  }
  ExpressionPointer unary(bool with_filters = true) {
    const Level level(*this);
    ExpressionPointer node;
    if (at_sign("-") || at_sign("+")) {
      const Token& sign = take();
      node =
          make(sign.text == "-" ? Expression::Kind::negative : Expression::Kind::positive, sign.line, "", unary(false));
    } else {
      node = primary();
    }
    node = postfix(std::move(node));
    return with_filters ? filters_and_tests(std::move(node)) : std::move(node);
  }

  ExpressionPointer primary() {
    const Level level(*this);
    const Token& token = now();
    switch (token.type) {
      case Type::name:
        take();
        if (token.text == "true" || token.text == "True") return constant(token.line, true);
        if (token.text == "false" || token.text == "False") return constant(token.line, false);
        if (token.text == "none" || token.text == "None") return constant(token.line, None{});
        if (token.text == "self" || token.text == "lipsum")  // of Jinja2: undefined would be another answer
          fail(fmt::format("the variable \"{}\" is not supported", token.text));
        names_.insert(token.text);
        return make(Expression::Kind::name, token.line, token.text);
      case Type::string: {
        std::string text;
        while (now().type == Type::string) text += take().text;
        return constant(token.line, text_value(text, false));
      }
      case Type::integer:
        take();
        return constant(token.line, token.integer);
      case Type::real:
        take();
        return constant(token.line, token.real);
      case Type::sign:
        if (token.text == "(") {
          take();
          ExpressionPointer inner = tuple(Tuple::in_parentheses);
          expect_sign(")");
          return inner;
        }
        if (token.text == "[") return list();
        if (token.text == "{") return dict();
        unexpected("an expression");
      default:
        unexpected("an expression");
    }
  }

  enum class Tuple { plain, without_condition, in_parentheses, target };
  bool at_tuple_end(Tuple how) const {
    return now().type == Type::output_end || now().type == Type::block_end || now().type == Type::end || at_sign(")") ||
           (how == Tuple::target && at_name("in"));
  }
  // One expression, or a tuple of those that commas divide.
  ExpressionPointer tuple(Tuple how) {
    const std::size_t line = now().line;
    std::vector<ExpressionPointer> parts;
    bool comma = false;
    while (true) {
      if (!parts.empty()) {
        expect_sign(",");
      }
      if (at_tuple_end(how)) break;
      parts.push_back(how == Tuple::target ? primary() : expression(how != Tuple::without_condition));
      if (!at_sign(",")) break;
      comma = true;
    }
    if (!comma) {
      if (!parts.empty()) return std::move(parts[0]);
      if (how != Tuple::in_parentheses) unexpected("an expression");
    }
    return make_of(Expression::Kind::tuple, line, "", std::move(parts));
  }
  ExpressionPointer list() {
    const std::size_t line = take().line;
    std::vector<ExpressionPointer> parts;
    while (!at_sign("]")) {
      if (!parts.empty()) expect_sign(",");
      if (at_sign("]")) break;
      parts.push_back(expression());
    }
    take();
    return make_of(Expression::Kind::list, line, "", std::move(parts));
  }
  ExpressionPointer dict() {
    const std::size_t line = take().line;
    std::vector<ExpressionPointer> parts;
    while (!at_sign("}")) {
      if (!parts.empty()) expect_sign(",");
      if (at_sign("}")) break;
      parts.push_back(expression());
      expect_sign(":");
      parts.push_back(expression());
    }
    take();
    return make_of(Expression::Kind::dict, line, "", std::move(parts));
  }

  ExpressionPointer postfix(ExpressionPointer node) {
    while (true) {
      if (at_sign(".") || at_sign("[")) {
        node = subscript(std::move(node));
      } else if (at_sign("(")) {
        node = call(std::move(node));
      } else {
        return node;
      }
    }
  }
  ExpressionPointer filters_and_tests(ExpressionPointer node) {
    while (true) {
      if (at_sign("|")) {
        node = filters(std::move(node));
      } else if (at_name("is")) {
        node = test(std::move(node));
      } else if (at_sign("(")) {
        node = call(std::move(node));
      } else {
        return node;
      }
    }
  }
  ExpressionPointer subscript(ExpressionPointer node) {
    const std::size_t line = now().line;
    if (take().text == ".") {
      const Token& name = take();
      if (name.type == Type::name) return make(Expression::Kind::attribute, line, name.text, std::move(node));
      if (name.type != Type::integer) unexpected("a name or a number");
      return make(Expression::Kind::item, line, "", std::move(node), constant(line, name.integer));
    }
    std::vector<ExpressionPointer> parts;
    while (!at_sign("]")) {
      if (!parts.empty()) expect_sign(",");
      parts.push_back(subscribed());
    }
    take();
    ExpressionPointer which =
        parts.size() == 1 ? std::move(parts[0]) : make_of(Expression::Kind::tuple, line, "", std::move(parts));
    return make(Expression::Kind::item, line, "", std::move(node), std::move(which));
  }
  ExpressionPointer subscribed() {
    const std::size_t line = now().line;
    const auto at_end = [&] { return at_sign("]") || at_sign(",") || at_sign(":"); };
    ExpressionPointer begin = at_sign(":") ? absent() : expression();
    if (!skip_sign(":")) return begin;
    ExpressionPointer end = at_end() ? absent() : expression();
    ExpressionPointer step = skip_sign(":") && !at_end() ? expression() : absent();
    return make(Expression::Kind::slice, line, "", std::move(begin), std::move(end), std::move(step));
  }
  // Behind the "(": values, then named ones.
  void arguments(std::vector<ExpressionPointer>& parts, std::vector<std::string>& names) {
    bool first = true;
    expect_sign("(");
    while (!at_sign(")")) {
      if (!first) expect_sign(",");
      if (at_sign(")")) break;
      first = false;
      if (at_sign("*") || at_sign("**")) fail("arguments by * and ** are not supported");
      if (now().type == Type::name && is(after(), Type::sign, "=")) {
        names.push_back(take().text);
        take();
      } else if (!names.empty()) {
        fail("an argument without a name stands behind one with a name");
      }
      parts.push_back(expression());
    }
    take();
  }
  ExpressionPointer call(ExpressionPointer node) {
    const std::size_t line = now().line;
    std::vector<ExpressionPointer> parts;
    std::vector<std::string> names;
    parts.push_back(std::move(node));
    arguments(parts, names);
    return make_of(Expression::Kind::call, line, "", std::move(parts), std::move(names));
  }
  std::string dotted_name() {
    std::string name = expect_name();
    while (skip_sign(".")) {
      name += '.';
      name += expect_name();
    }
    return name;
  }
  // "| a | b(...)", or without the first "|" where a block begins with it.
  ExpressionPointer filters(ExpressionPointer node, bool begun = false) {
    while (begun || skip_sign("|")) {
      begun = false;
      const std::size_t line = now().line;
      std::string name = dotted_name();
      std::vector<ExpressionPointer> parts;
      std::vector<std::string> names;
      parts.push_back(std::move(node));
      if (at_sign("(")) arguments(parts, names);
      node = make_of(Expression::Kind::filter, line, std::move(name), std::move(parts), std::move(names));
    }
    return node;
  }
  ExpressionPointer test(ExpressionPointer node) {
    const std::size_t line = take().line;
    const bool negated = skip_name("not");
    std::string name = dotted_name();
    std::vector<ExpressionPointer> parts;
    std::vector<std::string> names;
    parts.push_back(std::move(node));
    const bool value = now().type == Type::name || now().type == Type::string || now().type == Type::integer ||
                       now().type == Type::real || at_sign("[") || at_sign("{");
    if (at_sign("(")) {
      arguments(parts, names);
    } else if (value && !at_name("else") && !at_name("or") && !at_name("and")) {
      if (at_name("is")) fail("tests with \"is\" cannot follow each other");
      parts.push_back(postfix(primary()));
    }
    ExpressionPointer made = make_of(Expression::Kind::test, line, std::move(name), std::move(parts), std::move(names));
    return negated ? make(Expression::Kind::logical_not, line, "", std::move(made)) : std::move(made);
  }

  // What is assigned to: a name, a tuple or list of these, or the attribute of a namespace.
  ExpressionPointer target(bool with_namespace) {
    if (with_namespace && now().type == Type::name && is(after(), Type::sign, ".")) {
      const Token& name = take();
      take();
      std::string attribute = expect_name();
      return make(Expression::Kind::attribute, name.line, std::move(attribute),
                  make(Expression::Kind::name, name.line, name.text));
    }
    ExpressionPointer made = tuple(Tuple::target);
    check_target(*made);
    return made;
  }
  void check_target(const Expression& made) const {
    const bool many = made.kind == Expression::Kind::tuple || made.kind == Expression::Kind::list;
    if (!many && made.kind != Expression::Kind::name) fail("cannot assign to this");
    for (const ExpressionPointer& part : made.parts) check_target(*part);
  }

  const Limits& limits_;
  const std::vector<Token> tokens_;
  std::size_t at_ = 0, nesting_ = 0;
  std::set<std::string, std::less<>> names_;  // of variables that were read so far
};

}  // namespace permllm::jinja
