#include "rand/counter_mode.h"

#include <openssl/evp.h>

#include <cstring>
#include <mutex>
#include <vector>

#include "permllm/error.h"

namespace permllm {
namespace {

using CipherContext = std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)>;

// Keyed contexts of OpenSSL that no thread is using: making one costs as much as a few thousand bytes of its stream.
class Contexts {
 public:
  explicit Contexts(const Seed& seed) : first_(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free) {
    const CounterBlock zero{};
    PERMLLM_ASSERT(first_ != nullptr && EVP_EncryptInit_ex(first_.get(), EVP_aes_128_ctr(), nullptr, seed.bytes().data(),
                                                           zero.data()) == 1);
  }
  CipherContext take() {
    {
      const std::lock_guard lock(mutex_);
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
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(context));
  }

 private:
  CipherContext first_;  // only ever copied
  std::mutex mutex_;
  std::vector<CipherContext> free_;
};

}  // namespace

struct CounterMode::Key {
  explicit Key(const Seed& seed) : contexts(seed) {}
  Contexts contexts;
};

CounterMode::CounterMode(const Seed& seed) : key_(new Key(seed)) {}
CounterMode::~CounterMode() = default;
CounterMode::CounterMode(CounterMode&&) noexcept = default;

void CounterMode::read(const CounterBlock& counter, std::span<std::uint8_t> out) const {
  CipherContext context = key_->contexts.take();
  PERMLLM_ASSERT(EVP_EncryptInit_ex(context.get(), nullptr, nullptr, nullptr, counter.data()) == 1);
  constexpr std::size_t k_step = std::size_t{1} << 30;  // EVP counts in int
  while (!out.empty()) {
    const std::size_t step = out.size() < k_step ? out.size() : k_step;
    std::memset(out.data(), 0, step);
    int written = 0;
    PERMLLM_ASSERT(EVP_EncryptUpdate(context.get(), out.data(), &written, out.data(), static_cast<int>(step)) == 1);
    out = out.subspan(step);
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
