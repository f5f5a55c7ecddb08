#include "session/masked_model.h"

#include <cstring>

#include "session/fields.h"

namespace permllm {
namespace {

constexpr std::uint64_t k_alignment = 64;

// In place of U's words of one row from column `first` on: W - U.
template <class Container>
void subtract_from(std::span<const std::int32_t> w, std::uint8_t* at) {
  for (const std::int32_t weight : w) {
    Container word;
    std::memcpy(&word, at, sizeof word);
    word = static_cast<Container>(static_cast<Container>(static_cast<std::int64_t>(weight)) - word);
    std::memcpy(at, &word, sizeof word);
    at += sizeof word;
  }
}

}  // namespace

std::vector<Segment> segments_of(const Plan& plan) {
  std::vector<Segment> segments;
  std::uint64_t end = 0;
  const auto add = [&](std::uint32_t id, std::size_t rows, std::size_t cols, std::size_t container) {
    segments.push_back({id, rows, cols, container, end});
    end += (segments.back().bytes() + k_alignment - 1) / k_alignment * k_alignment;
  };
  Weights<NoMatrix> none;
  none.layers.resize(plan.config.stored_layers());
  for_each_matrix(none, plan, [&](std::uint32_t id, const LinearShape& s, NoMatrix) {
    add(id, s.rows, s.cols, container_bytes(s.out.ring));
  });
  for_each_gain(none, plan,
                [&](std::uint32_t id, const LinearShape& s, const Gain&) { add(id, s.rows, 1, sizeof(Word)); });
  return segments;
}

std::uint64_t masked_model_bytes(const Plan& plan) {
  const Segment last = segments_of(plan).back();
  return last.offset + last.bytes();
}

Weights<RingMatrix> view_masked_model(const Plan& plan, std::span<const std::uint8_t> bytes) {
  const std::vector<Segment> segments = segments_of(plan);
  PERMLLM_ASSERT(bytes.size() == segments.back().offset + segments.back().bytes());
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

MaskedModel::MaskedModel(const IntWeights& weights, const Plan& plan, const Seed& mask_seed)
    : open_(plan.open()), stream_(mask_seed), segments_(segments_of(plan)) {
  for_each_matrix(weights, plan,
                  [&](std::uint32_t, const LinearShape&, const IntMatrix& w) { matrices_.push_back(&w); });
  for_each_gain(weights, plan, [&](std::uint32_t, const LinearShape&, const Gain& gain) { gains_.push_back(&gain); });
}

void MaskedModel::fill(std::uint64_t offset, std::span<std::uint8_t> out) const {
  std::fill(out.begin(), out.end(), std::uint8_t{0});
  for (std::size_t s = 0; s < segments_.size(); ++s) {
    const std::uint64_t begin = std::max(offset, segments_[s].offset);
    const std::uint64_t end = std::min(offset + out.size(), segments_[s].offset + segments_[s].bytes());
    if (begin < end) fill_segment(s, begin - segments_[s].offset, out.subspan(begin - offset, end - begin));
  }
}

void MaskedModel::fill_segment(std::size_t s, std::uint64_t offset, std::span<std::uint8_t> out) const {
  const Segment& segment = segments_[s];
  if (!open_) stream_.fill(segment.id, offset, out);
  if (s >= matrices_.size()) {
    const Words& words = gains_[s - matrices_.size()]->words;
    for (std::size_t i = 0; i < out.size(); i += sizeof(Word)) {
      Word word;
      std::memcpy(&word, &out[i], sizeof word);
      word = words[(offset + i) / sizeof word] - word;
      std::memcpy(&out[i], &word, sizeof word);
    }
    return;
  }
  std::vector<std::int32_t> row(segment.cols);
  while (!out.empty()) {
    const std::size_t first = offset % segment.row_bytes() / segment.container;
    const std::size_t count = std::min(segment.cols - first, out.size() / segment.container);
    matrices_[s]->row(offset / segment.row_bytes(), row);
    const std::span<const std::int32_t> part = std::span(row).subspan(first, count);
    switch (segment.container) {
      case 2:
        subtract_from<std::uint16_t>(part, out.data());
        break;
      case 4:
        subtract_from<std::uint32_t>(part, out.data());
        break;
      default:
        subtract_from<std::uint64_t>(part, out.data());
        break;
    }
    offset += count * segment.container;
    out = out.subspan(count * segment.container);
  }
}

Digest weights_digest(const IntWeights& weights, const Plan& plan, Executor& executor) {
  std::vector<const IntMatrix*> matrices;
  for_each_matrix(weights, plan,
                  [&](std::uint32_t, const LinearShape&, const IntMatrix& w) { matrices.push_back(&w); });
  std::vector<Digest> digests(matrices.size());
  executor.parallel(matrices.size(), [&](std::size_t i) {
    const IntMatrix& w = *matrices[i];
    Writer head;
    for (const std::size_t number : {w.rows(), w.cols(), static_cast<std::size_t>(w.bits())})
      head.number("shape", std::uint64_t{number});
    for (std::size_t c = 0; c < w.cols(); ++c) head.number("shift", static_cast<std::uint8_t>(w.shift(c)));
    Bytes bound = head.take();
    const Digest packed = hash(domain::weights, w.packed());
    bound.insert(bound.end(), packed.begin(), packed.end());
    digests[i] = hash(domain::weights, bound);
  });
  Writer all;
  all.text("plan_hash", plan.hash(), 64);
  for (Digest& digest : digests) visit(all, digest);
  for_each_gain(weights, plan, [&](std::uint32_t id, const LinearShape&, const Gain& gain) {
    all.number("gain", id);
    for (const Word word : gain.words) all.number("word", word);
  });
  return hash(domain::weights, all.take());
}

}  // namespace permllm
