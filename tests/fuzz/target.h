// What a fuzz target defines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace permllm::test {

// A few small valid inputs, at most 2 KB each, that between them hold everything the parser knows.
std::vector<std::vector<std::uint8_t>> seeds();
// The bytes of memory that the target may take for an input of that size; most targets leave it to replay.cpp.
std::size_t memory_for(std::size_t input);

}  // namespace permllm::test

// Parses the bytes and walks all that came of them. Catches Error and nothing else; returns 0.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
