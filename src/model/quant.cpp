#include "model/quant.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <iterator>

#include "permllm/error.h"
#include "ring/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/quant.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

// One struct for a block of each type, its fields in the order of the file, and one function that unpacks it, to real numbers or to codes,
// compiled once for each target. Products are exact in single precision, 11 bits of a half by at most 13 of a group's scale and a number, so
// that it does not matter whether a target rounds product and sum together.
HWY_BEFORE_NAMESPACE();
namespace permllm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Byte = std::uint8_t;

struct Half {
  Byte low, high;
};

// Without a choice, which would keep the compiler from vectors. A subnormal half has no leading one: it is given one, which is
// then subtracted.
HWY_INLINE float real(Half half) {
  const std::int32_t bits = half.low | half.high << 8;
  const std::int32_t rest = (bits & 0x7fff) << 13;  // at its place in a float
  const std::int32_t subnormal = (rest - (1 << 23)) >> 31, special = ((31 << 23) - 1 - rest) >> 31;  // all ones or zero
  const std::int32_t raised = rest + (112 << 23) + (subnormal & 1 << 23) + (special & 112 << 23);
  const float value = std::bit_cast<float>(raised) - std::bit_cast<float>(subnormal & 113 << 23);
  return std::bit_cast<float>(std::bit_cast<std::int32_t>(value) | (bits >> 15) * INT32_MIN);
}

// Sixteen numbers at a time.
using Bytes = Byte __attribute__((vector_size(16)));

HWY_INLINE Bytes load(const void* from) {
  Bytes v;
  std::memcpy(&v, from, 16);
  return v;
}

// Numbers v from -128 to 127 as d v + m.
HWY_INLINE void scale(Bytes v, float d, float m, float* HWY_RESTRICT to) {
  alignas(16) std::int8_t whole[16];
  std::memcpy(whole, &v, 16);
#if HWY_TARGET == HWY_SCALAR
  for (int i = 0; i < 16; ++i) to[i] = d * static_cast<float>(whole[i]) + m;
#else
  const hn::CappedTag<float, 16> f;
  const hn::RebindToSigned<decltype(f)> ints;
  const hn::Rebind<std::int8_t, decltype(f)> bytes;
  for (std::size_t i = 0; i < 16; i += hn::Lanes(f)) {
    const auto real = hn::ConvertTo(f, hn::PromoteTo(ints, hn::LoadU(bytes, whole + i)));
    hn::StoreU(hn::Add(hn::Mul(real, hn::Set(f, d)), hn::Set(f, m)), f, to + i);
  }
#endif
}

// What becomes of a block: its numbers in order, sixteen by sixteen, each d v + m.
struct Reals {
  float* to;
  HWY_INLINE void put(Bytes v, float d, float m = -0.0f) {
    scale(v, d, m, to);
    to += 16;
  }
};
// Codes from 0 on, and the weight of code 0. `least`: the least v of the type.
struct Codes {
  Byte* codes;
  float *scale, *least_weight;
  int least;
  HWY_INLINE void put(Bytes v, float d, float m = 0.0f) {
    v -= static_cast<Byte>(least);
    std::memcpy(codes, &v, 16);
    codes += 16;
    *scale++ = d;
    *least_weight++ = d * static_cast<float>(least) + m;
  }
};

// 16 for each number whose bit is set in 16 bits.
HWY_INLINE Bytes fifth_bits(const Byte* bits) {
  constexpr Bytes alone{1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const Byte a = bits[0], b = bits[1];
  const Bytes spread{a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b};
  return reinterpret_cast<Bytes>((spread & alone) != 0) & 16;
}

// The numbers of the IQ4 types, by their 4 bits.
HWY_INLINE Bytes look_up(Bytes v) {
  constexpr std::int8_t k_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
#if HWY_TARGET == HWY_SCALAR
  for (int i = 0; i < 16; ++i) v[i] = static_cast<Byte>(k_values[v[i]]);
#else
  const hn::FixedTag<std::int8_t, 16> d;
  auto* lanes = reinterpret_cast<std::int8_t*>(&v);
  hn::StoreU(hn::TableLookupBytes(hn::LoadU(d, k_values), hn::LoadU(d, lanes)), d, lanes);
#endif
  return v;
}

struct F32 {
  static constexpr std::size_t elements = 1;
  Byte bytes[4];
};
HWY_INLINE void unpack(const F32& b, float* to) { std::memcpy(to, b.bytes, 4); }

struct F16 {
  static constexpr std::size_t elements = 1;
  Half value;
};
HWY_INLINE void unpack(const F16& b, float* to) { *to = real(b.value); }

struct BF16 {
  static constexpr std::size_t elements = 1;
  Half value;  // the high half of a float
};
HWY_INLINE void unpack(const BF16& b, float* to) {
  *to = std::bit_cast<float>(std::uint32_t{b.value.low} << 16 | std::uint32_t{b.value.high} << 24);
}

struct Q8_0 {
  static constexpr std::size_t elements = 32;
  Half d;
  std::int8_t v[32];
};
template <class Out>
HWY_INLINE void unpack(const Q8_0& b, Out& out) {
  const float d = real(b.d);
  out.put(load(b.v), d);
  out.put(load(b.v + 16), d);
}

// The 32-number types with 4 bits in 16 bytes: the first half of the numbers are the low bits.
struct Q4_0 {
  static constexpr std::size_t elements = 32;
  Half d;
  Byte low[16];
};
template <class Out>
HWY_INLINE void unpack(const Q4_0& b, Out& out) {
  const float d = real(b.d);
  const Bytes low = load(b.low);
  out.put((low & 15) - 8, d);
  out.put((low >> 4) - 8, d);
}

struct Q4_1 {
  static constexpr std::size_t elements = 32;
  Half d, m;
  Byte low[16];
};
template <class Out>
HWY_INLINE void unpack(const Q4_1& b, Out& out) {
  const float d = real(b.d), m = real(b.m);
  const Bytes low = load(b.low);
  out.put(low & 15, d, m);
  out.put(low >> 4, d, m);
}

struct Q5_0 {
  static constexpr std::size_t elements = 32;
  Half d;
  Byte high[4], low[16];
};
template <class Out>
HWY_INLINE void unpack(const Q5_0& b, Out& out) {
  const float d = real(b.d);
  const Bytes low = load(b.low);
  out.put(((low & 15) | fifth_bits(b.high)) - 16, d);
  out.put((low >> 4 | fifth_bits(b.high + 2)) - 16, d);
}

struct Q5_1 {
  static constexpr std::size_t elements = 32;
  Half d, m;
  Byte high[4], low[16];
};
template <class Out>
HWY_INLINE void unpack(const Q5_1& b, Out& out) {
  const float d = real(b.d), m = real(b.m);
  const Bytes low = load(b.low);
  out.put((low & 15) | fifth_bits(b.high), d, m);
  out.put(low >> 4 | fifth_bits(b.high + 2), d, m);
}

struct IQ4_NL {
  static constexpr std::size_t elements = 32;
  Half d;
  Byte low[16];
};
template <class Out>
HWY_INLINE void unpack(const IQ4_NL& b, Out& out) {
  const float d = real(b.d);
  const Bytes low = load(b.low);
  out.put(look_up(low & 15), d);
  out.put(look_up(low >> 4), d);
}

// The 256-number types have a scale for each 16 or 32 numbers. IQ4_XS: a scale has 4 bits in scales_low, 2 in scales_high.
struct IQ4_XS {
  static constexpr std::size_t elements = 256;
  Half d;
  Byte scales_high[2], scales_low[4], low[128];
};
template <class Out>
HWY_INLINE void unpack(const IQ4_XS& b, Out& out) {
  for (int g = 0; g < 8; ++g) {
    const int bits = ((b.scales_low[g / 2] >> g % 2 * 4) & 15) | ((b.scales_high[g / 4] >> g % 4 * 2) & 3) << 4;
    const float d = real(b.d) * static_cast<float>(bits - 32);
    const Bytes low = load(b.low + 16 * g);
    out.put(look_up(low & 15), d);
    out.put(look_up(low >> 4), d);
  }
}

// Two bits each: 128 numbers in 32 bytes, the first 32 in the lowest bits, the next 32 in the bits above, and so on.
// Those of group g, of 16.
HWY_INLINE Bytes pairs(const Byte* from, int g) { return load(from + g / 8 * 32 + g % 2 * 16) >> g / 2 % 4 * 2 & 3; }

struct Q2_K {  // a byte of scales holds a group's scale and, above it, its least value
  static constexpr std::size_t elements = 256;
  Byte scales[16], low[64];
  Half d, m;
};
template <class Out>
HWY_INLINE void unpack(const Q2_K& b, Out& out) {
  const float d = real(b.d), m = real(b.m);
  for (int g = 0; g < 16; ++g) {
    out.put(pairs(b.low, g), d * static_cast<float>(b.scales[g] & 15), -(m * static_cast<float>(b.scales[g] >> 4)));
  }
}

struct Q3_K {  // a scale has 4 bits in the first 8 bytes of scales, 2 in the last 4; a third bit unset is 4 less
  static constexpr std::size_t elements = 256;
  Byte high[32], low[64], scales[12];
  Half d;
};
template <class Out>
HWY_INLINE void unpack(const Q3_K& b, Out& out) {
  const float d = real(b.d);
  for (int g = 0; g < 16; ++g) {
    const int bits = ((b.scales[g % 8] >> g / 8 * 4) & 15) | ((b.scales[8 + g % 4] >> g / 4 * 2) & 3) << 4;
    const Bytes third = load(b.high + g % 2 * 16) >> g / 2 & 1;
    out.put((pairs(b.low, g) | third << 2) - 4, d * static_cast<float>(bits - 32));
  }
}

// Scale and least value of the 8 groups of Q4_K and Q5_K, 6 bits each. Those of the first four groups are the low bits of
// bytes 0 to 3 and 4 to 7; those of the last four are halves of bytes 8 to 11, with the high bits of bytes 0 to 7 above.
struct GroupScales {
  Byte bytes[12];
  HWY_INLINE int scale(int g) const { return g < 4 ? bytes[g] & 63 : (bytes[g + 4] & 15) | bytes[g - 4] >> 6 << 4; }
  HWY_INLINE int least(int g) const { return g < 4 ? bytes[g + 4] & 63 : bytes[g + 4] >> 4 | bytes[g] >> 6 << 4; }
};

struct Q4_K {  // 64 numbers in 32 bytes
  static constexpr std::size_t elements = 256;
  Half d, m;
  GroupScales scales;
  Byte low[128];
};
template <class Out>
HWY_INLINE void unpack(const Q4_K& b, Out& out) {
  for (int g = 0; g < 8; ++g) {
    const float d = real(b.d) * static_cast<float>(b.scales.scale(g)),
                m = -(real(b.m) * static_cast<float>(b.scales.least(g)));
    for (int i = 0; i < 32; i += 16) out.put(load(b.low + g / 2 * 32 + i) >> g % 2 * 4 & 15, d, m);
  }
}

struct Q5_K {
  static constexpr std::size_t elements = 256;
  Half d, m;
  GroupScales scales;
  Byte high[32], low[128];
};
template <class Out>
HWY_INLINE void unpack(const Q5_K& b, Out& out) {
  for (int g = 0; g < 8; ++g) {
    const float d = real(b.d) * static_cast<float>(b.scales.scale(g)),
                m = -(real(b.m) * static_cast<float>(b.scales.least(g)));
    for (int i = 0; i < 32; i += 16) {
      const Bytes fifth = load(b.high + i) >> g & 1;
      out.put((load(b.low + g / 2 * 32 + i) >> g % 2 * 4 & 15) | fifth << 4, d, m);
    }
  }
}

struct Q6_K {  // halves of 128 numbers with 4 bits in 64 bytes of low, 2 in 32 bytes of high
  static constexpr std::size_t elements = 256;
  Byte low[128], high[64];
  std::int8_t scales[16];
  Half d;
};
template <class Out>
HWY_INLINE void unpack(const Q6_K& b, Out& out) {
  const float d = real(b.d);
  for (int g = 0; g < 16; ++g) {
    const Bytes low = load(b.low + g / 8 * 64 + g % 4 * 16) >> g / 4 % 2 * 4 & 15;
    out.put((low | pairs(b.high, g) << 4) - 32, d * static_cast<float>(b.scales[g]));
  }
}

// The least v of the types that have codes.
template <class Block>
constexpr int k_least = 0;
template <>
constexpr int k_least<Q4_0> = -8;
template <>
constexpr int k_least<Q5_0> = -16;
template <>
constexpr int k_least<Q8_0> = -128;
template <>
constexpr int k_least<Q3_K> = -4;
template <>
constexpr int k_least<Q6_K> = -32;
template <>
constexpr int k_least<IQ4_NL> = -128;
template <>
constexpr int k_least<IQ4_XS> = -128;

// Rows of a supported type.
struct ToReals {
  float* to;
  template <class Block>
  void row(const Block* blocks, std::size_t count) const {
    Reals out{to};
    for (std::size_t i = 0; i < count; ++i) {
      if constexpr (Block::elements == 1)
        unpack(blocks[i], to + i);
      else
        unpack(blocks[i], out);
    }
  }
};
struct ToCodes {
  Byte* codes;
  float *scale, *least;
  template <class Block>
  void row(const Block* blocks, std::size_t count) const {
    if constexpr (Block::elements > 1) {
      Codes out{codes, scale, least, k_least<Block>};
      for (std::size_t i = 0; i < count; ++i) unpack(blocks[i], out);
    } else {
      PERMLLM_ASSERT(false);
    }
  }
};

// `size` numbers.
template <class To>
void read_row(std::uint32_t type, const Byte* from, std::size_t size, const To& to) {
  const auto as = [&]<class Block>(const Block*) {
    static_assert(alignof(Block) == 1);
    to.row(reinterpret_cast<const Block*>(from), size / Block::elements);
  };
  switch (type) {
    case 0:
      return as(static_cast<F32*>(nullptr));
    case 1:
      return as(static_cast<F16*>(nullptr));
    case 2:
      return as(static_cast<Q4_0*>(nullptr));
    case 3:
      return as(static_cast<Q4_1*>(nullptr));
    case 6:
      return as(static_cast<Q5_0*>(nullptr));
    case 7:
      return as(static_cast<Q5_1*>(nullptr));
    case 8:
      return as(static_cast<Q8_0*>(nullptr));
    case 10:
      return as(static_cast<Q2_K*>(nullptr));
    case 11:
      return as(static_cast<Q3_K*>(nullptr));
    case 12:
      return as(static_cast<Q4_K*>(nullptr));
    case 13:
      return as(static_cast<Q5_K*>(nullptr));
    case 14:
      return as(static_cast<Q6_K*>(nullptr));
    case 20:
      return as(static_cast<IQ4_NL*>(nullptr));
    case 23:
      return as(static_cast<IQ4_XS*>(nullptr));
    case 30:
      return as(static_cast<BF16*>(nullptr));
    default:
      PERMLLM_ASSERT(false);
  }
}

void dequantize(std::uint32_t type, const Byte* from, float* to, std::size_t size) {
  read_row(type, from, size, ToReals{to});
}
void read_codes(std::uint32_t type, const Byte* from, CodedRow& to) {
  read_row(type, from, to.codes.size(), ToCodes{to.codes.data(), to.scale.data(), to.least.data()});
}

}  // namespace permllm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace permllm {
namespace {

using namespace HWY_NAMESPACE;  // the blocks' sizes: the same for every target

const bool k_capped = kernels::cap_simd();

HWY_EXPORT(dequantize);
HWY_EXPORT(read_codes);

template <class Block>
constexpr BlockSize size_of{sizeof(Block), Block::elements};

// By type number. Types without a size are known by name only.
struct Type {
  const char* name = nullptr;
  BlockSize size;
};
constexpr Type k_types[] = {{"F32", size_of<F32>},
                            {"F16", size_of<F16>},
                            {"Q4_0", size_of<Q4_0>},
                            {"Q4_1", size_of<Q4_1>},
                            {},
                            {},
                            {"Q5_0", size_of<Q5_0>},
                            {"Q5_1", size_of<Q5_1>},
                            {"Q8_0", size_of<Q8_0>},
                            {"Q8_1", {}},
                            {"Q2_K", size_of<Q2_K>},
                            {"Q3_K", size_of<Q3_K>},
                            {"Q4_K", size_of<Q4_K>},
                            {"Q5_K", size_of<Q5_K>},
                            {"Q6_K", size_of<Q6_K>},
                            {"Q8_K", {}},
                            {"IQ2_XXS", {}},
                            {"IQ2_XS", {}},
                            {"IQ3_XXS", {}},
                            {"IQ1_S", {}},
                            {"IQ4_NL", size_of<IQ4_NL>},
                            {"IQ3_S", {}},
                            {"IQ2_S", {}},
                            {"IQ4_XS", size_of<IQ4_XS>},
                            {"I8", {}},
                            {"I16", {}},
                            {"I32", {}},
                            {"I64", {}},
                            {"F64", {}},
                            {"IQ1_M", {}},
                            {"BF16", size_of<BF16>},
                            {},
                            {},
                            {},
                            {"TQ1_0", {}},
                            {"TQ2_0", {}},
                            {},
                            {},
                            {},
                            {"MXFP4", {}},
                            {"NVFP4", {}},
                            {"Q1_0", {}}};

}  // namespace

std::uint64_t GgufTensor::elements() const {
  std::uint64_t product = 1;
  for (const std::uint64_t extent : shape) product *= extent;
  return product;
}

BlockSize block_size(std::uint32_t type) { return type < std::size(k_types) ? k_types[type].size : BlockSize{}; }

const char* ggml_type_name(std::uint32_t type) { return type < std::size(k_types) ? k_types[type].name : nullptr; }

namespace {

const std::uint8_t* row_of(const GgufTensor& tensor, std::uint64_t row, std::size_t size) {
  const BlockSize block = block_size(tensor.type);
  const std::uint64_t bytes = tensor.shape[0] / block.elements * block.bytes;
  PERMLLM_ASSERT(size == tensor.shape[0] && size % block.elements == 0 && (row + 1) * bytes <= tensor.data.size());
  return tensor.data.data() + row * bytes;
}

}  // namespace

void dequantize_row(const GgufTensor& tensor, std::uint64_t row, std::span<float> out) {
  const BlockSize block = block_size(tensor.type);
  if (block.bytes == 0) {
    std::string supported;
    for (const Type& type : k_types) {
      if (type.size.bytes != 0) supported += fmt::format("{}{}", supported.empty() ? "" : ", ", type.name);
    }
    const char* name = ggml_type_name(tensor.type);
    throw Error(Code::unsupported, "tensor " + tensor.name,
                fmt::format("type {} is not supported; supported are {}",
                            name != nullptr ? name : fmt::format("number {}", tensor.type), supported));
  }
  const std::uint8_t* from = row_of(tensor, row, out.size());
  HWY_DYNAMIC_DISPATCH(dequantize)(tensor.type, from, out.data(), out.size());
}

std::optional<CodeForm> code_form(std::uint32_t type) {
  switch (type) {
    case 2:
      return CodeForm{4, 32, false};
    case 3:
      return CodeForm{4, 32, true};
    case 6:
      return CodeForm{5, 32, false};
    case 7:
      return CodeForm{5, 32, true};
    case 8:
    case 20:
    case 23:
      return CodeForm{8, 32, false};
    case 10:
    case 11:
      return CodeForm{4, 16, true};
    case 12:
      return CodeForm{4, 32, true};
    case 13:
      return CodeForm{5, 32, true};
    case 14:
      return CodeForm{6, 16, false};
    default:
      return std::nullopt;
  }
}

void codes_of_row(const GgufTensor& tensor, std::uint64_t row, CodedRow& out) {
  const std::uint8_t* from = row_of(tensor, row, out.codes.size());
  HWY_DYNAMIC_DISPATCH(read_codes)(tensor.type, from, out);
}

}  // namespace permllm
#endif  // HWY_ONCE
