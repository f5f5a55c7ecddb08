// What the operating system grants and keeps from this process.
#pragma once

#include <cstddef>

namespace permllm {

// For programs that hold secrets: no core files, memory closed to other processes of the same account, new files to others. A child
// inherits all but the second.
void keep_to_itself();

// As many open files as the system lets the process have; returns how many.
std::size_t raise_file_limit();
std::size_t most_open_files();
std::size_t open_files();

struct MemoryInUse {
  std::size_t resident = 0;  // all of it
  std::size_t own = 0;       // without mapped files, which the system drops when it is short
};
MemoryInUse memory_in_use();
// More memory of its own than `limit` bytes, also after free memory was given back. 0: no limit.
bool exceeds_memory(std::size_t limit);

}  // namespace permllm
