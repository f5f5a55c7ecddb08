// A question's text is cut into ids once, however long it waits and however many conversations it might go on with. Linked with --wrap for
// ChatFormat::encode (tests/CMakeLists.txt), so that each cut is counted.
#include "base/temporary_directory.h"
#include "gateway/desk.h"
#include "gateway/harness.h"
#include "model/chat_format.h"

namespace permllm {
namespace {
std::atomic<std::size_t> encoded = 0;
}  // namespace

std::vector<TokenId>
real_encode(const ChatFormat* format, const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages, bool think, const ChatExtras& extras) asm(
    "__real__ZNK7permllm10ChatFormat6encodeERKNS_9TokenizerERKSt6vectorINS_11ChatMessageESaIS5_EEbRKNS_10ChatExtrasE");
std::vector<TokenId>
counted_encode(const ChatFormat* format, const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages, bool think, const ChatExtras& extras) asm(
    "__wrap__ZNK7permllm10ChatFormat6encodeERKNS_9TokenizerERKSt6vectorINS_11ChatMessageESaIS5_EEbRKNS_10ChatExtrasE");
std::vector<TokenId> counted_encode(const ChatFormat* format, const Tokenizer& tokenizer,
                                    const std::vector<ChatMessage>& messages, bool think, const ChatExtras& extras) {
  ++encoded;
  return real_encode(format, tokenizer, messages, think, extras);
}

namespace gateway_test {
namespace {

TEST(Ids, of_a_question_are_made_once_and_carried) {
  const TemporaryDirectory folder;
  Parties parties(folder.path() / "parties");
  ClientOptions with;
  with.state = folder.path() / "state";
  const Client client(parties.invite(), with);
  Log log("serve", {"text", "off"});
  DeskOptions options;
  options.sessions = 3;
  const auto backend = backend_of(client);
  AnswerDesk desk(*backend, options, log);
  std::vector<Message> dialogue;
  const auto ask = [&](const std::string& text) {
    dialogue.push_back({"user", text});
    gateway::Request request;
    request.messages = dialogue;
    request.max_tokens = 1;
    const auto ticket = desk.ask(0, request, gateway::Head(), "", "");
    AnswerJob& job = **ticket;
    job.wait(SIZE_MAX, steady_clock::now() + 60s);
    EXPECT_FALSE(job.failure()) << job.failure()->message;
    dialogue.push_back({"assistant", job.made().choices.at(0).text});
    return gateway::cached_tokens(job.made().costs.cost);
  };
  ask("Y");
  EXPECT_EQ(encoded, 1u);
  dialogue.clear();
  ask("No other?");  // beside the first, which it might go on with
  EXPECT_EQ(encoded, 2u);
  EXPECT_GT(ask("Z"), 0u);
  EXPECT_EQ(encoded, 3u);
}

}  // namespace
}  // namespace gateway_test
}  // namespace permllm
