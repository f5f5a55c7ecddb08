#include "base/file_stamp.h"

#include <sys/stat.h>
#include <time.h>

namespace permllm {
namespace {

// The coarsest tick of a file system's clock that is in use, FAT's.
constexpr std::int64_t k_tick = 2'000'000'000;

std::int64_t nanoseconds(const timespec& time) { return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

}  // namespace

FileStamp FileStamp::of(const std::filesystem::path& path) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return {};
  const std::int64_t changed = nanoseconds(status.st_ctim);
  return {status.st_dev,  status.st_ino,
          status.st_size, nanoseconds(status.st_mtim),
          changed,        changed + k_tick < nanoseconds(now)};
}

}  // namespace permllm
