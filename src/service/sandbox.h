// What the user's programs may still do once they are set up: their own files, by landlock, and few system calls, by seccomp. The prompt is in
// their memory, and much of what they read was written by others: who gets a foothold there finds no other file and no other program.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace permllm {

struct Sandbox {
  std::vector<std::filesystem::path>
      read;  // files, and folders with all that is in them; the system's own may be read in any case
  std::vector<std::filesystem::path> write;  // likewise, made and removed there, too
};

struct SandboxSupport {
  int landlock = 0;      // version of its interface; 0: the kernel has it not, or it is switched off
  bool seccomp = false;  // as that; and never in a build with sanitizers, which trace and fork
  std::string text() const;
};
// Of this machine's kernel.
SandboxSupport sandbox_support();
// For good. Landlock binds this thread and those that it starts: to be called before there are others. What is not there yet of `sandbox` is left
// out, and so is what the kernel has not; returns what is in force. Errors: resource, where the kernel has it and refuses.
SandboxSupport enter_sandbox(const Sandbox& sandbox);

}  // namespace permllm
