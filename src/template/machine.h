// What bounds a template's run, and what it makes texts, lists and dicts with: whatever is made here is counted, and let go of when it dies.
#pragma once

#include <cstddef>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "permllm/error.h"
#include "template/value.h"

namespace permllm::jinja {

// A template is another's text and runs at the user: these end it. Far more than templates and prompts need.
struct Limits {
  std::size_t source = std::size_t{1} << 20;  // bytes of the template
  std::size_t nodes = 100'000;                // tokens of its text, and so nodes of its tree
  std::size_t nesting = 200;                  // of expressions and statements in each other, as written
  std::size_t depth = 500;         // of the tree, and of what is evaluated: macros that call each other go deeper
  std::size_t steps = 10'000'000;  // nodes evaluated, items visited, and one for each 32 bytes of text that are handled
  std::size_t output = std::size_t{4} << 20;    // bytes
  std::size_t memory = std::size_t{128} << 20;  // bytes of values at one time, beside those that it is given
};

[[noreturn]] void refuse(Code code, std::size_t line, const std::string& why);  // of the template, in that line

struct Arguments {
  Values values;
  std::vector<std::pair<std::string, Value>> named;
};

class Machine;

// What has no value to copy. The run owns it until its end.
class Object {
 public:
  virtual ~Object() = default;
  virtual const char* type() const = 0;
  virtual std::optional<Value> attribute(Machine&, std::string_view) { return std::nullopt; }
  virtual bool callable() const { return false; }
  virtual Value call(Machine& machine, const Arguments& arguments);
};

class Machine {
 public:
  Machine(const Limits& limits, const std::tm& date) : now(date), limits_(limits) {}
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  std::size_t line = 1;  // of what is evaluated
  const std::tm now;     // the only clock
  const Limits& limits() const { return limits_; }

  [[noreturn]] void fail(const std::string& why) const { refuse(Code::unsupported, line, why); }
  void step(std::size_t steps = 1) {
    if (steps > limits_.steps - steps_) fail("takes more steps than a template may");
    steps_ += steps;
  }
  void handle(std::size_t bytes) { step(1 + bytes / 32); }
  void charge(std::size_t bytes) {
    if (bytes > limits_.memory - memory_) fail("takes more memory than a template may");
    memory_ += bytes;
  }
  void release(std::size_t bytes) { memory_ -= bytes; }

  // A level of evaluation, for as long as it lives.
  class Level {
   public:
    explicit Level(Machine& machine) : machine_(machine) {
      if (machine.depth_ >= machine.limits_.depth) machine.fail("is nested deeper than a template may");
      ++machine.depth_;
      machine.step();
    }
    ~Level() { --machine_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Machine& machine_;
  };

  Value text(const Text& text, std::size_t begin = 0, std::size_t end = Text::npos);
  Value text(std::string_view bytes, bool contents = false);
  Value list(Values items, List::Kind kind = List::Kind::list);
  Value dict(std::vector<std::pair<Value, Value>> items);
  template <class T, class... Parts>
  T* object(Parts&&... parts) {
    charge(sizeof(T) + 32);
    auto made = std::make_unique<T>(std::forward<Parts>(parts)...);
    T* pointer = made.get();
    objects_.push_back(std::move(made));
    return pointer;
  }

 private:
  friend class Builder;
  Value keep(Text text, std::size_t charged);
  const Limits limits_;
  std::size_t steps_ = 0, memory_ = 0, depth_ = 0;
  std::vector<std::unique_ptr<Object>> objects_;  // gone before what they are counted in
};

// A text that grows. What it holds is counted from the first byte on.
class Builder {
 public:
  explicit Builder(Machine& machine) : machine_(machine) {}
  ~Builder() { machine_.release(charged_); }
  Builder(const Builder&) = delete;
  Builder& operator=(const Builder&) = delete;

  void add(std::string_view bytes, bool contents = false);
  void add(const Text& text, std::size_t begin = 0, std::size_t end = Text::npos);
  const Text& text() const { return text_; }
  Value take();

 private:
  void charge(std::size_t bytes);
  Machine& machine_;
  Text text_;
  std::size_t charged_ = 0;
};

}  // namespace permllm::jinja
