// The tree of a template.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "template/value.h"

namespace permllm::jinja {

struct Expression;
using ExpressionPointer = std::unique_ptr<const Expression>;

struct Expression {
  enum class Kind {
    absent,     // what is left out: a bound of a slice, an else, what a filter block filters
    constant,   // constant
    name,       // text
    list,       // parts
    tuple,      // parts
    dict,       // parts: key, value, key, value
    attribute,  // parts[0].text
    item,       // parts[0][parts[1]]
    slice,      // inside an item: parts[0]:parts[1]:parts[2]
    call,       // parts[0](...): the rest of parts, of which the last are named by names
    filter,     // parts[0] | text(...), likewise
    test,       // parts[0] is text(...), likewise
    negative,   // and so on: parts in the order in which they stand
    positive,
    logical_not,
    logical_and,
    logical_or,
    arithmetic,  // text is the sign
    concatenation,
    comparison,   // names are the signs between parts, "in" and "not in" among them
    conditional,  // parts: if true, condition, if false
  };
  Kind kind = Kind::absent;
  std::size_t line = 1, depth = 1;  // depth: of the tree from here
  std::string text;
  Value constant;
  std::vector<ExpressionPointer> parts;
  std::vector<std::string> names;
};

struct Statement;
using Body = std::vector<Statement>;

// The names of a macro's arguments; the last of them have defaults.
struct Parameters {
  std::vector<std::string> names;
  std::vector<ExpressionPointer> defaults;
};

struct Statement {
  enum class Kind {
    data,       // parts[0], a constant
    output,     // parts[0]
    condition,  // parts are conditions, bodies theirs; one more is the else's
    loop,       // for parts[0] in parts[1] if parts[2]: bodies[0], else bodies[1]
    set,        // parts[0] = parts[1]
    set_block,  // parts[0] = bodies[0] through the filters of parts[1]
    with,       // parts: target, value, target, value
    macro,      // name, parameters
    call,       // parts[0], with bodies[0] as its caller of these parameters
    filter,     // bodies[0] through parts[0]
    scope,      // bodies[0]
    leave,      // the loop
    next,       // of the loop
  };
  Kind kind = Kind::data;
  std::size_t line = 1;
  std::string name;
  std::vector<ExpressionPointer> parts;
  std::vector<Body> bodies;
  Parameters parameters;
  bool varargs = false, kwargs = false, caller = false;  // of macro and call: its body names them
};

}  // namespace permllm::jinja
