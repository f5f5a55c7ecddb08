#include "user/draft.h"

#include <algorithm>

#include "permllm/error.h"

namespace permllm {

std::vector<TokenId> draft_by_lookup(std::span<const TokenId> history, std::size_t n) {
  PERMLLM_ASSERT(!history.empty());
  std::vector<TokenId> draft;
  for (std::size_t length = std::min<std::size_t>(3, history.size() - 1); length > 0 && draft.empty(); --length) {
    const auto suffix = history.last(length);
    for (std::size_t end = history.size() - 1; end >= length; --end) {
      if (!std::equal(suffix.begin(), suffix.end(), history.begin() + static_cast<std::ptrdiff_t>(end - length)))
        continue;
      const auto follows = history.subspan(end, std::min(n, history.size() - end));
      draft.assign(follows.begin(), follows.end());
      break;
    }
  }
  draft.resize(n, history.back());
  return draft;
}

}  // namespace permllm
