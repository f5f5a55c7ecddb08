#include "template/template.h"

namespace permllm::jinja {

std::vector<Template::Piece> Template::render(const Variables& variables, const std::tm& now,
                                              const Limits& limits) const {
  Evaluator evaluator(limits, now, variables);
  std::vector<Piece> pieces;
  evaluator.run(tree_.body).each_run([&](std::string_view bytes, bool contents) {
    pieces.push_back({std::string(bytes), contents});
  });
  return pieces;
}

}  // namespace permllm::jinja
