#include "base/small_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/owner.h"
#include "base/text.h"
#include "permllm/error.h"

namespace permllm {
namespace {

struct File {
  int number = -1;
  ~File() {
    if (number >= 0) close(number);
  }
};

[[noreturn]] void fail(const std::filesystem::path& path, const char* what) {
  throw Error(Code::file, path.string(), fmt::format("{}: {}", what, std::strerror(errno)));
}

void write_all(int file, const std::filesystem::path& path, const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t written = write(file, text.data() + at, text.size() - at);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail(path, "cannot be written");
    at += static_cast<std::size_t>(written);
  }
  if (fsync(file) != 0) fail(path, "cannot be written");
}

}  // namespace

std::string read_small_file(const std::filesystem::path& path, bool secret, std::size_t most) {
  const File file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};  // never waits for the writer of a pipe
  if (file.number < 0) {
    if (errno == ENOENT) throw Error(Code::file, path.string(), "there is no such file");
    fail(path, "cannot be read");
  }
  struct stat status {};
  if (fstat(file.number, &status) != 0) fail(path, "cannot be read");
  if (!S_ISREG(status.st_mode)) throw Error(Code::file, path.string(), "is no file");
  if (secret && (status.st_mode & 077) != 0) {
    throw Error(
        Code::file, path.string(),
        fmt::format("holds a key and is open to others than its owner; if it was not read by anybody, run chmod 600 {}",
                    path.string()));
  }
  const auto told = static_cast<std::size_t>(std::max<off_t>(status.st_size, 0));
  std::string text(std::min(told, most) + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t got = read(file.number, text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(path, "cannot be read");
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
    if (size == text.size() && size <= most) text.resize(std::min(2 * size, most + 1));  // more than was told
  }
  if (size > most) throw Error(Code::file, path.string(), fmt::format("is longer than {} bytes", most));
  text.resize(size);
  if (text.starts_with(k_byte_order_mark)) text.erase(0, k_byte_order_mark.size());
  return text;
}

void write_new_file(const std::filesystem::path& path, const std::string& text, unsigned mode) {
  const File file{open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode)};
  if (file.number < 0) {
    if (errno == EEXIST) throw Error(Code::file, path.string(), "exists and is not overwritten");
    fail(path, "cannot be written");
  }
  give_to_owner_of_folder(path, file.number);
  write_all(file.number, path, text);
}

void replace_file(const std::filesystem::path& path, const std::string& text, unsigned mode) {
  std::string name = path.string() + ".XXXXXX";
  {
    const File file{mkostemp(name.data(), O_CLOEXEC)};  // 0600
    if (file.number < 0) fail(path, "cannot be written");
    try {
      write_all(file.number, path, text);
      if (fchmod(file.number, mode) != 0) fail(path, "cannot be written");
      give_to_owner_of_folder(path, file.number);
    } catch (const Error&) {
      unlink(name.c_str());
      throw;
    }
  }
  if (rename(name.c_str(), path.c_str()) != 0) {
    unlink(name.c_str());
    fail(path, "cannot be written");
  }
}

}  // namespace permllm
