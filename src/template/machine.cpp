#include "template/machine.h"

#include <fmt/format.h>

#include <algorithm>

namespace permllm::jinja {
namespace {

constexpr std::size_t k_text_bytes = 160, k_value_bytes = sizeof(Value),
                      k_list_bytes = 128;  // that they take beside what they hold

}  // namespace

void refuse(Code code, std::size_t line, const std::string& why) {
  throw Error(code, "tokenizer.chat_template",
              fmt::format("line {}: {}{}", line, why,
                          code == Code::unsupported ? "; --chat-format chooses another format" : ""));
}

Value Object::call(Machine& machine, const Arguments&) { machine.fail(fmt::format("a {} is no function", type())); }

Value Machine::keep(Text text, std::size_t charged) {
  charge(k_text_bytes);
  const std::size_t bytes = charged + k_text_bytes;
  return TextPointer(new Text(std::move(text)), [this, bytes](const Text* done) {
    release(bytes);
    delete done;
  });
}

Value Machine::text(const Text& text, std::size_t begin, std::size_t end) {
  Builder builder(*this);
  builder.add(text, begin, end);
  return builder.take();
}

Value Machine::text(std::string_view bytes, bool contents) {
  Builder builder(*this);
  builder.add(bytes, contents);
  return builder.take();
}

Value Machine::list(Values items, List::Kind kind) {
  step(1 + items.size() / 8);
  std::size_t depth = 1;
  for (const Value& item : items) depth = std::max(depth, 1 + depth_of(item));
  if (depth > k_most_nested) fail("makes lists that are nested too deep");
  const std::size_t bytes = k_list_bytes + k_value_bytes * items.capacity();
  charge(bytes);
  return ListPointer(new List{kind, std::move(items), depth}, [this, bytes](const List* done) {
    release(bytes);
    delete done;
  });
}

Value Machine::dict(std::vector<std::pair<Value, Value>> items) {
  step(1 + items.size() / 8);
  std::size_t depth = 1;
  for (const auto& [key, value] : items) depth = std::max({depth, 1 + depth_of(key), 1 + depth_of(value)});
  if (depth > k_most_nested) fail("makes dicts that are nested too deep");
  const std::size_t bytes = k_list_bytes + 2 * k_value_bytes * items.capacity();
  charge(bytes);
  return DictPointer(new Dict{std::move(items), depth}, [this, bytes](const Dict* done) {
    release(bytes);
    delete done;
  });
}

void Builder::charge(std::size_t bytes) {
  machine_.handle(bytes);
  machine_.charge(bytes);
  charged_ += bytes;
}

void Builder::add(std::string_view bytes, bool contents) {
  const std::size_t runs = text_.runs();
  text_.add(bytes, contents);
  charge(bytes.size() + (text_.runs() - runs) * Text::k_run_bytes);
}

void Builder::add(const Text& text, std::size_t begin, std::size_t end) {
  end = std::min(end, text.size());
  if (begin >= end) return;
  text.each_run([&](std::string_view bytes, bool contents) { add(bytes, contents); }, begin, end);
}

Value Builder::take() {
  const std::size_t charged = std::exchange(charged_, 0);
  return machine_.keep(std::move(text_), charged);
}

}  // namespace permllm::jinja
