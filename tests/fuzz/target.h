// What a fuzz target defines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace permllm::test {

// A few small valid inputs, at most 2 KB each, that between them hold everything the parser knows.
std::vector<std::vector<std::uint8_t>> seeds();
// Of targets whose first byte says which parser the rest is for.
inline void add_seed(std::vector<std::vector<std::uint8_t>>& seeds, std::uint8_t kind, std::string_view text) {
  seeds.emplace_back(text.begin(), text.end());
  seeds.back().insert(seeds.back().begin(), kind);
}
// The bytes of memory that the target may take for an input of that size; most targets leave it to replay.cpp.
std::size_t memory_for(std::size_t input);

}  // namespace permllm::test

// Parses the bytes and walks all that came of them. Catches Error and nothing else; returns 0.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
