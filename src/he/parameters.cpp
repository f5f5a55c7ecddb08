#include "he/parameters.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "permllm/error.h"

namespace permllm::he {

Parameters parameters_of(std::size_t vocabulary) {
  if (vocabulary == 0 || vocabulary > k_most_vocabulary) {
    throw Error(Code::unsupported, "vocabulary",
                fmt::format("{} entries, encrypted retrieval supports 1 to {}", vocabulary, k_most_vocabulary));
  }
  const int bits = std::max(k_least_plain_bits, static_cast<int>(std::bit_width(vocabulary - 1)));
  return {vocabulary, bits, (vocabulary + k_degree - 1) / k_degree};
}

}  // namespace permllm::he
