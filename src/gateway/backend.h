// What answers behind the gateway: so much of the library's client as desk, pool and keeper need. Tests put a stand-in there.
#pragma once

#include <memory>
#include <span>

#include "permllm/client.h"

namespace permllm {

// A Conversation: what each member does, throws, and from which thread, is said there.
class Dialogue {
 public:
  virtual ~Dialogue() = default;
  virtual Answer answer(std::span<const std::uint32_t> ids, const AnswerOptions& options,
                        const Conversation::OnText& on_text, const OnProgress& on_progress) = 0;
  virtual std::size_t in_common(std::span<const std::uint32_t> ids) const = 0;
  virtual void cancel() noexcept = 0;
  virtual void reset() = 0;
};

// A Client, likewise.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual const Client::Model& model() const = 0;
  virtual std::string chat_template() const = 0;
  virtual std::uint64_t tokens_left() const = 0;
  virtual std::vector<std::uint32_t> tokenize(const std::vector<Message>& messages,
                                              const ConversationOptions& options) const = 0;
  virtual std::string detokenize(std::span<const std::uint32_t> ids) const = 0;
  virtual std::vector<Client::Chain> stock() const = 0;
  virtual std::size_t ready_tokens() const = 0;
  virtual void fill(std::size_t i, std::size_t tokens, std::size_t answer_tokens) const = 0;
  virtual std::unique_ptr<Dialogue> dialogue(const ConversationOptions& options) const = 0;
};

// Of a client, which outlives it.
std::unique_ptr<Backend> backend_of(const Client& client);

}  // namespace permllm
