// How the process's heap gives memory back, where sessions come and go.
#pragma once

namespace permllm {

// For a process that serves sessions: what is large (a session's keys, a batch of material) is mapped by itself and goes back to
// the system as soon as it is freed, however large what was freed before.
void prepare_heap();
// Gives back what is free inside the heap: behind a prompt, a session, and what else leaves much behind at once. Where it has just
// done so, that is left to trim_heap_if_due.
void trim_heap();
// Makes good what trim_heap has left, once it is time; else it costs nothing.
void trim_heap_if_due();

}  // namespace permllm
