// Rotary positions out of a GGUF file's settings: frequencies, and how they were stretched for longer contexts.
#pragma once

#include "model/config.h"
#include "model/model_file.h"
#include "model/settings.h"

namespace permllm {

// Config::rope, and rope_short where there are two tables; not what differs between layers.
// Errors: file and unsupported, naming the key or tensor.
void set_rotary(Config& c, const ModelFile& file, const Settings& s);
std::size_t turned_pairs(const Config& c);  // of a head, those that turn

// What the turned entries of q and of k are multiplied by.
double turned_magnitude(const Config& c, const ModelFile& file, const Settings& s);

// Whether the file has factors of frequencies for long and for short contexts, and the tensors that hold them.
inline constexpr const char* k_long_factors[] = {"rope_factors_long.weight", "rope_factors_short.weight"};
bool is_longrope(const ModelFile& file, const Settings& s);

}  // namespace permllm
