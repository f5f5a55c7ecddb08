#include "base/owner.h"

#include <sys/stat.h>
#include <unistd.h>

namespace permllm {

void give_to_owner_of_folder(const std::filesystem::path& path, int descriptor) {
  if (geteuid() != 0) return;
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  struct stat own {
  }, above{};
  if (fstat(descriptor, &own) != 0 || stat(folder.c_str(), &above) != 0) return;
  if (own.st_uid == 0 && above.st_uid != 0 && fchown(descriptor, above.st_uid, above.st_gid) != 0) return;
}

}  // namespace permllm
