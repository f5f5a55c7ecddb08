// A folder on a disk of its own that can be filled: a tmpfs, which needs the right to mount.
#pragma once

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "cli/local_parties.h"

namespace permllm::test {

class SmallDisk {
 public:
  explicit SmallDisk(std::uint64_t bytes) {
    std::filesystem::create_directory(path());
    mounted_ = mount("none", path().c_str(), "tmpfs", 0, ("size=" + std::to_string(bytes)).c_str()) == 0;
  }
  ~SmallDisk() {
    if (mounted_) umount2(path().c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  bool mounted() const { return mounted_; }
  std::filesystem::path path() const { return folder_.path() / "disk"; }
  std::uint64_t free() const {
    struct statvfs disk {};
    statvfs(path().c_str(), &disk);
    return std::uint64_t{disk.f_bavail} * disk.f_frsize;
  }
  // By a file of somebody else's, until so many bytes are left.
  void fill(std::uint64_t left = 0) {
    const int file = ::open((path() / "fill").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (lseek(file, 0, SEEK_END) >= 0) {
      const std::vector<char> page(4096);
      while (free() > left && ::write(file, page.data(), page.size()) > 0) {
      }
    }
    ::close(file);
  }
  void clear() { std::filesystem::remove(path() / "fill"); }

 private:
  TemporaryDirectory folder_;
  bool mounted_ = false;
};

}  // namespace permllm::test
