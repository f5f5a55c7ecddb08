#include "permllm/version.h"

namespace permllm {

const char* version() noexcept { return PERMLLM_VERSION; }

}  // namespace permllm
