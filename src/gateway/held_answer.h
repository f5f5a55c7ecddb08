// An answer between the model and who asked: the model is told of tools and of the form that is wanted, and what it says is read by them.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gateway/job.h"
#include "gateway/openai.h"

namespace permllm {

class HeldAnswer {
 public:
  // chat_template: of the model; open: the profile, in which an answer is held to its form as it is chosen. The request outlives it.
  HeldAnswer(const openai::Request& request, const std::string& chat_template, bool open);

  // What the model is given.
  std::vector<Message> messages() const;
  ConversationOptions options(ConversationOptions options) const;

  // One try after the other, until one keeps what is required, or `tries` have not. number: from 0.
  void begin(std::size_t number, AnswerOptions& how, AnswerJob& job);
  void push(std::string_view piece, AnswerJob& job);
  // Whether it is kept; then all of it is the job's. An answer that ended for want of room or of tokens is told as it is.
  bool finish(const Answer& answer, AnswerJob& job);
  std::size_t tries() const { return checked() ? request_.tries : 1; }
  // Errors: usage, naming the field that asked for it.
  [[noreturn]] void give_up() const;

 private:
  bool must_call() const { return request_.may_call() && request_.calls == openai::Request::Calls::required; }
  bool held_to_form() const { return request_.form && !request_.may_call(); }
  bool masked() const { return held_to_form() && open_; }
  bool checked() const { return request_.form || must_call(); }
  // Whether text can be given out as it comes: nothing of it is to be taken back.
  bool live() const { return !checked() || (masked() && request_.form->exact()); }
  void give(const std::string& text, AnswerJob& job);
  void give_calls(AnswerJob& job);

  const openai::Request& request_;
  const ToolFamily family_;
  const bool open_;
  std::string begins_;  // what the model does not choose
  std::shared_ptr<ToolReader> reader_;
  std::string text_;      // beside the calls, of this try
  std::size_t told_ = 0;  // calls
};

}  // namespace permllm
