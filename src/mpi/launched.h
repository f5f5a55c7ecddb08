// What Open MPI's launcher tells each process by its environment.
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <string_view>

namespace permllm {

inline std::size_t launched(const char* variable, std::size_t otherwise) {
  const char* value = std::getenv(variable);
  const std::string_view text = value == nullptr ? "" : value;
  std::size_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return !text.empty() && error == std::errc() && end == text.data() + text.size() ? number : otherwise;
}
inline std::size_t launched_machines() { return launched("OMPI_COMM_WORLD_SIZE", 1); }
inline std::size_t launched_number() { return launched("OMPI_COMM_WORLD_RANK", 0); }

}  // namespace permllm
