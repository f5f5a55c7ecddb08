#include "service/print_event.h"

#include <cstdio>
#include <string>

#include "base/text.h"

namespace permllm {

void print_event(const nlohmann::json& event) {
  // One write a line: events come from several threads.
  const std::string line = to_json_line(event) + '\n';
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fflush(stdout);
}

}  // namespace permllm
