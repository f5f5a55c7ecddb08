// How much a function does: for tests that what it does depends on no secret.
#pragma once

#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <optional>

namespace permllm::test {

// Instructions that body(begin) takes, from where it calls begin() to its end, in a child of this process. The children of calls that follow one
// another, with nothing allocated between, begin alike, so that calls which do the same take as many. body has no threads and does not look at the
// clock. None: no process may trace another here.
template <class Body>
std::optional<std::size_t> instructions_of(const Body& body) {
  const pid_t child = fork();
  if (child == 0) {
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(1);
    body([] { raise(SIGSTOP); });
    _exit(0);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) return {};
  std::size_t count = 0;
  for (; WIFSTOPPED(status); ++count) {
    if (ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) != 0) {
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      return {};
    }
    waitpid(child, &status, 0);
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? std::optional(count) : std::nullopt;
}

}  // namespace permllm::test
