// A file for parsers that read files, in memory where the system has a place for that.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>

#include "base/temporary_directory.h"

namespace permllm::test {

class ScratchFolder {
 public:
  // Of mode 0600, with these bytes.
  std::filesystem::path file(const std::string& name, std::span<const std::uint8_t> bytes) const {
    std::filesystem::path path = folder_.path() / name;
    const int out = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (out < 0 || ::write(out, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) std::abort();
    ::close(out);
    return path;
  }
  const std::filesystem::path& path() const { return folder_.path(); }

 private:
  TemporaryDirectory folder_{std::filesystem::exists("/dev/shm") ? "/dev/shm" : std::filesystem::temp_directory_path()};
};

}  // namespace permllm::test
