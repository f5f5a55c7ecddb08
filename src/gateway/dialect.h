// An interface that programs speak: its requests read into the gateway's own, answers and errors put into its shapes. One file each; nothing in them knows
// of sockets. docs/serve.md lists the fields.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "gateway/refusal.h"
#include "gateway/request.h"

namespace permllm::gateway {

// One answer, for one connection: whole, or as a stream's bytes, in the order of the members.
class AnswerWriter {
 public:
  virtual ~AnswerWriter() = default;
  virtual Json whole(const Made& made) = 0;

  virtual std::string begin() { return {}; }
  virtual std::string piece(const Piece& piece) = 0;
  virtual std::string ping() { return ": ping\n\n"; }  // a sign of life where nothing else comes
  virtual std::string end(const Made& made) = 0;
  virtual std::string fail(const Refusal& refusal) = 0;  // in place of the end
};

class Dialect {
 public:
  virtual ~Dialect() = default;
  // Errors, each with the parameter's name as its field: usage (a value out of its range, a field that is missing or not known), unsupported (a field of
  // the interface that this program does not honour). None quotes a value.
  virtual Request read(std::string_view body) const = 0;
  // prompt_tokens: of what the model is given. Request and head outlive the writer.
  virtual std::unique_ptr<AnswerWriter> writer(const Request& request, const Head& head,
                                               std::size_t prompt_tokens) const = 0;
  virtual Json error(const Refusal& refusal) const = 0;
  virtual const char* stream_type() const { return "text/event-stream"; }
};

// Of a route: "/v1/chat/completions". OpenAI's chat where it is none that answers, for the shape of its errors.
const Dialect& dialect_of(std::string_view path);

// An event of a stream: "data: ...\n\n", under a name where it has one.
std::string event(const Json& json, std::string_view name = {});

}  // namespace permllm::gateway
