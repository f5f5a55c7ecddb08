#include "rand/counter_mode.h"

#include <openssl/evp.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "base/mutex.h"
#include "permllm/error.h"

namespace permllm {
namespace {

static_assert(std::endian::native == std::endian::little);

using CipherContext = std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)>;

// Keyed contexts of OpenSSL that no thread is using: making one costs as much as a few thousand bytes of its stream.
class Contexts {
 public:
  explicit Contexts(const Seed& seed) : first_(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free) {
    PERMLLM_ASSERT(first_ != nullptr &&
                   EVP_EncryptInit_ex(first_.get(), EVP_aes_128_ecb(), nullptr, seed.bytes().data(), nullptr) == 1 &&
                   EVP_CIPHER_CTX_set_padding(first_.get(), 0) == 1);
  }
  CipherContext take() {
    {
      const Lock lock(mutex_);
      if (!free_.empty()) {
        CipherContext context = std::move(free_.back());
        free_.pop_back();
        return context;
      }
    }
    CipherContext context(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free);
    PERMLLM_ASSERT(context != nullptr && EVP_CIPHER_CTX_copy(context.get(), first_.get()) == 1);
    return context;
  }
  void give_back(CipherContext context) {
    const Lock lock(mutex_);
    free_.push_back(std::move(context));
  }

 private:
  CipherContext first_;  // only ever copied
  Mutex mutex_;
  std::vector<CipherContext> free_ GUARDED_BY(mutex_);
};

}  // namespace

struct CounterMode::Key {
  explicit Key(const Seed& seed) : contexts(seed) {}
  Contexts contexts;
};

CounterMode::CounterMode(const Seed& seed) : key_(new Key(seed)) {}
CounterMode::~CounterMode() = default;
CounterMode::CounterMode(CounterMode&&) noexcept = default;

// The counters are written out and encrypted in place, block by block: counter mode by its definition (NIST SP 800-38A, 6.5),
// without the cost of setting a cipher context to each new counter.
void CounterMode::read(const CounterBlock& counter, std::span<std::uint8_t> out) const {
  CipherContext context = key_->contexts.take();
  std::uint64_t high = 0, low = 0;
  std::memcpy(&high, counter.data(), 8);
  std::memcpy(&low, counter.data() + 8, 8);
  low = __builtin_bswap64(low);
  const auto encrypt = [&](std::uint8_t* blocks, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint64_t number = __builtin_bswap64(low + i);
      std::memcpy(blocks + 16 * i, &high, 8);
      std::memcpy(blocks + 16 * i + 8, &number, 8);
    }
    int written = 0;
    PERMLLM_ASSERT(EVP_EncryptUpdate(context.get(), blocks, &written, blocks, static_cast<int>(16 * count)) == 1);
    low += count;
  };
  constexpr std::size_t k_blocks = 512;  // at a time: they stay in the first cache
  for (std::size_t count; (count = std::min(out.size() / 16, k_blocks)) > 0; out = out.subspan(16 * count))
    encrypt(out.data(), count);
  if (!out.empty()) {
    CounterBlock last;
    encrypt(last.data(), 1);
    std::memcpy(out.data(), last.data(), out.size());
  }
  key_->contexts.give_back(std::move(context));
}

CounterBlock block_after(CounterBlock counter, std::uint64_t blocks) {
  for (std::size_t i = 16; i-- > 8; blocks >>= 8) {
    blocks += counter[i];
    counter[i] = static_cast<std::uint8_t>(blocks);
  }
  return counter;
}

}  // namespace permllm
