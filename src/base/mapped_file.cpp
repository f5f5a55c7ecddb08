#include "base/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "permllm/error.h"

namespace permllm {

MappedFile::MappedFile(const std::filesystem::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  try {
    map(file, path.string());
  } catch (const Error&) {
    if (file >= 0) close(file);
    throw;
  }
  close(file);
}

MappedFile::MappedFile(const File& file) { map(file.descriptor(), file.name()); }

void MappedFile::map(int file, const std::string& name) {
  struct stat status {};
  if (file < 0 || fstat(file, &status) != 0) {
    throw Error(Code::file, name,
                errno == ENOENT ? "there is no such file" : fmt::format("cannot be read: {}", std::strerror(errno)));
  }
  if (!S_ISREG(status.st_mode)) {
    throw Error(Code::file, name,
                S_ISDIR(status.st_mode)    ? "is a folder, expected a file"
                : S_ISFIFO(status.st_mode) ? "is a pipe, expected a file: a model is mapped, not read through once"
                                           : "is a device or a socket, expected a file");
  }
  const auto size = static_cast<std::size_t>(status.st_size);
  void* mapped = size > 0 ? mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
  if (mapped == MAP_FAILED) throw Error(Code::file, name, "the file is empty or cannot be mapped");
  data_ = static_cast<const std::uint8_t*>(mapped);
  size_ = size;
}

void let_go(std::span<const std::uint8_t> mapped) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE)),
             at = reinterpret_cast<std::uintptr_t>(mapped.data());
  const std::uintptr_t first = (at + page - 1) / page * page, end = (at + mapped.size()) / page * page;
  if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::uint8_t*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace permllm
