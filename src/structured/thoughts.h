// What a model thinks before it answers, between the marks that the families of thinking models have in common: <think> ... </think>.
#pragma once

#include <string>
#include <string_view>

namespace permllm {

// Whether models of this chat template think between these marks; whether a prompt that ends so has begun a thought.
bool has_thoughts(std::string_view chat_template);
bool begins_thought(std::string_view end_of_prompt);

// Takes an answer apart as it comes.
class ThoughtReader {
 public:
  explicit ThoughtReader(bool within) : where_(within ? Where::within : Where::before) {}

  struct Parts {
    std::string thought, text;
  };
  // What is sure by now; the rest, at the answer's end.
  Parts push(std::string_view piece);
  Parts finish();

 private:
  Parts take(bool ended);

  enum class Where { before, within, behind_mark, behind } where_;
  bool begun_ = false;  // the thought has words
  std::string held_;
};

}  // namespace permllm
