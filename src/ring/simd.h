// Which instructions the kernels may use.
#pragma once

namespace permllm::kernels {

// Applies PERMLLM_SIMD ("scalar", "ssse3", "sse4", "avx2", "avx3"), which caps the target so that tests can compare them.
// Each file of kernels calls this while it is loaded: a cap counts for what is dispatched after it.
bool cap_target();

}  // namespace permllm::kernels
