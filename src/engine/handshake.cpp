#include "engine/handshake.h"

#include <sys/resource.h>

namespace permllm {

PartyReport report_of_this_process() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  PartyReport report;
  report.cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  report.memory_bytes = static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
  return report;
}

Seed common_seed(const Seed& dialler, const Seed& helper, const char* domain, const PairHello& hello) {
  const auto bytes = helper.bytes();
  std::string binding(bytes.begin(), bytes.end());
  binding += std::to_string(hello.session) + '/' + hello.model_id + '/' + hello.plan_hash;
  return derive(dialler, domain, binding);
}

}  // namespace permllm
