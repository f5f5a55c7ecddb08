// U, the mask of the weights: expanded from a seed that provider and users have, wherever a matrix is multiplied by it.
#pragma once

#include "session/model_order.h"

namespace permllm {

// U as matrices for product(), by the numbers of for_each_matrix. `stream` outlives them.
Weights<StreamedMatrix> expansion_of(const ReadableStream& stream, const Plan& plan);
// U of one gain, by its number of for_each_gain.
Words gain_mask(const ReadableStream& stream, std::uint32_t id, const LinearShape& shape);

}  // namespace permllm
