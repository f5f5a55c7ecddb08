// Links inside one process, for tests and benchmarks: the same frames, no sockets.
#pragma once

#include <memory>
#include <utility>

#include "wire/link.h"

namespace permllm {

std::pair<std::unique_ptr<Link>, std::unique_ptr<Link>> memory_links();

}  // namespace permllm
