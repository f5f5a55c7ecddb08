// How the process's heap gives memory back, where sessions come and go.
#pragma once

namespace permllm {

// For a process that serves sessions: what is large (a session's keys, a batch of material) is mapped by itself and goes back to
// the system as soon as it is freed, however large what was freed before.
void prepare_heap();
// Gives back what is free inside the heap: behind a prompt, a session, and what else leaves much behind at once. Does nothing
// where it has just done so.
void trim_heap();

}  // namespace permllm
