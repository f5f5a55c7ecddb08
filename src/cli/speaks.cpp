#include "cli/speaks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <vector>

#include "model/chat_format.h"
#include "model/quant.h"
#include "permllm/version.h"
#include "plan/plan.h"
#include "user/saved_conversation.h"
#include "wire/frame.h"

namespace permllm {

std::string what_it_speaks() {
#ifdef PERMLLM_COMMIT
  constexpr const char* k_commit = ", commit " PERMLLM_COMMIT;
#else
  constexpr const char* k_commit = "";
#endif
  std::vector<std::string> types;
  for (std::uint32_t type = 0; type < 256; ++type) {
    if (block_size(type).bytes != 0) types.emplace_back(ggml_type_name(type));
  }
  return fmt::format(
      "permllm {}, wire version {}{}\n"
      "profiles: {}, {}, {}\n"
      "models: GGUF with {}; the folder of ChatGLM-6B\n"
      "chat formats: the model's own template; {}\n"
      "saved conversations: version {}",
      version(), k_wire_version, k_commit, name_of(Profile::paper), name_of(Profile::fast), name_of(Profile::open),
      fmt::join(types, ", "), ChatFormat::names(), k_saved_conversation_version);
}

}  // namespace permllm
