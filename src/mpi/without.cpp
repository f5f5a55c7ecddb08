#include <fmt/format.h>

#include "mpi/join.h"
#include "mpi/launched.h"
#include "permllm/error.h"

namespace permllm {

std::size_t machine_number() { return launched_number(); }

std::unique_ptr<Machines> join_machines(Clock::duration) {
  if (launched_machines() == 1) return nullptr;
  throw Error(Code::usage, "machines",
              fmt::format("this program was started {} times by mpirun, and knows no MPI: start {} in its place",
                          launched_machines(), k_mpi_program));
}

}  // namespace permllm
