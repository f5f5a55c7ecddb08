// Bodies of requests to the gateway, through to the ids of what they ask. The first byte of an input says to which of its addresses they go.
#include "fuzz/target.h"
#include "gateway/ollama.h"
#include "gateway/openai_chat.h"
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

constexpr const char* k_routes[] = {"/v1/chat/completions", "/v1/completions", "/tokenize",     "/v1/responses",
                                    "/v1/messages",         "/api/chat",       "/api/generate", "/detokenize"};

void read(int kind, std::string_view body) {
  if (kind == 7) {
    gateway::read_tokens(body);
    return;
  }
  if (kind == 2) {
    const gateway::Text text = gateway::read_text(body);
    text.content ? static_cast<void>(tokenizer().encode(*text.content, false)) : encode(text.messages, "chatml");
    return;
  }
  const gateway::Request request = gateway::dialect_of(k_routes[kind]).read(body);
  PERMLLM_ASSERT(!request.messages.empty() && request.answer.stop.size() <= 8 && request.max_tokens.value_or(1) > 0);
  gateway::slug(request.model);
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
  add(3,
      R"({"model":"m","instructions":"i","input":[{"role":"user","content":[{"type":"input_text","text":"a"}]},{"type":"function_call","call_id":"c","name":"f","arguments":"{}"},
            {"type":"function_call_output","call_id":"c","output":"o"},{"type":"reasoning","summary":[]}],"tools":[{"type":"function","name":"f","parameters":{},"strict":true}],
            "text":{"format":{"type":"json_schema","name":"n","schema":{"type":"object"}}},"store":false,"max_output_tokens":5,"include":[]})");
  add(4,
      R"({"model":"m","max_tokens":5,"system":[{"type":"text","text":"s"}],"messages":[{"role":"user","content":"a"},{"role":"assistant","content":[{"type":"text","text":"b"},
            {"type":"tool_use","id":"i","name":"f","input":{"x":1}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"i","content":"r"}]}],
            "tools":[{"name":"f","input_schema":{"type":"object"}}],"tool_choice":{"type":"auto"},"stop_sequences":["x"],"thinking":{"type":"enabled","budget_tokens":1024}})");
  add(5,
      R"({"model":"m:latest","messages":[{"role":"user","content":"a"},{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":{"x":1}}}]},
            {"role":"tool","tool_name":"f","content":"r"}],"format":{"type":"object"},"options":{"num_predict":-1,"temperature":0.5,"num_ctx":64,"stop":["x"]},"think":true,"keep_alive":"5m"})");
  add(6, R"({"model":"m","prompt":"p","system":"s","raw":false,"stream":false,"format":"json"})");
  add(7, R"({"tokens":[1,2,4294967295]})");
  return all;
}

}  // namespace permllm::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace permllm;
  if (size == 0) return 0;
  try {
    test::read(data[0] % 8, {reinterpret_cast<const char*>(data) + 1, size - 1});
  } catch (const Error&) {
  }
  return 0;
}
