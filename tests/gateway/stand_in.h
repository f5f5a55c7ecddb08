// In place of the library's client: a backend whose every answer is in the test's hands. A token is a character.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "gateway/backend.h"

namespace permllm::gateway_test {

using std::chrono_literals::operator""s;

constexpr Clock::duration k_patience = 10s;  // of tests that fail

// Of what nobody tells of: looks until it holds.
template <class Holds>
bool eventually(Holds holds) {
  for (const Clock::time_point end = Clock::now() + k_patience; !holds();) {
    if (Clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

inline std::vector<Message> asked(const std::string& text) { return {{"user", text}}; }
inline std::vector<std::uint32_t> ids_of(const std::string& text) { return {text.begin(), text.end()}; }

class StandIn : public Backend {
 public:
  // A question that waits for what the test makes of it. Its steps are made by the thread that asked, in order.
  class Question {
   public:
    std::size_t dialogue = 0;  // counted from 0 as they are begun
    std::string text;          // of all messages
    AnswerOptions options;

    void progress(const AnswerProgress& progress) {
      add([this, progress](Answer&, const auto&) { return tell(progress), false; });
    }
    // A token, and the logarithm of its likelihood.
    void say(const std::string& piece, double log_probability = 0) {
      add([this, piece, log_probability](Answer& answer, const Conversation::OnText& on_text) {
        answer.text += piece;
        if (options.log_probabilities) answer.log_probabilities.push_back({piece, log_probability});
        ++answer.cost.answer_tokens;
        tell({.stage = AnswerProgress::Stage::answer});
        on_text(piece);
        return false;
      });
    }
    void end(Answer::End end = Answer::End::model, double token_seconds = 0, const std::string& stop = "") {
      add([=](Answer& answer, const auto&) {
        answer.end = end;
        answer.stop = stop;
        answer.cost.token_seconds = token_seconds;
        return true;
      });
    }
    template <class E>
    void fail(const E& error) {
      add([error](Answer&, const auto&) -> bool { throw error; });
    }

   private:
    friend class StandIn;
    using Step = std::function<bool(Answer&, const Conversation::OnText&)>;  // true: the answer ends
    void add(Step step) {
      const std::lock_guard lock(of->mutex_);
      steps.push_back(std::move(step));
      of->changed_.notify_all();
    }
    void tell(const AnswerProgress& progress) const {
      if (on_progress) on_progress(progress);
    }
    StandIn* of = nullptr;
    OnProgress on_progress;
    std::deque<Step> steps;
    bool cancelled = false;
  };

  // The i-th question, once it has come.
  Question& question(std::size_t i) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, k_patience, [&] { return questions_.size() > i; }))
      throw std::runtime_error("the question never came");
    return *std::next(questions_.begin(), static_cast<std::ptrdiff_t>(i));
  }
  std::size_t questions() const {
    const std::lock_guard lock(mutex_);
    return questions_.size();
  }
  // What is done to the dialogues, in order: "begin 0", "reset 0", "cancel 0".
  std::vector<std::string> done() const {
    const std::lock_guard lock(mutex_);
    return done_;
  }

  Client::Model offered{"Tiny", "llama", "id", "paper", "linear", 100, 1};
  std::atomic<std::uint64_t> left = 1000;
  std::function<void()> before_answer = nullptr;  // in the thread that asks, between the lease and the question
  // Of the material: what the provider says it has (with the number of the call, from 0), and what is made.
  std::function<std::vector<Client::Chain>(std::size_t)> in_stock = [](std::size_t) {
    return std::vector<Client::Chain>();
  };
  std::function<void()> on_fill = nullptr;
  struct Filling {
    std::size_t i, tokens, answer_tokens;
    bool operator==(const Filling&) const = default;
  };
  std::vector<Filling> fillings() const {
    const std::lock_guard lock(mutex_);
    return fillings_;
  }
  std::size_t stock_calls() const { return stock_calls_; }

  std::string own_template;  // the model's
  std::string prompt_ends;   // what it writes before an answer
  std::string chat_template() const override { return own_template; }
  const Client::Model& model() const override { return offered; }
  std::uint64_t tokens_left() const override { return left; }
  std::vector<std::uint32_t> tokenize(const std::vector<Message>& messages,
                                      const ConversationOptions& options) const override {
    std::vector<std::uint32_t> ids;
    for (const Message& message : messages) ids.insert(ids.end(), message.content.begin(), message.content.end());
    ids.insert(ids.end(), prompt_ends.begin(), prompt_ends.end());
    ids.insert(ids.end(), options.begins.begin(), options.begins.end());
    return ids;
  }
  std::string detokenize(std::span<const std::uint32_t> ids) const override { return text_of(ids); }
  std::vector<Client::Chain> stock() const override { return in_stock(stock_calls_++); }
  std::size_t ready_tokens() const override { return 7; }
  void fill(std::size_t i, std::size_t tokens, std::size_t answer_tokens) const override {
    {
      const std::lock_guard lock(mutex_);
      fillings_.push_back({i, tokens, answer_tokens});
    }
    if (on_fill) on_fill();
  }
  std::unique_ptr<Dialogue> dialogue(const ConversationOptions&) const override {
    const std::lock_guard lock(mutex_);
    note("begin", begun_);
    return std::make_unique<Talk>(const_cast<StandIn&>(*this), begun_++);
  }

 private:
  class Talk : public Dialogue {
   public:
    Talk(StandIn& of, std::size_t number) : of_(of), number_(number) {}
    Answer answer(std::span<const std::uint32_t> ids, const AnswerOptions& options, const Conversation::OnText& on_text,
                  const OnProgress& on_progress) override {
      if (of_.before_answer) of_.before_answer();
      std::unique_lock lock(of_.mutex_);
      Question& question = of_.questions_.emplace_back();
      question.of = &of_;
      question.dialogue = number_;
      question.text = text_of(ids);
      question.options = options;
      question.on_progress = on_progress;
      under_way_ = &question;
      of_.changed_.notify_all();
      Answer answer;
      answer.cost.prompt_tokens = question.text.size();
      lock.unlock();
      question.tell({.stage = AnswerProgress::Stage::connecting});
      lock.lock();
      for (bool ended = false; !ended;) {
        of_.changed_.wait(lock, [&] { return question.cancelled || !question.steps.empty(); });
        if (question.cancelled) {
          answer.end = Answer::End::cancelled;
          break;
        }
        const auto step = std::move(question.steps.front());
        question.steps.pop_front();
        lock.unlock();
        ended = step(answer, on_text);
        lock.lock();
      }
      under_way_ = nullptr;
      fed_ = question.text + answer.text;
      return answer;
    }
    std::size_t in_common(std::span<const std::uint32_t> ids) const override {
      const std::string text = text_of(ids);
      return static_cast<std::size_t>(std::mismatch(text.begin(), text.end(), fed_.begin(), fed_.end()).first -
                                      text.begin());
    }
    // As the client's, it does nothing while no answer is under way.
    void cancel() noexcept override {
      const std::lock_guard lock(of_.mutex_);
      if (under_way_ == nullptr || under_way_->cancelled) return;
      under_way_->cancelled = true;
      of_.note("cancel", number_);
      of_.changed_.notify_all();
    }
    void reset() override {
      const std::lock_guard lock(of_.mutex_);
      of_.note("reset", number_);
      fed_.clear();
    }

   private:
    StandIn& of_;
    const std::size_t number_;
    std::string fed_;
    Question* under_way_ = nullptr;
  };

  static std::string text_of(std::span<const std::uint32_t> ids) { return {ids.begin(), ids.end()}; }
  void note(const char* what, std::size_t dialogue) const {
    done_.push_back(std::string(what) + " " + std::to_string(dialogue));
  }

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::list<Question> questions_;
  mutable std::vector<std::string> done_;
  mutable std::vector<Filling> fillings_;
  mutable std::size_t begun_ = 0;
  mutable std::atomic<std::size_t> stock_calls_ = 0;
};

}  // namespace permllm::gateway_test
