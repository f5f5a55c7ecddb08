#include "rand/aes.h"

#include <cstring>

#include "ring/simd.h"

#define HWY_WANT_AVX3_DL
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "rand/aes.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace permllm::aes::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_AVX3_DL
using Bytes = hn::ScalableTag<std::uint8_t>;
using Numbers = hn::Repartition<std::uint64_t, Bytes>;
using V = hn::Vec<Bytes>;

bool available() { return true; }

// FIPS 197, section 5.2. With four equal columns the last round's shift of rows does nothing, and its key is zero: what is
// left is the substitution of each byte.
void expand(const std::uint8_t* key, std::uint8_t* keys) {
  const hn::FixedTag<std::uint32_t, 4> d;
  const hn::FixedTag<std::uint8_t, 16> bytes;
  std::uint32_t words[44], round = 1;
  std::memcpy(words, key, 16);
  for (int i = 4; i < 44; ++i) {
    std::uint32_t word = words[i - 1];
    if (i % 4 == 0) {
      word = hn::GetLane(hn::BitCast(d, hn::AESLastRound(hn::BitCast(bytes, hn::Set(d, word)), hn::Zero(bytes))));
      word = (word >> 8 | word << 24) ^ round;
      round = round << 1 ^ (round >> 7) * 0x11b;
    }
    words[i] = words[i - 4] ^ word;
  }
  std::memcpy(keys, words, sizeof words);
}

HWY_INLINE V key_of(const std::uint8_t* keys, std::size_t round) { return hn::LoadDup128(Bytes(), keys + 16 * round); }

// The last 8 bytes of each block, which are kept as numbers, in their order.
HWY_INLINE V big_endian(hn::Vec<Numbers> counters) {
  alignas(16) constexpr std::uint8_t k_order[16] = {0, 1, 2, 3, 4, 5, 6, 7, 15, 14, 13, 12, 11, 10, 9, 8};
  return hn::TableLookupBytes(hn::BitCast(Bytes(), counters), hn::LoadDup128(Bytes(), k_order));
}

HWY_INLINE V one_vector(const std::uint8_t* keys, hn::Vec<Numbers> counters) {
  V a = hn::Xor(big_endian(counters), key_of(keys, 0));
  for (std::size_t r = 1; r < 10; ++r) a = hn::AESRound(a, key_of(keys, r));
  return hn::AESLastRound(a, key_of(keys, 10));
}

void counter_mode(const std::uint8_t* keys, const std::uint8_t* counter, std::uint8_t* out, std::size_t size) {
  const Bytes bytes;
  const Numbers numbers;
  constexpr std::size_t k_vector = hn::MaxLanes(Bytes());
  alignas(64) std::uint64_t begin[8], blocks[8];
  for (std::size_t i = 0; i < 4; ++i) {
    std::memcpy(&begin[2 * i], counter, 16);
    begin[2 * i + 1] = __builtin_bswap64(begin[2 * i + 1]) + i;
    blocks[2 * i] = 0;
    blocks[2 * i + 1] = 4;
  }
  auto at = hn::Load(numbers, begin);
  const auto step = hn::Load(numbers, blocks);
  const auto next = [&] {
    const V block = hn::Xor(big_endian(at), key_of(keys, 0));
    at = hn::Add(at, step);
    return block;
  };
  // Named vectors, because GCC 12 puts an array of them on the stack; eight, to cover the latency of a round.
  for (; size >= 8 * k_vector; size -= 8 * k_vector, out += 8 * k_vector) {
    V a = next(), b = next(), c = next(), d = next(), e = next(), f = next(), g = next(), h = next();
    for (std::size_t r = 1; r < 10; ++r) {
      const V key = key_of(keys, r);
      a = hn::AESRound(a, key), b = hn::AESRound(b, key), c = hn::AESRound(c, key), d = hn::AESRound(d, key);
      e = hn::AESRound(e, key), f = hn::AESRound(f, key), g = hn::AESRound(g, key), h = hn::AESRound(h, key);
    }
    const V last = key_of(keys, 10);
    hn::StoreU(hn::AESLastRound(a, last), bytes, out), hn::StoreU(hn::AESLastRound(b, last), bytes, out + k_vector);
    hn::StoreU(hn::AESLastRound(c, last), bytes, out + 2 * k_vector), hn::StoreU(hn::AESLastRound(d, last), bytes, out + 3 * k_vector);
    hn::StoreU(hn::AESLastRound(e, last), bytes, out + 4 * k_vector), hn::StoreU(hn::AESLastRound(f, last), bytes, out + 5 * k_vector);
    hn::StoreU(hn::AESLastRound(g, last), bytes, out + 6 * k_vector), hn::StoreU(hn::AESLastRound(h, last), bytes, out + 7 * k_vector);
  }
  for (; size != 0; at = hn::Add(at, step)) {
    alignas(64) std::uint8_t block[k_vector];
    hn::Store(one_vector(keys, at), bytes, block);
    const std::size_t part = HWY_MIN(size, k_vector);
    std::memcpy(out, block, part);
    out += part, size -= part;
  }
}
#else
bool available() { return false; }
void expand(const std::uint8_t*, std::uint8_t*) {}
void counter_mode(const std::uint8_t*, const std::uint8_t*, std::uint8_t*, std::size_t) {}
#endif

}  // namespace permllm::aes::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace permllm::aes {

HWY_EXPORT(available);
HWY_EXPORT(expand);
HWY_EXPORT(counter_mode);

namespace {
const bool k_capped = kernels::cap_target();
}  // namespace

bool available() { return HWY_DYNAMIC_DISPATCH(available)(); }

RoundKeys expand(std::span<const std::uint8_t, 16> key) {
  RoundKeys keys;
  HWY_DYNAMIC_DISPATCH(expand)(key.data(), keys.bytes.data());
  return keys;
}

void counter_mode(const RoundKeys& keys, const CounterBlock& counter, std::span<std::uint8_t> out) {
  HWY_DYNAMIC_DISPATCH(counter_mode)(keys.bytes.data(), counter.data(), out.data(), out.size());
}

}  // namespace permllm::aes
#endif  // HWY_ONCE
