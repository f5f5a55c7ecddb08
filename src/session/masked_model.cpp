#include "session/masked_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "ring/pack.h"
#include "session/fields.h"

namespace permllm {
namespace {

constexpr std::uint64_t k_alignment = 64;

}  // namespace

Packings packings_of(const IntWeights& weights, const Plan& plan) {
  Packings packings;
  if (!plan.open()) return packings;
  for_each_matrix(weights, plan, [&](std::uint32_t, const LinearShape&, const IntMatrix& w) {
    packings.push_back(w.packing().byte());
  });
  return packings;
}

void check_packings(const Packings& packings, const Plan& plan, const char* field) {
  const auto refuse = [&](const std::string& why) { throw Error(Code::malformed, field, why); };
  std::size_t matrices = 0;
  const auto none = no_weights(plan.config);
  for_each_matrix(none, plan, [&](std::uint32_t id, const LinearShape& s, NoMatrix) {
    if (plan.open() && matrices < packings.size()) {
      const std::optional<Packing> packing = Packing::of(packings[matrices]);
      if (!packing || !IntMatrix::takes(*packing, s.cols)) {
        refuse(fmt::format(
            "{} of matrix {} of {} columns, expected 8 or 12 bits, or codes of whole spans, and 2^20 columns at most",
            packings[matrices], id, s.cols));
      }
    }
    ++matrices;
  });
  const std::size_t expected = plan.open() ? matrices : 0;
  if (packings.size() != expected) refuse(fmt::format("{} of them, expected {}", packings.size(), expected));
}

std::vector<Segment> segments_of(const Plan& plan, const Packings& packings) {
  std::vector<Segment> segments;
  std::uint64_t end = 0;
  const auto add = [&](Segment segment) {
    segment.offset = end;
    end += (segment.bytes() + k_alignment - 1) / k_alignment * k_alignment;
    segments.push_back(segment);
  };
  const auto none = no_weights(plan.config);
  for_each_matrix(none, plan, [&](std::uint32_t id, const LinearShape& s, NoMatrix) {
    add({id, s.rows, s.cols, plan.open() ? Packing::of(packings.at(segments.size())) : std::nullopt, s.out.ring});
  });
  for_each_gain(none, plan, [&](std::uint32_t id, const LinearShape& s, const Gain&) {
    add({id, s.rows, 1, std::nullopt, Ring{64}});
  });
  return segments;
}

std::uint64_t masked_model_bytes(const Plan& plan, const Packings& packings) {
  const Segment last = segments_of(plan, packings).back();
  return last.offset + last.bytes();
}

Weights<RingMatrix> view_masked_model(const Plan& plan, std::span<const std::uint8_t> bytes) {
  const std::vector<Segment> segments = segments_of(plan, {});
  PERMLLM_ASSERT(!plan.open() && bytes.size() == segments.back().offset + segments.back().bytes());
  Weights<RingMatrix> v;
  v.config = plan.config;
  v.layers.resize(plan.config.stored_layers());
  auto next = segments.begin();
  for_each_matrix(v, plan, [&](std::uint32_t, const LinearShape& s, RingMatrix& matrix) {
    matrix = RingMatrix(s.rows, s.cols, s.out.ring, bytes.subspan(next->offset, next->bytes()));
    ++next;
  });
  for_each_gain(v, plan, [&](std::uint32_t, const LinearShape& s, Gain& gain) {
    gain.words.resize(s.rows);
    std::memcpy(gain.words.data(), bytes.data() + next->offset, next->bytes());
    ++next;
  });
  return v;
}

IntWeights view_public_model(const Plan& plan, const Packings& packings, std::span<const std::uint8_t> bytes) {
  const std::vector<Segment> segments = segments_of(plan, packings);
  PERMLLM_ASSERT(plan.open() && bytes.size() == segments.back().offset + segments.back().bytes());
  IntWeights w;
  w.config = plan.config;
  w.layers.resize(plan.config.stored_layers());
  auto next = segments.begin();
  for_each_matrix(w, plan, [&](std::uint32_t id, const LinearShape& s, IntMatrix& matrix) {
    const auto own = bytes.subspan(next->offset, next->bytes()), shifts = own.first(s.cols + s.rows);
    const std::uint8_t most = *std::max_element(shifts.begin(), shifts.end());
    if (most > k_most_shift) {
      throw Error(Code::malformed, fmt::format("matrix {}", id),
                  fmt::format("a row or column shifted by {} bits, expected {} at most", most, k_most_shift));
    }
    matrix = IntMatrix(s.rows, s.cols, *next->packing, shifts.first(s.cols), shifts.subspan(s.cols),
                       own.subspan(next->packed_at()));
    ++next;
  });
  return w;
}

MaskedModel::MaskedModel(const IntWeights& weights, const Plan& plan, const Seed& mask_seed)
    : stream_(mask_seed), segments_(segments_of(plan, packings_of(weights, plan))) {
  for_each_matrix(weights, plan,
                  [&](std::uint32_t, const LinearShape&, const IntMatrix& w) { matrices_.push_back(&w); });
  for_each_gain(weights, plan, [&](std::uint32_t, const LinearShape&, const Gain& gain) { gains_.push_back(&gain); });
}

void MaskedModel::fill(std::uint64_t offset, std::span<std::uint8_t> out) const {
  std::fill(out.begin(), out.end(), std::uint8_t{0});
  for (std::size_t s = 0; s < segments_.size(); ++s) {
    const Segment& segment = segments_[s];
    const std::uint64_t begin = std::max(offset, segment.offset);
    const std::uint64_t end = std::min(offset + out.size(), segment.offset + segment.bytes());
    if (begin >= end) continue;
    const auto part = out.subspan(begin - offset, end - begin);
    segment.packing ? fill_packed(s, begin - segment.offset, part) : fill_words(s, begin - segment.offset, part);
  }
}

void MaskedModel::fill_packed(std::size_t s, std::uint64_t offset, std::span<std::uint8_t> out) const {
  const IntMatrix& w = *matrices_[s];
  const auto copy = [&](std::uint64_t at, std::span<const std::uint8_t> from) {
    const std::uint64_t begin = std::max(offset, at), end = std::min(offset + out.size(), at + from.size());
    if (begin < end) std::memcpy(out.data() + (begin - offset), from.data() + (begin - at), end - begin);
  };
  copy(0, w.shifts());
  copy(w.cols(), w.row_shifts());
  const std::uint64_t packed_at = segments_[s].packed_at(), begin = std::max(offset, packed_at),
                      end = std::min(offset + out.size(), segments_[s].bytes());
  if (begin < end) w.packed(begin - packed_at, out.subspan(begin - offset, end - begin));
}

// A chunk may cut a word: whole words are made of those that it touches.
void MaskedModel::fill_words(std::size_t s, std::uint64_t offset, std::span<std::uint8_t> out) const {
  const Segment& segment = segments_[s];
  const std::size_t bytes = segment.ring.bytes();
  std::vector<std::int32_t> row(segment.cols);
  Words words(segment.cols);
  Bytes packed(segment.row_bytes());
  while (!out.empty()) {
    const std::size_t r = offset / segment.row_bytes(), at = offset % segment.row_bytes(),
                      here = std::min<std::size_t>(segment.row_bytes() - at, out.size());
    const std::size_t first = at / bytes, count = (at + here + bytes - 1) / bytes - first;
    const std::span<Word> part = std::span(words).first(count);
    stream_.fill(segment.id, r * segment.row_bytes() + first * bytes, std::span(packed).first(count * bytes));
    unpack(packed.data(), segment.ring, part);
    if (s < matrices_.size()) {
      matrices_[s]->row(r, row);
      for (std::size_t i = 0; i < count; ++i) part[i] = static_cast<Word>(std::int64_t{row[first + i]}) - part[i];
    } else {
      part[0] = gains_[s - matrices_.size()]->words[r] - part[0];
    }
    pack(part, segment.ring, packed.data());
    std::memcpy(out.data(), packed.data() + (at - first * bytes), here);
    offset += here;
    out = out.subspan(here);
  }
}

namespace {

Digest hash_of_packed(const IntMatrix& w) {
  if (w.machines() == nullptr) return hash(domain::weights, w.packed());
  Hashing hashing(domain::weights);
  Bytes piece(std::size_t{1} << 22);
  const std::uint64_t bytes = IntMatrix::packed_bytes(w.rows(), w.cols(), w.packing());
  for (std::uint64_t at = 0; at < bytes; at += piece.size()) {
    const std::span<std::uint8_t> next = std::span(piece).first(std::min<std::uint64_t>(piece.size(), bytes - at));
    w.packed(at, next);
    hashing.add(next);
  }
  return hashing.end();
}

}  // namespace

Digest weights_digest(const IntWeights& weights, const Plan& plan, Executor& executor, std::uint32_t layout) {
  std::vector<const IntMatrix*> matrices;
  for_each_matrix(weights, plan,
                  [&](std::uint32_t, const LinearShape&, const IntMatrix& w) { matrices.push_back(&w); });
  std::vector<Digest> digests(matrices.size());
  executor.parallel(matrices.size(), [&](std::size_t i) {
    const IntMatrix& w = *matrices[i];
    Writer head;
    for (const std::size_t number : {w.rows(), w.cols(), std::size_t{w.packing().byte()}})
      head.number("shape", std::uint64_t{number});
    for (const std::span<const std::uint8_t> shifts : {w.shifts(), w.row_shifts()}) {
      for (const std::uint8_t shift : shifts) head.number("shift", shift);
    }
    Bytes bound = head.take();
    const Digest packed = hash_of_packed(w);
    bound.insert(bound.end(), packed.begin(), packed.end());
    digests[i] = hash(domain::weights, bound);
  });
  Writer all;
  all.number("layout", layout);
  all.text("plan_hash", plan.hash(), 64);
  for (Digest& digest : digests) visit(all, digest);
  for_each_gain(weights, plan, [&](std::uint32_t id, const LinearShape&, const Gain& gain) {
    all.number("gain", id);
    for (const Word word : gain.words) all.number("word", word);
  });
  return hash(domain::weights, all.take());
}

}  // namespace permllm
