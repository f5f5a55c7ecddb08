// An answer between the model and who asked: the model is told of tools and of the form that is wanted, and what it says is read by them; what it
// thinks before it answers is kept apart.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gateway/job.h"
#include "structured/thoughts.h"

namespace permllm {

class HeldAnswer {
 public:
  // chat_template: of the model; named: whether its logits are, so that an answer is held to its form as it is chosen. The request outlives it.
  HeldAnswer(const gateway::Request& request, const std::string& chat_template, bool named);

  // What the model is given.
  std::vector<Message> messages() const;
  ConversationOptions options(ConversationOptions options) const;

  // One try after the other, until one keeps what is required, or `tries` have not. number: from 0; within_thought: as the prompt ends.
  void begin(std::size_t number, bool within_thought, AnswerOptions& how, AnswerJob& job);
  void push(std::string_view piece, AnswerJob& job);
  // Whether it is kept; then all of it is the job's. An answer that ended for want of room or of tokens is told as it is.
  bool finish(const Answer& answer, AnswerJob& job);
  std::size_t tries() const { return checked() ? request_.tries : 1; }
  // Errors: usage, naming the field that asked for it.
  [[noreturn]] void give_up() const;

 private:
  bool must_call() const { return request_.may_call() && request_.calls == gateway::Request::Calls::required; }
  bool held_to_form() const { return request_.form && !request_.may_call(); }
  bool masked() const { return held_to_form() && named_; }
  bool checked() const { return request_.form || must_call(); }
  // Whether text can be given out as it comes: nothing of it is to be taken back.
  bool live() const { return !checked() || (masked() && request_.form->exact()); }
  void read(const ThoughtReader::Parts& parts, bool ended, AnswerJob& job);
  void give_calls(AnswerJob& job);
  void hold_arguments(const std::string& name);

  const gateway::Request& request_;
  const ToolFamily family_;
  const bool thinks_, named_;
  std::string begins_;  // what the model does not choose
  // Of the one function that is to be called, where its arguments are held to their schema; and what closes the call then.
  std::shared_ptr<const JsonSchema> arguments_;
  std::string ends_;
  std::shared_ptr<ToolReader> reader_;
  std::optional<ThoughtReader> thoughts_;
  std::string thought_, text_;  // beside the calls, of this try
  std::size_t told_ = 0;        // calls
};

}  // namespace permllm
