#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/owner.h"
#include "permllm/error.h"

namespace permllm {
namespace {

[[noreturn]] void fail(const std::string& name, const std::string& what) {
  throw Error(Code::resource, errno == ENOSPC || errno == EDQUOT ? Reason::disk_full : Reason::none, name,
              fmt::format("{}: {}", what, std::strerror(errno)));
}

struct flock one_byte(std::uint64_t offset) {
  struct flock byte {};
  byte.l_type = F_WRLCK;
  byte.l_whence = SEEK_SET;
  byte.l_start = static_cast<off_t>(offset);
  byte.l_len = 1;
  return byte;
}

}  // namespace

File::File(const std::filesystem::path& path, Mode mode) : name_(path.filename().string()) {
  const int flags = mode == Mode::read ? O_RDONLY : mode == Mode::write ? O_RDWR : O_RDWR | O_CREAT;
  file_ = ::open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
  struct stat status {};
  if (file_ < 0 || fstat(file_, &status) != 0 || !S_ISREG(status.st_mode)) {
    const std::string why = file_ < 0 ? std::strerror(errno) : "is no regular file";
    if (file_ >= 0) close(file_);
    throw Error(Code::file, path.string(), fmt::format("cannot be opened: {}", why));
  }
  if (mode == Mode::create) give_to_owner_of_folder(path, file_);
}

File File::in_memory(const std::string& name) {
  File file;
  file.name_ = name;
  file.file_ = memfd_create(name.c_str(), MFD_CLOEXEC);
  if (file.file_ < 0) fail(name, "the system gave no memory for it");
  return file;
}

File::~File() {
  if (file_ >= 0) close(file_);
}

File::File(File&& other) noexcept : file_(std::exchange(other.file_, -1)), name_(std::move(other.name_)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(name_, other.name_);
  return *this;
}

std::uint64_t File::size() const {
  struct stat status {};
  if (fstat(file_, &status) != 0) fail(name_, "its size cannot be read");
  return static_cast<std::uint64_t>(status.st_size);
}

bool File::read(std::uint64_t offset, std::span<std::uint8_t> out) const {
  while (!out.empty()) {
    const ssize_t got = pread(file_, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    offset += static_cast<std::uint64_t>(got);
    out = out.subspan(static_cast<std::size_t>(got));
  }
  return true;
}

void File::write(std::uint64_t offset, std::span<const std::uint8_t> bytes) const {
  while (!bytes.empty()) {
    const ssize_t put = pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) fail(name_, fmt::format("{} bytes at {} cannot be written", bytes.size(), offset));
    offset += static_cast<std::uint64_t>(put);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
}

void File::resize(std::uint64_t size) const {
  if (ftruncate(file_, static_cast<off_t>(size)) != 0) fail(name_, fmt::format("it cannot have {} bytes", size));
}

void File::allocate(std::uint64_t size) const {
  const int failed = posix_fallocate(file_, 0, static_cast<off_t>(size));
  if (failed == 0) return;
  resize(0);
  errno = failed;
  fail(name_, fmt::format("there is no room for its {} bytes", size));
}

std::uint64_t File::free_space() const {
  struct statvfs disk {};
  if (fstatvfs(file_, &disk) != 0) fail(name_, "its disk does not tell what is free");
  return std::uint64_t{disk.f_bavail} * disk.f_frsize;
}

bool File::free(std::uint64_t offset, std::uint64_t bytes) const {
  int failed = 0;
  do {
    failed = bytes == 0 ? 0
                        : fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                                    static_cast<off_t>(bytes));
  } while (failed != 0 && errno == EINTR);
  return failed == 0;
}

void File::sync() const {
  if (fsync(file_) != 0) fail(name_, "it does not reach the disk");
}

void File::start_sync(std::uint64_t offset, std::uint64_t bytes) const {
  sync_file_range(file_, static_cast<off_t>(offset), static_cast<off_t>(bytes), SYNC_FILE_RANGE_WRITE);
}

bool File::lock() const { return flock(file_, LOCK_EX | LOCK_NB) == 0; }
bool File::lock_shared() const { return flock(file_, LOCK_SH | LOCK_NB) == 0; }

bool File::is_at(const std::filesystem::path& path) const {
  struct stat own {
  }, there{};
  return fstat(file_, &own) == 0 && stat(path.c_str(), &there) == 0 && own.st_dev == there.st_dev &&
         own.st_ino == there.st_ino;
}

bool File::lock_byte(std::uint64_t offset) const {
  struct flock byte = one_byte(offset);
  if (fcntl(file_, F_OFD_SETLK, &byte) == 0) return true;
  if (errno == EAGAIN || errno == EACCES) return false;
  fail(name_, "its file system keeps no locks; use a folder on another");
}

bool File::byte_is_locked(std::uint64_t offset) const {
  struct flock byte = one_byte(offset);
  if (fcntl(file_, F_OFD_GETLK, &byte) != 0) fail(name_, "its file system keeps no locks; use a folder on another");
  return byte.l_type != F_UNLCK;
}

std::filesystem::file_type type_of(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_type type = std::filesystem::status(path, error).type();
  if (type == std::filesystem::file_type::none)
    throw Error(Code::file, path.string(), fmt::format("cannot be looked at: {}", error.message()));
  return type;
}

bool is_there(const std::filesystem::path& path) { return type_of(path) != std::filesystem::file_type::not_found; }

void make_private_folder(const std::filesystem::path& folder) {
  std::filesystem::path place = folder.lexically_normal();
  if (!place.has_filename()) place = place.parent_path();  // "state/"
  std::error_code error;
  if (place.has_parent_path()) std::filesystem::create_directories(place.parent_path(), error);
  if (!error && mkdir(place.c_str(), 0700) == 0) {
    const int made = ::open(place.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (made >= 0) give_to_owner_of_folder(place, made), close(made);
    return;
  }
  if (!error && errno != EEXIST) error = {errno, std::generic_category()};
  if (error) throw Error(Code::file, folder.string(), fmt::format("cannot be made: {}", error.message()));
  check_writers(place);
}

void check_writers(const std::filesystem::path& folder) {
  struct stat status {};
  if (stat(folder.c_str(), &status) != 0)
    throw Error(Code::file, folder.string(), fmt::format("cannot be looked at: {}", std::strerror(errno)));
  if (!S_ISDIR(status.st_mode)) throw Error(Code::file, folder.string(), "is no folder");
  if ((status.st_mode & 022) == 0) return;
  throw Error(
      Code::file, folder.string(),
      fmt::format(
          "others than its owner may write there (mode {:04o}) and could put older files in place of newer ones; "
          "run chmod go-w {}, or name another folder",
          status.st_mode & 07777, folder.string()));
}

void sync_folder(const std::filesystem::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool done = descriptor >= 0 && fsync(descriptor) == 0;
  if (!done) {
    const int why = errno;
    if (descriptor >= 0) close(descriptor);
    errno = why;
    fail(folder.filename().string(), "the folder does not reach the disk");
  }
  close(descriptor);
}

void rename_file(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail(from.filename().string(), "it cannot be renamed");
  sync_folder(to.parent_path());
}

}  // namespace permllm
