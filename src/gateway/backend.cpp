#include "gateway/backend.h"

namespace permllm {
namespace {

class ClientDialogue : public Dialogue {
 public:
  explicit ClientDialogue(Conversation conversation) : conversation_(std::move(conversation)) {}
  Answer answer(std::span<const std::uint32_t> ids, const AnswerOptions& options, const Conversation::OnText& on_text,
                const OnProgress& on_progress) override {
    return conversation_.answer(ids, options, on_text, on_progress);
  }
  std::size_t in_common(std::span<const std::uint32_t> ids) const override { return conversation_.in_common(ids); }
  void cancel() noexcept override { conversation_.cancel(); }
  void reset() override { conversation_.reset(); }

 private:
  Conversation conversation_;
};

class ClientBackend : public Backend {
 public:
  explicit ClientBackend(const Client& client) : client_(client) {}
  const Client::Model& model() const override { return client_.model(); }
  std::string chat_template() const override { return client_.chat_template(); }
  std::uint64_t tokens_left() const override { return client_.tokens_left(); }
  std::vector<std::uint32_t> tokenize(const std::vector<Message>& messages,
                                      const ConversationOptions& options) const override {
    return client_.tokenize(messages, options);
  }
  std::string detokenize(std::span<const std::uint32_t> ids) const override { return client_.detokenize(ids); }
  std::vector<Client::Chain> stock() const override { return client_.stock(); }
  std::size_t ready_tokens() const override { return client_.ready_tokens(); }
  void fill(std::size_t i, std::size_t tokens, std::size_t answer_tokens) const override {
    client_.fill(i, tokens, answer_tokens);
  }
  std::unique_ptr<Dialogue> dialogue(const ConversationOptions& options) const override {
    return std::make_unique<ClientDialogue>(client_.conversation(options));
  }

 private:
  const Client& client_;
};

}  // namespace

std::unique_ptr<Backend> backend_of(const Client& client) { return std::make_unique<ClientBackend>(client); }

}  // namespace permllm
