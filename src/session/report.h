// The end of a session: what each party spent.
#pragma once

#include <cstdint>

#include "wire/message.h"

namespace permllm {

// A party's report at the end of a session: what it spent. Nothing of the content.
struct PartyReport {
  static constexpr Tag tag = Tag::party_report;
  double cpu_seconds = 0;
  std::uint64_t memory_bytes = 0;  // the process's greatest resident size
  // Of the provider, over passes that followed a sampled token: their number, the offline material that they used, by
  // origin, how long they took, how much of that it waited for the user, and its processor time.
  std::uint64_t passes = 0, bytes_of_user = 0, bytes_of_helper = 0;
  double pass_seconds = 0, pass_waited = 0, pass_cpu = 0;
  template <class Io>
  void visit(Io& io) {
    io.real("cpu_seconds", cpu_seconds);
    io.number("memory_bytes", memory_bytes);
    io.number("passes", passes);
    io.number("bytes_of_user", bytes_of_user);
    io.number("bytes_of_helper", bytes_of_helper);
    io.real("pass_seconds", pass_seconds);
    io.real("pass_waited", pass_waited);
    io.real("pass_cpu", pass_cpu);
  }
};
PartyReport report_of_this_process();

struct SessionEnd {  // user -> provider: answered by a PartyReport
  static constexpr Tag tag = Tag::session_end;
  template <class Io>
  void visit(Io&) {}
};

}  // namespace permllm
