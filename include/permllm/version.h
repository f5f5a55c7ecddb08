// The release. These headers' version at compile time; version(), the library's own.
#pragma once

#define PERMLLM_VERSION_MAJOR 0
#define PERMLLM_VERSION_MINOR 3
#define PERMLLM_VERSION_PATCH 0
#define PERMLLM_VERSION "0.3.0-dev"  // CMake takes the project's version from here; -dev: what leads to that release

namespace permllm {

// Of the library that is linked, like "0.3.0" or "0.3.0-dev".
const char* version() noexcept;

}  // namespace permllm
