#include "base/heap.h"

#include <malloc.h>

namespace permllm {

void prepare_heap() {
  // Set, they no longer grow with the largest block that was ever freed.
  mallopt(M_MMAP_THRESHOLD, 4 << 20);
  mallopt(M_TRIM_THRESHOLD, 16 << 20);
}

void trim_heap() { malloc_trim(0); }

}  // namespace permllm
