// A chat template: the part of Jinja2 that chat templates use, as Hugging Face's libraries run it (trim_blocks, lstrip_blocks, an immutable sandbox).
// What it puts out is in pieces, so that what a person wrote stays a text.
//
// There are: if, for (with else, if, break, continue, loop), set (with blocks, namespaces), with, macro, call, filter, generation, raw; all operators,
// tests, filters and methods that such templates use; raise_exception, strftime_now, namespace, range, dict, cycler, joiner. There is no include,
// import or extends, and a template reads no file, clock or variable but what it is given.
#pragma once

#include <ctime>
#include <string>
#include <string_view>
#include <vector>

#include "template/evaluator.h"
#include "template/parser.h"

namespace permllm::jinja {

class Template {
 public:
  struct Piece {
    std::string text;
    bool contents;  // of what the variables hold as contents; the template's own otherwise. Neighbours differ
  };

  // Errors: unsupported, field tokenizer.chat_template, naming the line.
  explicit Template(std::string_view source, const Limits& limits = {}) : tree_(parse(source, limits)) {}

  // Whether it reads a variable of that name anywhere.
  bool reads(std::string_view name) const { return tree_.names.contains(name); }

  // `now` is the date that strftime_now tells. Errors: usage (what the template raises by itself, its words for a terminal, without contents),
  // unsupported (what jinja2 would raise, what is not known here, a limit that is passed); each names the line.
  std::vector<Piece> render(const Variables& variables, const std::tm& now, const Limits& limits = {}) const;

 private:
  Tree tree_;
};

}  // namespace permllm::jinja
