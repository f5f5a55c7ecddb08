#include "cli/prompt_options.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdio>

#include "permllm/error.h"
#include "rand/seed.h"
#include "service/print_event.h"

namespace permllm {
namespace {

// "1,2,3": ids as they are.
std::vector<TokenId> parse_ids(const std::string& text) {
  std::vector<TokenId> ids;
  const char* at = text.data();
  const char* end = at + text.size();
  while (true) {
    TokenId id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    const std::size_t place = ids.size() + 1;
    if (error != std::errc() || (next != end && *next != ',')) {
      throw Error(Code::usage, "--prompt-ids", fmt::format("place {} is not a number; write it like 1,2,3", place));
    }
    ids.push_back(id);
    if (next == end) return ids;
    at = next + 1;
  }
}

}  // namespace

void add_prompt_options(CLI::App& command, PromptOptions& o) {
  auto* prompt = command.add_option("--prompt", o.prompt, "the question");
  command.add_option("--prompt-ids", o.prompt_ids, "token ids instead of text, fed as they are: 1,2,3")
      ->excludes(prompt);
  add_answer_options(command, o);
}

void add_answer_options(CLI::App& command, PromptOptions& o) {
  command
      .add_option("--chat-format", o.chat_format,
                  "feed the text in this chat format (none: as it is): " + ChatFormat::names())
      ->default_str("by the file's template");
  command.add_flag("--think,!--no-think", o.think,
                   "let a model whose template knows of thinking think before it answers");
  command.add_option("--max-tokens", o.max_tokens, "longest answer, in tokens")->capture_default_str();
  command.add_option("--temperature", o.sampling.temperature, "0 is greedy")->capture_default_str();
  command.add_option("--top-k", o.sampling.top_k, "choose among the k best tokens; 0: all")->capture_default_str();
  command.add_option("--top-p", o.sampling.top_p, "choose among the best tokens that hold this share")
      ->capture_default_str();
  command.add_option("--min-p", o.sampling.min_p, "leave out tokens less likely than this part of the best")
      ->capture_default_str();
  command.add_option("--seed", o.seed, "seed of the choice; drawn afresh without it");
  command.add_flag("--json", o.json, "one JSON object a line, for programs");
}

void check_prompt_options(PromptOptions& o) {
  if (o.prompt.empty() && o.prompt_ids.empty()) {
    throw Error(Code::usage, "--prompt", "is empty; ask something, like --prompt \"Why is the sky blue?\"");
  }
  if (!o.prompt_ids.empty()) o.ids = parse_ids(o.prompt_ids);
  check_answer_options(o);
}

void check_answer_options(PromptOptions& o) {
  if (o.max_tokens < 1) throw Error(Code::usage, "--max-tokens", "0, expected 1 or more");
  o.sampling.seed = o.seed ? *o.seed : random_number();
  o.sampling.check();
  if (!o.chat_format.empty()) ChatFormat::named(o.chat_format);
}

AnswerOptions answer_options(const PromptOptions& o) {
  return {.max_tokens = o.max_tokens,
          .temperature = o.sampling.temperature,
          .top_k = o.sampling.top_k,
          .top_p = o.sampling.top_p,
          .min_p = o.sampling.min_p,
          .seed = o.seed};
}

ChatFormat chat_format(const PromptOptions& o, const Vocabulary& vocabulary) {
  return ChatFormat::chosen(o.chat_format, vocabulary);
}

std::vector<TokenId> prompt_tokens(const PromptOptions& o, const Tokenizer& tokenizer, std::size_t context) {
  const Vocabulary& vocabulary = tokenizer.vocabulary();
  std::vector<TokenId> ids;
  if (!o.ids.empty()) {
    for (std::size_t i = 0; i < o.ids.size(); ++i) {
      if (o.ids[i] >= vocabulary.tokens.size()) {
        throw Error(
            Code::usage, "--prompt-ids",
            fmt::format("the id at place {} is outside the vocabulary of {} tokens", i + 1, vocabulary.tokens.size()));
      }
    }
    ids = o.ids;
  } else {
    ids = chat_format(o, vocabulary).encode(tokenizer, {{"user", o.prompt}}, o.think);
  }
  if (ids.empty()) throw Error(Code::usage, "--prompt", "has no tokens");
  if (ids.size() + o.max_tokens > context) {
    throw Error(
        Code::usage, "--prompt",
        fmt::format("{} tokens and an answer of up to {} do not fit the context of {}; shorten the prompt or lower "
                    "--max-tokens",
                    ids.size(), o.max_tokens, context));
  }
  return ids;
}

std::string not_to_be_trusted(std::size_t trusted_tokens) {
  return trusted_tokens == 0
             ? "the answer is not to be trusted"
             : fmt::format("what comes behind the answer's first {} tokens is not to be trusted", trusted_tokens);
}

void TokenPrinter::token(TokenId id) {
  // The end-of-turn token is no text.
  const bool first = ids_.empty() && !goes_on_;
  const std::string piece =
      tokenizer_.is_end(id) ? "" : stream_.push(first ? tokenizer_.decode({&id, 1}, true) : tokenizer_.bytes(id));
  ids_.push_back(id);
  text_ += piece;
  if (json_) {
    print_event({{"event", "token"}, {"id", id}, {"text", piece}});
  } else {
    std::fputs(shown_.push(piece).c_str(), stdout);
    std::fflush(stdout);
  }
}

// What there is of a character that a limit cut through is left out.
void TokenPrinter::finish() {
  const std::string rest = ids_.empty() || tokenizer_.is_end(ids_.back()) ? stream_.finish() : "";
  text_ += rest;
  if (!json_) std::fputs((shown_.push(rest) + shown_.finish() + "\n").c_str(), stdout);
}

}  // namespace permllm
