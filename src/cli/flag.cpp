#include "cli/flag.h"

#include <algorithm>

namespace permllm {

Error with_flag(const Error& error, const CLI::App& command) {
  const bool of_option = error.code() == Code::usage || error.reason() == Reason::address_in_use;
  if (!of_option || error.by_peer() || error.field().empty()) return error;
  std::string flag = "--" + error.field();
  std::replace(flag.begin(), flag.end(), '_', '-');
  return command.get_option_no_throw(flag) == nullptr ? error
                                                      : Error(error.code(), error.reason(), flag, error.message());
}

}  // namespace permllm
