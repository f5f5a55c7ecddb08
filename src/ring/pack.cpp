#include "ring/pack.h"

#include <cstring>

#include "ring/elementwise.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ring/pack.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace permllm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
using scalar::pack;
using scalar::unpack;
#else

using D = hn::ScalableTag<Word>;
using DBytes = hn::Repartition<std::uint8_t, D>;
using VBytes = hn::Vec<DBytes>;
constexpr std::size_t k_block = 16;  // byte shuffles stay within blocks of this size: two words
constexpr std::size_t k_vector = hn::MaxLanes(DBytes()), k_words = k_vector / 8;
constexpr std::uint8_t k_zero = 0x80;  // an index that yields 0

// Index of byte k of a block whose two words of `bytes` bytes lie side by side, and the way back.
VBytes narrowing(std::size_t bytes) {
  HWY_ALIGN std::uint8_t index[k_vector];
  for (std::size_t k = 0; k < k_vector; ++k) {
    const std::size_t at = k % k_block;
    index[k] = at < 2 * bytes ? static_cast<std::uint8_t>(at / bytes * 8 + at % bytes) : k_zero;
  }
  return hn::Load(DBytes(), index);
}
VBytes widening(std::size_t bytes) {
  HWY_ALIGN std::uint8_t index[k_vector];
  for (std::size_t k = 0; k < k_vector; ++k) {
    const std::size_t at = k % k_block;
    index[k] = at % 8 < bytes ? static_cast<std::uint8_t>(at / 8 * bytes + at % 8) : k_zero;
  }
  return hn::Load(DBytes(), index);
}

// How the blocks of a vector meet the bytes on the wire: `bytes` pairs of bytes from each block, one block after the
// other. What a store writes beyond its words belongs to later words, which are written later; what a load reads beyond
// them does not count. `reach` is how many bytes from its first word's on a store or load touches.
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
struct Blocks {
  __m512i together, apart;
  HWY_INLINE explicit Blocks(std::size_t bytes) {
    HWY_ALIGN std::uint16_t in[32] = {}, out[32] = {};
    for (std::size_t k = 0; k < 32; ++k) {
      out[k] = static_cast<std::uint16_t>(k < 4 * bytes ? k / bytes * 8 + k % bytes : 0);
      in[k] = static_cast<std::uint16_t>((k / 8 * bytes + k % 8) % 32);
    }
    together = _mm512_load_si512(out);
    apart = _mm512_load_si512(in);
  }
  static constexpr std::size_t reach(std::size_t) { return k_vector; }
  HWY_INLINE void store(VBytes v, std::size_t, std::uint8_t* out) const {
    _mm512_storeu_si512(out, _mm512_permutexvar_epi16(together, v.raw));
  }
  HWY_INLINE VBytes load(const std::uint8_t* in, std::size_t) const {
    return VBytes{_mm512_permutexvar_epi16(apart, _mm512_loadu_si512(in))};
  }
};
#elif HWY_TARGET == HWY_AVX2
struct Blocks {
  using Block = hn::Half<DBytes>;
  HWY_INLINE explicit Blocks(std::size_t) {}
  static constexpr std::size_t reach(std::size_t bytes) { return 2 * bytes + k_block; }
  HWY_INLINE void store(VBytes v, std::size_t bytes, std::uint8_t* out) const {
    hn::StoreU(hn::LowerHalf(v), Block(), out);
    hn::StoreU(hn::UpperHalf(Block(), v), Block(), out + 2 * bytes);
  }
  HWY_INLINE VBytes load(const std::uint8_t* in, std::size_t bytes) const {
    return hn::Combine(DBytes(), hn::LoadU(Block(), in + 2 * bytes), hn::LoadU(Block(), in));
  }
};
#else
static_assert(k_vector == k_block);
struct Blocks {
  HWY_INLINE explicit Blocks(std::size_t) {}
  static constexpr std::size_t reach(std::size_t) { return k_block; }
  HWY_INLINE void store(VBytes v, std::size_t, std::uint8_t* out) const { hn::StoreU(v, DBytes(), out); }
  HWY_INLINE VBytes load(const std::uint8_t* in, std::size_t) const { return hn::LoadU(DBytes(), in); }
};
#endif

void pack(std::span<const Word> words, Ring ring, std::uint8_t* out) {
  const std::size_t bytes = ring.bytes(), total = words.size() * bytes, reach = Blocks::reach(bytes);
  const Blocks blocks(bytes);
  const VBytes index = narrowing(bytes);
  const auto mask = hn::Set(D(), ring.mask());
  std::size_t j = 0;
  for (; j + k_words <= words.size() && j * bytes + reach <= total; j += k_words) {
    const auto reduced = hn::BitCast(DBytes(), hn::And(hn::LoadU(D(), words.data() + j), mask));
    blocks.store(hn::TableLookupBytes(reduced, index), bytes, out + j * bytes);
  }
  scalar::pack(words.subspan(j), ring, out + j * bytes);
}

void unpack(const std::uint8_t* in, Ring ring, std::span<Word> words) {
  const std::size_t bytes = ring.bytes(), total = words.size() * bytes, reach = Blocks::reach(bytes);
  const Blocks blocks(bytes);
  const VBytes index = widening(bytes);
  const auto mask = hn::Set(D(), ring.mask());
  std::size_t j = 0;
  for (; j + k_words <= words.size() && j * bytes + reach <= total; j += k_words) {
    const auto wide = hn::TableLookupBytes(blocks.load(in + j * bytes, bytes), index);
    hn::StoreU(hn::And(hn::BitCast(D(), wide), mask), D(), words.data() + j);
  }
  scalar::unpack(in + j * bytes, ring, words.subspan(j));
}

#endif  // HWY_SCALAR

}  // namespace permllm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace permllm {

HWY_EXPORT(pack);
HWY_EXPORT(unpack);

void pack(std::span<const Word> words, Ring ring, std::uint8_t* out) { HWY_DYNAMIC_DISPATCH(pack)(words, ring, out); }
void unpack(const std::uint8_t* in, Ring ring, std::span<Word> words) { HWY_DYNAMIC_DISPATCH(unpack)(in, ring, words); }

namespace scalar {

// All but the last few words move as whole 8-byte stores and loads, which may touch the bytes of the following words
// but nothing outside the range.
void pack(std::span<const Word> words, Ring ring, std::uint8_t* out) {
  const std::size_t bytes = ring.bytes();
  std::size_t i = 0;
  for (; i + 8 <= words.size(); ++i) {
    const Word word = words[i] & ring.mask();
    std::memcpy(out + i * bytes, &word, 8);
  }
  for (; i < words.size(); ++i) {
    const Word word = words[i] & ring.mask();
    std::memcpy(out + i * bytes, &word, bytes);
  }
}

void unpack(const std::uint8_t* in, Ring ring, std::span<Word> words) {
  const std::size_t bytes = ring.bytes();
  std::size_t i = 0;
  for (; i + 8 <= words.size(); ++i) {
    Word word;
    std::memcpy(&word, in + i * bytes, 8);
    words[i] = word & ring.mask();
  }
  for (; i < words.size(); ++i) {
    Word word = 0;
    std::memcpy(&word, in + i * bytes, bytes);
    words[i] = word & ring.mask();
  }
}

}  // namespace scalar
void pack(std::span<const Wide> words, Ring ring, std::uint8_t* out) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    const Wide word = words[i] & ring.mask<Wide>();
    std::memcpy(out + i * ring.bytes(), &word, ring.bytes());
  }
}

void unpack(const std::uint8_t* in, Ring ring, std::span<Wide> words) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    Wide word = 0;
    std::memcpy(&word, in + i * ring.bytes(), ring.bytes());
    words[i] = word & ring.mask<Wide>();
  }
}

}  // namespace permllm
#endif  // HWY_ONCE
