#include "template/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "template/expression_parser.h"

namespace permllm::jinja {
namespace {

using Kind = Expression::Kind;

class Parser : ExpressionParser {
 public:
  Parser(std::string_view source, const Limits& limits) : ExpressionParser(source, limits) {}

  Tree run() {
    Tree tree;
    tree.body = body({});
    tree.names = std::move(names_);
    return tree;
  }

 private:
  // Statements, up to one of these names, which stays.
  Body body(std::initializer_list<std::string_view> ends) {
    const Level level(*this);
    Body body;
    while (now().type != Type::end) {
      const Token& token = take();
      Statement made;
      made.line = token.line;
      if (token.type == Type::data) {
        made.parts.push_back(constant(token.line, text_value(token.text, false)));
      } else if (token.type == Type::output_begin) {
        made.kind = Statement::Kind::output;
        made.parts.push_back(tuple(Tuple::plain));
        expect(Type::output_end, "\"}}\"");
      } else {
        if (now().type == Type::name && std::find(ends.begin(), ends.end(), now().text) != ends.end()) return body;
        statement(made);
        expect(Type::block_end, "\"%}\"");
      }
      body.push_back(std::move(made));
    }
    if (ends.size() > 0) unexpected(fmt::format("{{% {} %}}", *(ends.end() - 1)).c_str());
    return body;
  }
  // Behind a tag that holds a body: the body and the name that ends it.
  Body block(std::initializer_list<std::string_view> ends) {
    expect(Type::block_end, "\"%}\"");
    return body(ends);
  }
  // The body of a function: no loop around it is its own.
  Body function(const char* end) {
    const std::size_t loops = std::exchange(loops_, 0);
    Body made = block({end});
    take();
    loops_ = loops;
    return made;
  }

  void statement(Statement& made) {
    if (now().type != Type::name) unexpected("a statement");
    const std::string name = take().text;
    if (name == "if") {
      condition(made);
    } else if (name == "for") {
      loop(made);
    } else if (name == "set") {
      set(made);
    } else if (name == "with") {
      with(made);
    } else if (name == "macro") {
      made.kind = Statement::Kind::macro;
      made.name = expect_name();
      parameters(made.parameters);
      function_body(made, "endmacro");
    } else if (name == "call") {
      made.kind = Statement::Kind::call;
      if (at_sign("(")) parameters(made.parameters);
      made.parts.push_back(expression());
      if (made.parts[0]->kind != Kind::call) fail("expected a call");
      function_body(made, "endcall");
    } else if (name == "filter") {
      made.kind = Statement::Kind::filter;
      made.parts.push_back(filters(absent(), true));
      made.bodies.push_back(block({"endfilter"}));
      take();
    } else if (name == "generation") {
      made.kind = Statement::Kind::scope;
      made.bodies.push_back(function("endgeneration"));
    } else if (name == "break" || name == "continue") {
      if (loops_ == 0) fail(fmt::format("{} stands in no loop", name));
      made.kind = name == "break" ? Statement::Kind::leave : Statement::Kind::next;
    } else {
      fail(fmt::format("the statement \"{:.40}\" is not supported", name));
    }
  }

  void condition(Statement& made) {
    made.kind = Statement::Kind::condition;
    made.parts.push_back(tuple(Tuple::without_condition));
    while (true) {
      made.bodies.push_back(block({"elif", "else", "endif"}));
      const std::string end = take().text;
      if (end == "elif") {
        made.parts.push_back(tuple(Tuple::without_condition));
        continue;
      }
      if (end == "else") {
        made.bodies.push_back(block({"endif"}));
        take();
      }
      return;
    }
  }

  void loop(Statement& made) {
    made.kind = Statement::Kind::loop;
    made.parts.push_back(target(false));
    if (!skip_name("in")) unexpected("\"in\"");
    made.parts.push_back(tuple(Tuple::without_condition));
    made.parts.push_back(skip_name("if") ? expression() : absent());
    if (at_name("recursive")) fail("recursive loops are not supported");
    ++loops_;
    made.bodies.push_back(block({"else", "endfor"}));
    --loops_;
    if (take().text == "else") {
      made.bodies.push_back(block({"endfor"}));
      take();
    }
  }

  void set(Statement& made) {
    made.parts.push_back(target(true));
    if (skip_sign("=")) {
      made.kind = Statement::Kind::set;
      made.parts.push_back(tuple(Tuple::plain));
      return;
    }
    made.kind = Statement::Kind::set_block;
    made.parts.push_back(filters(absent()));
    made.bodies.push_back(block({"endset"}));
    take();
  }

  void with(Statement& made) {
    made.kind = Statement::Kind::with;
    while (now().type != Type::block_end) {
      if (!made.parts.empty()) expect_sign(",");
      made.parts.push_back(primary());
      check_target(*made.parts.back());
      expect_sign("=");
      made.parts.push_back(expression());
    }
    made.bodies.push_back(block({"endwith"}));
    take();
  }

  void parameters(Parameters& made) {
    expect_sign("(");
    while (!at_sign(")")) {
      if (!made.names.empty()) expect_sign(",");
      made.names.push_back(expect_name());
      if (skip_sign("=")) {
        made.defaults.push_back(expression());
      } else if (!made.defaults.empty()) {
        fail("an argument without a default stands behind one with a default");
      }
    }
    take();
  }
  // A macro takes more arguments than it names where its body asks for them.
  void function_body(Statement& made, const char* end) {
    auto outside = std::exchange(names_, {});
    made.bodies.push_back(function(end));
    made.varargs = names_.contains("varargs");
    made.kwargs = names_.contains("kwargs");
    made.caller = names_.contains("caller");
    names_.merge(outside);
  }

  std::size_t loops_ = 0;  // around the statement
};

}  // namespace

Tree parse(std::string_view source, const Limits& limits) { return Parser(source, limits).run(); }

}  // namespace permllm::jinja
