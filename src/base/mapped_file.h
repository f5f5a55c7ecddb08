// A file's bytes, mapped into memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "base/file.h"

namespace permllm {

// Lets the pages that lie in these bytes of a mapped file go from this process: they are read again when they are used.
void let_go(std::span<const std::uint8_t> mapped);

class MappedFile {
 public:
  // Errors: file, naming the path: absent, not a regular file, empty, or not to be read.
  explicit MappedFile(const std::filesystem::path& path);
  explicit MappedFile(const File& file);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::uint8_t> bytes() const { return {data_, size_}; }

 private:
  void map(int file, const std::string& name);
  const std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace permllm
