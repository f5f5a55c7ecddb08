#include "session/model_mask.h"

namespace permllm {

Weights<StreamedMatrix> expansion_of(const ReadableStream& stream, const Plan& plan) {
  Weights<StreamedMatrix> u;
  u.config = plan.config;
  u.layers.resize(plan.config.stored_layers());
  for_each_matrix(u, plan, [&](std::uint32_t id, const LinearShape& shape, StreamedMatrix& matrix) {
    matrix = {shape.rows, shape.cols, shape.out.ring,
              [&stream, id](std::uint64_t offset, std::span<std::uint8_t> out) { stream.fill(id, offset, out); }};
  });
  for_each_gain(u, plan, [&](std::uint32_t id, const LinearShape& shape, Gain& gain) {
    gain.words = gain_mask(stream, id, shape);
  });
  return u;
}

Words gain_mask(const ReadableStream& stream, std::uint32_t id, const LinearShape& shape) {
  Words u(shape.rows);
  stream.fill(id, 0, {reinterpret_cast<std::uint8_t*>(u.data()), u.size() * sizeof(Word)});
  return u;
}

}  // namespace permllm
