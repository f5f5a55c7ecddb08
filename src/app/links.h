// Links as the command line shapes them.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "net/link.h"

namespace permllm {

// --rtt and --bandwidth: a simulated network between the parties. Both ends must have the same.
struct LinkShape {
  std::string rtt = "0", bandwidth = "0";
  bool none() const;
};
void add_link_shape(CLI::App& command, LinkShape& shape);
// The link itself when the shape is none. Errors: usage for unreadable values.
std::unique_ptr<Link> shaped(std::unique_ptr<Link> link, const LinkShape& shape);

}  // namespace permllm
