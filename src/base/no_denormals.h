// How a thread counts the smallest numbers.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace permllm {

// While it lives, numbers too small for the usual format count as 0 in this thread and those that it starts: their slow path
// would tell of values in time.
class NoDenormals {
 public:
#if defined(__SSE2__)
  NoDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~NoDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#else
  NoDenormals() {}
#endif
};

}  // namespace permllm
