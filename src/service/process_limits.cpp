#include "service/process_limits.h"

#include <malloc.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace permllm {

void keep_to_itself() {
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  prctl(PR_SET_DUMPABLE, 0);
  umask(077);
}

std::size_t raise_file_limit() {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  return most_open_files();
}

std::size_t most_open_files() {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  return files.rlim_cur;
}

std::size_t open_files() {
  std::error_code ignored;
  std::size_t count = 0;
  for (std::filesystem::directory_iterator at("/proc/self/fd", ignored), end; at != end; at.increment(ignored)) ++count;
  return count == 0 ? 0 : count - 1;  // without the folder's own
}

MemoryInUse memory_in_use() {
  std::ifstream status("/proc/self/status");
  MemoryInUse memory;
  for (std::string word; status >> word;) {
    std::size_t* value = word == "VmRSS:" ? &memory.resident : word == "RssAnon:" ? &memory.own : nullptr;
    std::size_t kilobytes = 0;
    if (value != nullptr && status >> kilobytes) *value = kilobytes * 1024;
  }
  return memory;
}

bool exceeds_memory(std::size_t limit) {
  if (limit == 0 || memory_in_use().own <= limit) return false;
  malloc_trim(0);  // main keeps what is freed
  return memory_in_use().own > limit;
}

}  // namespace permllm
