// What this program speaks with others and reads from disks, for --version.
#pragma once

#include <string>

namespace permllm {

// A line for the release and the wire version, then one each for profiles, models' files, chat formats and saved conversations.
std::string what_it_speaks();

}  // namespace permllm
