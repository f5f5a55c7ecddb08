// The architectures: their settings, the names of their tensors, and what of a layer differs.
#pragma once

#include "model/matrix_source.h"

namespace permllm {

// Each reads the settings, or finds the matrices. Every tensor's type and shape is checked; of the numbers those of vectors.
// Errors: see model/load.h.

// llama (Mistral, SmolLM2), qwen2, qwen3, gemma2, gemma3, phi3, gpt2, glm4 (GLM-4-0414) and chatglm (GLM-4-9b), as llama.cpp's
// converter writes them.
Config gguf_config(const ModelFile& file);
ModelSource gguf_source(const ModelFile& file);

// THUDM/chatglm-6b: a folder.
Config chatglm_6b_config(const ModelFile& file);
ModelSource chatglm_6b_source(const ModelFile& file);

}  // namespace permllm
