// Bodies of requests to the gateway, through to the ids of what they ask. The first byte of an input says to which of its addresses they go.
#include "fuzz/target.h"
#include "gateway/openai.h"
#include "model/chat_format.h"
#include "model/gguf.h"
#include "support/gguf_writer.h"

namespace permllm::test {
namespace {

const Tokenizer& tokenizer() {
  static const Tokenizer shared(Vocabulary::read(Gguf::parse(tiny_llama().finish())));
  return shared;
}

void encode(const std::vector<Message>& messages, const char* format) {
  std::vector<ChatMessage> all;
  for (const Message& message : messages) all.push_back({message.role, message.content});
  for (const TokenId id : ChatFormat::named(format).encode(tokenizer(), all)) PERMLLM_ASSERT(id < 260);
}

void read(int kind, std::string_view body) {
  if (kind == 2) {
    const openai::Text text = openai::parse_text(body);
    text.content ? static_cast<void>(tokenizer().encode(*text.content, false)) : encode(text.messages, "chatml");
    return;
  }
  const openai::Request request = kind == 0 ? openai::parse_chat(body) : openai::parse_completion(body);
  PERMLLM_ASSERT(!request.messages.empty() && request.answer.stop.size() <= 4 && request.max_tokens.value_or(1) > 0);
  openai::slug(request.model);
  for (const char* format : {"chatml", "none", "mistral", "llama2"}) {
    try {
      encode(request.messages, format);
    } catch (const Error&) {
    }
  }
}

}  // namespace

std::vector<std::vector<std::uint8_t>> seeds() {
  std::vector<std::vector<std::uint8_t>> all;
  const auto add = [&](std::uint8_t kind, std::string_view text) { add_seed(all, kind, text); };
  add(0,
      R"({"model":"m","messages":[{"role":"system","content":"be brief"},{"role":"user","content":[{"type":"text","text":"a\u00e9"},{"type":"text","text":"b"}]},
            {"role":"assistant","content":"c","tool_calls":[],"refusal":null},{"role":"developer","content":"\ud83e\udd99"}],"stream":true,
            "stream_options":{"include_usage":true},"max_tokens":3,"temperature":0.5,"top_p":0.9,"top_k":4,"min_p":0.1,"seed":-1,"stop":["x","y"],"n":1,"user":"u",
            "logit_bias":{},"presence_penalty":0,"response_format":{"type":"text"},"tools":[],"tool_choice":"none","modalities":["text"],"store":false,"metadata":{}})");
  add(0,
      R"({"messages":[{"role":"system","content":"alone"}],"max_completion_tokens":18446744073709551615,"seed":1e3})");
  add(1, R"({"prompt":["the th"],"max_tokens":16,"stop":"\n","echo":false,"best_of":1,"suffix":"","logprobs":null})");
  add(2, R"({"content":"the <|im_end|> th"})");
  add(2, R"({"model":"m","messages":[{"role":"user","content":"hi"}]})");
  return all;
}

}  // namespace permllm::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace permllm;
  if (size == 0) return 0;
  try {
    test::read(data[0] % 3, {reinterpret_cast<const char*>(data) + 1, size - 1});
  } catch (const Error&) {
  }
  return 0;
}
