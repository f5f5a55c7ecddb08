// Config and weights out of a model file.
#pragma once

#include <functional>

#include "model/model_file.h"
#include "model/weights.h"

namespace permllm {

// Shape of the model. Errors: unsupported, naming an architecture or a setting that is not supported; file for missing or
// absurd numbers. Each names its key.
Config read_config(const ModelFile& file);

// Called by the loading thread with the fraction that is done, 0 to 1.
using LoadProgress = std::function<void(double fraction)>;

// Weights as integers of 12 or 8 bits (provider) or as real numbers (reference). Norms folded in (model/weights.h). The
// embedding table, of which a token is one entry a row and no sum, always has 12. Small rows and columns have finer
// steps where the noise of rounding asks for it (ring/int_matrix.h). Beside the integers no copy is made.
// Errors: those of read_config; file or unsupported, naming the tensor that is missing, has another shape or type, holds a
// number that is not finite, or is not used.
// machines: of those that hold the weights together, each calls this, and gets its rows of each matrix, of which alone it reads the file; the embedding
// table is machine 0's alone.
IntWeights load_int_weights(const ModelFile& file, Executor& executor, int bits = k_weight_bits,
                            const LoadProgress& progress = nullptr, Machines* machines = nullptr);
FloatWeights load_float_weights(const ModelFile& file, Executor& executor, const LoadProgress& progress = nullptr);

}  // namespace permllm
