// Which instructions the kernels may use.
#pragma once

namespace permllm::kernels {

// PERMLLM_SIMD caps the target of all kernels ("scalar", "ssse3", "sse4", "avx2", "avx3"), so that tests can compare them.
// Every file of kernels calls this before main; returns whether there is a cap.
bool cap_simd();

}  // namespace permllm::kernels
