// Drafts by the library, at services in processes of their own. Linked with --wrap for DraftModel::forward (tests/CMakeLists.txt), so that the tokens
// which the model reads are counted.
#include <permllm/client.h>

#include <atomic>
#include <fstream>
#include <future>

#include "support/gguf_writer.h"
#include "support/processes.h"
#include "user/draft_model.h"

namespace permllm {
namespace {
std::atomic<std::size_t> read = 0;
}  // namespace

std::vector<float>
real_forward(const DraftModel* model, std::span<const TokenId> ids, ReferenceCache& cache, Executor& executor) asm(
    "__real__ZNK7permllm10DraftModel7forwardESt4spanIKjLm18446744073709551615EERNS_14ReferenceCacheERNS_8ExecutorE");
std::vector<float>
counted_forward(const DraftModel* model, std::span<const TokenId> ids, ReferenceCache& cache, Executor& executor) asm(
    "__wrap__ZNK7permllm10DraftModel7forwardESt4spanIKjLm18446744073709551615EERNS_14ReferenceCacheERNS_8ExecutorE");
std::vector<float> counted_forward(const DraftModel* model, std::span<const TokenId> ids, ReferenceCache& cache,
                                   Executor& executor) {
  read += ids.size();
  return real_forward(model, ids, cache, executor);
}

namespace test {
namespace {

using namespace std::chrono_literals;

class DraftsOfClient : public testing::Test {
 protected:
  DraftsOfClient() {
    make_keys(scratch_.path());
    const auto bytes = tiny_llama({.context = 512}).finish();
    std::ofstream(model_, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    helper_.emplace(std::vector<std::string>{"helper", "--events", "--listen", "127.0.0.1:0", "--identity",
                                             (scratch_ / "helper").string()},
                    PERMLLM_BINARY);
    helper_address_ = address_of(*helper_);
  }
  // Whose answers may be drafted.
  Client client(const std::string& profile, int tokens, ClientOptions options = {}) {
    provider_.emplace(std::vector<std::string>{"provider", "--events", "--log-level", "error", "--listen",
                                               "127.0.0.1:0", "--context", "512", "--profile", profile, "--helper",
                                               helper_address_, "--identity", (scratch_ / "provider").string(),
                                               "--state", (scratch_ / "records").string(), "--model", model_},
                      PERMLLM_BINARY);
    invite_ = make_invite(scratch_.path(), "alice", address_of(*provider_), helper_address_, tokens);
    options.state = scratch_ / "state";
    options.drafts = true;
    return Client(invite_, options);
  }
  const Scratch scratch_;
  const std::string model_ = (scratch_ / "model.gguf").string();
  std::optional<Process> helper_, provider_;
  std::string helper_address_, invite_;
};

ConversationOptions drafts_of_four() {
  ConversationOptions options;
  options.chat_format = "none";
  options.draft = 4;
  return options;
}
const std::vector<std::uint32_t> k_question{5, 6, 7};

TEST_F(DraftsOfClient, have_their_material_with_hidden_positions) {
  const Client client = this->client("fast", 1000);
  Conversation conversation = client.conversation(drafts_of_four());
  std::future<Answer> asked =
      std::async(std::launch::async, [&] { return conversation.answer(k_question, {.max_tokens = 40}); });
  if (asked.wait_for(60s) != std::future_status::ready) conversation.cancel();
  const Answer answer = asked.get();
  EXPECT_NE(answer.end, Answer::End::cancelled);
  EXPECT_GT(answer.cost.drafted_tokens, 0u);
}

// Another question is answered behind it: the conversation is free again.
TEST_F(DraftsOfClient, are_cancelled_while_they_wait_for_material) {
  const Client client = this->client("paper", 1000);
  Conversation conversation = client.conversation(drafts_of_four());
  std::promise<void> waits;
  bool told = false;
  std::future<Answer> asked = std::async(std::launch::async, [&] {
    return conversation.answer(k_question, {.max_tokens = 40}, nullptr, [&](const AnswerProgress& progress) {
      if (progress.stage != AnswerProgress::Stage::material || std::exchange(told, true)) return;
      kill(helper_->pid(), SIGSTOP);
      waits.set_value();
    });
  });
  waits.get_future().wait();
  conversation.cancel();
  const bool ended = asked.wait_for(60s) == std::future_status::ready;  // its patience is longer
  kill(helper_->pid(), SIGCONT);
  EXPECT_TRUE(ended);
  EXPECT_EQ(asked.get().end, Answer::End::cancelled);
  EXPECT_EQ(conversation.answer(k_question, {.max_tokens = 2}).tokens.size(), 2u);
}

// The provider charges drafted tokens, too: the allowance ends an answer sooner than one without drafts, and as that.
TEST_F(DraftsOfClient, are_charged_as_the_provider_charges_them) {
  {
    const Client client = this->client("open", 20);
    Conversation conversation = client.conversation(drafts_of_four());
    const Answer first = conversation.answer(k_question, {.max_tokens = 3});
    EXPECT_EQ(client.tokens_left(), 20 - 1 - first.cost.drafted_tokens - first.cost.passes);
    EXPECT_EQ(first.cost.tokens_left, client.tokens_left());
    const Answer second = conversation.answer(k_question, {.max_tokens = 15});
    if (second.end != Answer::End::model) {
      EXPECT_EQ(second.end, Answer::End::length);
      EXPECT_EQ(client.tokens_left(), 0u);
    }
  }
  EXPECT_EQ(Client(invite_, {.state = scratch_ / "state"}).tokens_left(), 0u);
}

// The next question may be another person's, of one gateway.
TEST_F(DraftsOfClient, know_nothing_of_a_text_behind_a_reset) {
  ClientOptions options;
  options.draft_model = model_;
  const Client client = this->client("open", 1000, options);
  Conversation conversation = client.conversation(drafts_of_four());
  const std::vector<std::uint32_t> question(40, 5);
  const auto ask = [&] {
    const std::size_t before = read;
    conversation.answer(question, {.max_tokens = 6});
    std::cerr << read - before << ' ';
    return read - before;
  };
  // How many tokens of its drafts the model reads for an answer depends on which hold, and the last may be read behind the answer.
  EXPECT_GE(ask(), question.size());
  EXPECT_LT(ask(), question.size());  // it goes on
  conversation.reset();
  EXPECT_GE(ask(), question.size());
}

}  // namespace
}  // namespace test
}  // namespace permllm
