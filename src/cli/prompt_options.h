// Options that `demo`, `generate` and `chat` share: what is asked, and how tokens are chosen.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "model/chat_format.h"
#include "model/tokenizer.h"
#include "permllm/client.h"
#include "user/sampler.h"

namespace permllm {

struct PromptOptions {
  std::string prompt, prompt_ids;
  std::string chat_format;  // empty: by the file's template
  bool think = false;
  std::vector<TokenId> ids;  // of prompt_ids, once checked
  std::size_t max_tokens = 64;
  SamplingOptions sampling;
  std::optional<std::uint64_t> seed;
  bool json = false;
};

// The prompt, and how it is answered.
void add_prompt_options(CLI::App& command, PromptOptions& options);
// The latter alone.
void add_answer_options(CLI::App& command, PromptOptions& options);

// What can be checked before a model is at hand. Draws the sampling seed when none is given.
void check_prompt_options(PromptOptions& options);
void check_answer_options(PromptOptions& options);
// The flags of add_answer_options, for the library's client.
AnswerOptions answer_options(const PromptOptions& options);
ChatFormat chat_format(const PromptOptions& options, const Vocabulary& vocabulary);

// The prompt's tokens: --prompt in the chat format, or --prompt-ids. `context`: the most
// tokens that prompt and answer may have together. Errors: usage; none quotes the prompt.
std::vector<TokenId> prompt_tokens(const PromptOptions& options, const Tokenizer& tokenizer, std::size_t context);

// Of an answer with numbers out of range (Answer::out_of_range), for a person.
std::string not_to_be_trusted(std::size_t trusted_tokens);

// Prints tokens as they come: complete UTF-8 text for a person, or one JSON object a token.
class TokenPrinter {
 public:
  TokenPrinter(const Tokenizer& tokenizer, const PromptOptions& options)
      : tokenizer_(tokenizer),
        json_(options.json),
        goes_on_(!options.ids.empty() || chat_format(options, tokenizer.vocabulary()).raw()) {}
  void token(TokenId id);
  void finish();
  const std::vector<TokenId>& ids() const { return ids_; }
  const std::string& text() const { return text_; }

 private:
  const Tokenizer& tokenizer_;
  bool json_;
  bool goes_on_;  // with the prompt's text: a blank at its beginning is the model's
  std::vector<TokenId> ids_;
  std::string text_;
  Utf8Stream stream_;
  TerminalText shown_;
};

}  // namespace permllm
