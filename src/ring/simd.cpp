#include "ring/simd.h"

#include <hwy/targets.h>

#include <cstdlib>
#include <string>

namespace permllm::kernels {

bool cap_target() {
  const char* cap = std::getenv("PERMLLM_SIMD");
  if (cap == nullptr) return false;
  const std::string name(cap);
  const std::int64_t best = name == "scalar"  ? HWY_SCALAR
                            : name == "ssse3" ? HWY_SSSE3
                            : name == "sse4"  ? HWY_SSE4
                            : name == "avx2"  ? HWY_AVX2
                                              : HWY_AVX3;
  // Targets are bits; a better one is a lower bit.
  hwy::SetSupportedTargetsForTest(hwy::SupportedTargets() & ~(best - 1));
  return true;
}

}  // namespace permllm::kernels
