// By what a file that was read can be told from the same path after a change.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>

namespace permllm {

struct FileStamp {
  dev_t device = 0;
  ino_t inode = 0;
  off_t size = -1;                         // -1: there is no such file
  std::int64_t modified = 0, changed = 0;  // nanoseconds since 1970
  // Whether each later change shows in the stamp. File systems' clocks tick, so of a file that was just changed one cannot know; it is to be read
  // again the next time.
  bool settled = false;

  static FileStamp of(const std::filesystem::path& path);
  // The same file, unchanged.
  bool matches(const FileStamp& later) const {
    return settled && device == later.device && inode == later.inode && size == later.size &&
           modified == later.modified && changed == later.changed;
  }
};

}  // namespace permllm
