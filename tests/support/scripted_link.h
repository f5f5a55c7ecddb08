// A peer that says what it was told to, whatever it hears.
#pragma once

#include <cstring>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "wire/message.h"

namespace permllm::test {

// What the other side says, in order: the payload of each message that is awaited, or a refusal.
struct Script {
  struct Line {
    Bytes payload;
    bool refusal = false;
  };
  std::vector<Line> lines;
  std::size_t handshake = 0;  // so many come before the session has its number
  std::uint64_t session = 0;

  template <class Message>
  void say(Message message) {
    Writer writer;
    message.visit(writer);
    lines.push_back({writer.take()});
  }
};

class Scripted : public Link {
 public:
  explicit Scripted(Script script) : script_(std::move(script)) {}
  void send(Frame) override {}
  void flush() override {}
  Frame receive(Clock::time_point, const char* awaited, std::size_t most) override {
    if (next_ == script_.lines.size()) throw Error(Code::closed, "link", "the script ends");
    Script::Line& line = script_.lines[next_];
    const auto step = static_cast<std::uint32_t>(next_++);
    const auto tag = static_cast<std::uint16_t>(line.refusal ? Tag::refusal : tag_of(awaited));
    check_length(tag, line.payload.size(), most, awaited);
    return {tag, step < script_.handshake ? 0 : script_.session, step, std::move(line.payload)};
  }
  void close() override {}

 private:
  static Tag tag_of(std::string_view awaited) {
    for (std::uint16_t tag = 0; tag < 100; ++tag) {
      if (awaited == name_of(static_cast<Tag>(tag))) return static_cast<Tag>(tag);
    }
    return Tag::refusal;
  }
  Script script_;
  std::size_t next_ = 0;
};

}  // namespace permllm::test
