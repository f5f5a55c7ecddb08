#include "session/report.h"

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

}  // namespace permllm
