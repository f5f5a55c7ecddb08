// Tokenizers: a sentencepiece model, or the vocabulary of a GGUF file; then a text there and back, and a conversation.
#include "fuzz/target.h"
#include "model/chat_format.h"
#include "model/gguf.h"
#include "model/tokenizer.h"
#include "permllm/error.h"
#include "support/gguf_writer.h"

namespace permllm::test {
namespace {

template <class Read>
void use(const Read& read) {
  try {
    const Tokenizer tokenizer(read());
    for (const bool special : {false, true})
      tokenizer.decode(tokenizer.encode("The <s> t\xc3\xa9\xff 12\n", special), special);
    ChatFormat::from_template(tokenizer.vocabulary().chat_template)
        .encode(tokenizer, {{"system", "be brief"}, {"user", "the"}});
  } catch (const Error&) {
  }
}

// A ModelProto: pieces, each with a text, a score and a type; trainer_spec.model_type, normalizer_spec.
std::vector<std::uint8_t> sentencepiece_model(char kind) {
  std::string model;
  const auto field = [](std::string& to, char key, const std::string& value) {
    to += key + std::string(1, static_cast<char>(value.size())) + value;
  };
  const auto piece = [&](const std::string& text, char type) {
    std::string body;
    field(body, '\x0a', text);
    body += std::string("\x15\0\0\x80\xbf\x18", 6) + type;
    field(model, '\x0a', body);
  };
  piece("<unk>", 2);
  piece("<s>", 3);
  piece("</s>", 3);
  piece("\xe2\x96\x81", 1);
  for (const char* text : {"t", "h", "e", "th", "the", "\xe2\x96\x81the"}) piece(text, 1);
  piece("user", 4);
  field(model, '\x12', std::string("\x18") + kind);
  field(model, '\x1a', std::string("\x18\x01\x20\x00\x28\x01", 6));
  return {model.begin(), model.end()};
}

}  // namespace

std::vector<std::vector<std::uint8_t>> seeds() {
  const auto table = [](const char* model, const char* pre, const std::vector<std::string>& tokens) {
    GgufWriter w;
    w.text("tokenizer.ggml.model", model);
    w.text("tokenizer.ggml.pre", pre);
    w.texts("tokenizer.ggml.tokens", tokens);
    w.reals("tokenizer.ggml.scores", std::vector<float>(tokens.size(), -1.0f));
    w.numbers("tokenizer.ggml.token_type", std::vector<std::int32_t>(tokens.size(), 1));
    w.texts("tokenizer.ggml.merges", {"t h", "th e"});
    w.number("tokenizer.ggml.bos_token_id", 1);
    w.number("tokenizer.ggml.eos_token_id", 2);
    w.boolean("tokenizer.ggml.add_bos_token", true);
    w.text("tokenizer.chat_template", k_chatml);
    return w.finish();
  };
  std::vector<std::string> tokens{"<unk>",  "<s>",          "</s>",         "t",         "h", "e", "th", "the",
                                  "<0x0A>", "\xe2\x96\x81", "<|im_start|>", "<|im_end|>"};
  return {sentencepiece_model(1), sentencepiece_model(2), table("llama", "", tokens), table("gpt2", "gpt-2", tokens),
          table("gpt2", "llama-bpe", tokens)};
}

}  // namespace permllm::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace permllm;
  test::use([&] { return Vocabulary::read_sentencepiece({data, size}); });
  test::use([&] { return Vocabulary::read(Gguf::parse({data, data + size})); });
  return 0;
}
