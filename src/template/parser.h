// A template's tree from its tokens: jinja2's grammar, as far as chat templates use it.
#pragma once

#include <set>
#include <string>
#include <string_view>

#include "template/lexer.h"
#include "template/syntax.h"

namespace permllm::jinja {

struct Tree {
  Body body;
  std::set<std::string, std::less<>> names;  // of variables that the template reads anywhere
};

// Errors: unsupported, with the line: what is no template, and what is none of a chat (include, import, extends, block, recursive loops).
Tree parse(std::string_view source, const Limits& limits);

}  // namespace permllm::jinja
