// The machines among which MPI's launcher has started this program. join.cpp speaks MPI and is linked into permllm-mpi alone; without.cpp is what every
// other program has in its place.
#pragma once

#include <cstddef>
#include <memory>

#include "base/clock.h"
#include "ring/machines.h"

namespace permllm {

// Which of them this is, as the launcher says; 0 without one.
std::size_t machine_number();
// Null where there is but one. patience: how long machine 0 waits for another once it leads. The process blocks signals by then as it wants its
// threads to. Errors: usage, where there are several and this program knows no MPI; resource.
std::unique_ptr<Machines> join_machines(Clock::duration patience);
// For programs that are started for it (bench, tests): beside this one, the one that speaks MPI.
inline constexpr const char* k_mpi_program = "permllm-mpi";

}  // namespace permllm
