#include "base/temporary_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <system_error>

#include "permllm/error.h"

namespace permllm {
namespace {

const std::string k_prefix = "permllm-run-";

// The folder, locked; -1 where it is not this user's, another process has it, or it is there no more.
int locked(const std::filesystem::path& path) {
  const int folder = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (folder < 0) return -1;
  struct stat own {
  }, named{};
  if (flock(folder, LOCK_EX | LOCK_NB) == 0 && fstat(folder, &own) == 0 && own.st_uid == geteuid() &&
      lstat(path.c_str(), &named) == 0 && named.st_dev == own.st_dev && named.st_ino == own.st_ino) {
    return folder;
  }
  close(folder);
  return -1;
}

void remove(const std::filesystem::path& path, int folder) {
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
  close(folder);
}

void remove_what_was_left(const std::filesystem::path& where) {
  std::error_code ignored;
  for (std::filesystem::directory_iterator entry(where, ignored), end; !ignored && entry != end;
       entry.increment(ignored)) {
    if (!entry->path().filename().string().starts_with(k_prefix)) continue;
    const int folder = locked(entry->path());
    if (folder >= 0) remove(entry->path(), folder);
  }
}

}  // namespace

TemporaryDirectory::TemporaryDirectory(const std::filesystem::path& where) {
  remove_what_was_left(where);
  while (folder_ < 0) {  // another process that starts may take it for one that was left, until it is locked
    std::string name = (where / (k_prefix + "XXXXXX")).string();
    if (mkdtemp(name.data()) == nullptr) throw Error(Code::resource, name, "no temporary directory can be made");
    path_ = name;
    folder_ = locked(path_);
  }
}

TemporaryDirectory::~TemporaryDirectory() { remove(path_, folder_); }

}  // namespace permllm
