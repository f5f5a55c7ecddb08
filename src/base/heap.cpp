#include "base/heap.h"

#include <malloc.h>

#include <atomic>
#include <chrono>

#include "base/clock.h"

namespace permllm {
namespace {

void trim(bool asked) {
  // It walks the whole heap and holds up whoever allocates meanwhile: of the time, it gets a fiftieth.
  constexpr int k_share = 50;
  static std::atomic<bool> left{false};  // much is free that was not given back
  static std::atomic<Clock::rep> next{0};
  if (asked) left = true;
  if (!left) return;
  const Clock::time_point begin = Clock::now();
  Clock::rep due = next;
  if (begin.time_since_epoch().count() < due ||
      !next.compare_exchange_strong(due, Clock::time_point::max().time_since_epoch().count()))
    return;
  left = false;  // before the walk: what others free meanwhile may be behind it
  malloc_trim(0);
  const Clock::time_point end = Clock::now();
  next = (end + k_share * (end - begin)).time_since_epoch().count();
}

}  // namespace

void prepare_heap() {
  // Set, they no longer grow with the largest block that was ever freed.
  mallopt(M_MMAP_THRESHOLD, 4 << 20);
  mallopt(M_TRIM_THRESHOLD, 16 << 20);
  // What one thread frees another uses: else as many threads as a user has connections would each keep what passed through them.
  mallopt(M_ARENA_MAX, 2);
}

void trim_heap() { trim(true); }
void trim_heap_if_due() { trim(false); }

}  // namespace permllm
