// A folder for what one process needs while it runs.
#pragma once

#include <filesystem>

namespace permllm {

// Made in `where`, of mode 0700; removed when dropped. Whoever is killed leaves it behind, without the lock that tells it from the
// folders of others who run: the next one made removes it. Errors: resource.
class TemporaryDirectory {
 public:
  explicit TemporaryDirectory(const std::filesystem::path& where = std::filesystem::temp_directory_path());
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int folder_ = -1;  // open, and locked
};

}  // namespace permllm
