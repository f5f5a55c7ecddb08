// The release. These headers' version at compile time; version(), the library's own.
#pragma once

#define PERMLLM_VERSION_MAJOR 0
#define PERMLLM_VERSION_MINOR 2
#define PERMLLM_VERSION_PATCH 0
#define PERMLLM_VERSION "0.2.0"  // CMake takes the project's version from here

namespace permllm {

// Of the library that is linked, like "0.2.0".
const char* version() noexcept;

}  // namespace permllm
