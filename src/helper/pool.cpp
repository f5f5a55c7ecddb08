#include "helper/pool.h"

#include <fmt/format.h>

#include <system_error>
#include <utility>

#include "base/file.h"
#include "base/small_file.h"
#include "permllm/error.h"
#include "rand/seed.h"

namespace permllm {

HelperPool::HelperPool(const std::filesystem::path& store, std::string address, Dial dial)
    : folder_(store / "parked"), address_(std::move(address)), dial_(std::move(dial)) {
  make_private_folder(store);
  make_private_folder(folder_);
  // What this helper announced before it was started again.
  std::error_code failed;
  for (const auto& file : std::filesystem::directory_iterator(folder_, failed)) {
    const std::string place = file.path().filename();
    try {
      if (read_small_file(file.path()) == address_) withdraw(place);
    } catch (const Error&) {  // another withdrew it
    }
  }
}

void HelperPool::announce(const std::string& place) const { replace_file(folder_ / place, address_, 0600); }

void HelperPool::withdraw(const std::string& place) const noexcept {
  try {
    withdraw(place, address_);
  } catch (const std::exception&) {  // another may read it yet, and finds nobody there
  }
}

void HelperPool::withdraw(const std::string& place, const std::string& address) const {
  const std::filesystem::path taken = folder_ / fmt::format("{}.{:016x}", place, random_number());
  std::error_code failed;
  std::filesystem::rename(folder_ / place, taken, failed);
  if (failed) return;
  // Another may have announced itself in the same moment.
  if (read_small_file(taken) != address) std::filesystem::create_hard_link(taken, folder_ / place, failed);
  std::filesystem::remove(taken, failed);
}

std::string HelperPool::where(const std::string& place) const {
  std::error_code failed;
  if (!std::filesystem::exists(folder_ / place, failed)) return "";
  try {
    const std::string address = read_small_file(folder_ / place);
    return address == address_ ? "" : address;
  } catch (const Error&) {  // withdrawn meanwhile
    return "";
  }
}

}  // namespace permllm
