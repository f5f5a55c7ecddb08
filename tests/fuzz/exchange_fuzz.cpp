// What programs and models send a gateway: the head of a request, a body in chunks, an answer that may call tools, a schema and a text by it. The
// first byte of an input says which.
#include <algorithm>

#include "fuzz/target.h"
#include "permllm/error.h"
#include "service/http_head.h"
#include "structured/json_schema.h"
#include "structured/tool_calls.h"

namespace permllm::test {
namespace {

// What was made of a head is a head, and the same once more.
void read_head(std::string_view text) {
  const HttpHead head = http_head(text);
  PERMLLM_ASSERT(head.text.ends_with("\r\n\r\n"));
  if (head.fault == 0) PERMLLM_ASSERT(http_head(head.text).text == head.text);
}

// Pieces are as the whole.
void read_chunks(std::string_view text) {
  ChunkTrailer whole, pieces;
  std::string passed;
  for (const char& c : text) passed += pieces.pass({&c, 1});
  PERMLLM_ASSERT(whole.pass(text) == passed);
}

void read_answer(ToolFamily family, std::string_view text) {
  ToolReader whole(family, {"f", "weather"}), pieces(family, {"f", "weather"});
  std::string one = whole.push(text);
  one += whole.finish();
  std::string other;
  for (const char& c : text) other += pieces.push({&c, 1});
  other += pieces.finish();
  PERMLLM_ASSERT(one == other && whole.calls() == pieces.calls());
}

// A schema, and behind a zero a text: one that its grammar has keeps it.
void read_schema(std::string_view text) {
  const std::size_t end = std::min(text.find('\0'), text.size());
  JsonSchema::Json json = parse_shallow(text.substr(0, end));
  if (json.is_discarded()) return;
  const JsonSchema schema(std::move(json), "s");
  const std::string_view value = text.substr(std::min(end + 1, text.size()));
  GrammarState state = schema.state();
  const bool taken = state.push(value) && state.complete();
  const JsonSchema::Json parsed = parse_shallow(value);
  if (!parsed.is_discarded()) schema.keeps(parsed);
  if (taken && !parsed.is_discarded() && schema.exact()) PERMLLM_ASSERT(schema.keeps(parsed));
}

}  // namespace

std::vector<std::vector<std::uint8_t>> seeds() {
  std::vector<std::vector<std::uint8_t>> all;
  const auto add = [&](std::uint8_t kind, std::string_view text) { add_seed(all, kind, text); };
  add(0,
      "POST http://a:1/b?c HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nUpgrade: h2c\r\nExpect: 100-continue\r\n\r\n");
  add(1, "5;x\r\nabcde\r\n0\r\nX: y\r\n\r\n");
  for (std::uint8_t family = 0; family < 6; ++family) {
    add(static_cast<std::uint8_t>(2 + family),
        "So.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1]}}\n</tool_call>");
    add(static_cast<std::uint8_t>(2 + family), "[TOOL_CALLS]weather[ARGS]{\"city\": \"Rome\"}[TOOL_CALLS]f[ARGS]{}");
    add(static_cast<std::uint8_t>(2 + family),
        "<tool_call>f\n<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>");
    add(static_cast<std::uint8_t>(2 + family), "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"weather\"}");
  }
  using namespace std::string_view_literals;
  add(8,
      "{\"type\":\"object\",\"required\":[\"a\"],\"properties\":{\"a\":{\"enum\":[1,\"x\"]},\"b\":{\"type\":\"array\",\"items\":{\"$ref\":\"#\"},\"maxItems\":2}}}\0{\"a\": 1,\"b\":[]}"sv);
  add(8,
      "{\"anyOf\":[{\"type\":\"number\",\"minimum\":2},{\"type\":[\"string\",\"null\"]},{\"additionalProperties\":{\"type\":\"boolean\"},\"type\":\"object\"}]}\0{\"x\":true}"sv);
  return all;
}

}  // namespace permllm::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace permllm;
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    switch (const std::uint8_t kind = data[0] % 9) {
      case 0:
        test::read_head(text);
        break;
      case 1:
        test::read_chunks(text);
        break;
      case 8:
        test::read_schema(text);
        break;
      default:
        test::read_answer(static_cast<ToolFamily>(kind - 2), text);
    }
  } catch (const Error&) {
  }
  return 0;
}
