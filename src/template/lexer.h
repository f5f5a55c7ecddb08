// A template's text as tokens: by jinja2's rules, with trim_blocks and lstrip_blocks, which chat templates are written for.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "template/machine.h"

namespace permllm::jinja {

struct Token {
  enum class Type { data, output_begin, output_end, block_begin, block_end, name, string, integer, real, sign, end };
  Type type;
  std::size_t line;
  std::string text;  // of data, names, strings (escapes done) and signs
  std::int64_t integer = 0;
  double real = 0;
};

// Ends with a token of type end. Errors: unsupported, with the line.
std::vector<Token> lex(std::string_view source, const Limits& limits);

}  // namespace permllm::jinja
