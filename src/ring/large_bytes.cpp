#include "ring/large_bytes.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>

namespace permllm {

void LargeBytes::Free::operator()(std::uint8_t* memory) const { std::free(memory); }

LargeBytes::LargeBytes(std::size_t size) : size_(size) {
  constexpr std::size_t k_large = std::size_t{2} << 20;
  const std::size_t alignment = size >= 4 * k_large ? k_large : 64;
  const std::size_t whole = std::max(size + alignment - 1, alignment) / alignment * alignment;
  memory_.reset(static_cast<std::uint8_t*>(std::aligned_alloc(alignment, whole)));
  if (memory_ == nullptr) throw std::bad_alloc();
  if (alignment == k_large) madvise(memory_.get(), whole, MADV_HUGEPAGE);
}

}  // namespace permllm
