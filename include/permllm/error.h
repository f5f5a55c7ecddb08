// The one exception type of the project, and the assertion for our own mistakes.
#pragma once

#include <stdexcept>
#include <string>

namespace permllm {

// Who is speaking. The provider owns the weights, the user owns the prompt, the helper deals randomness beforehand.
enum class Role { provider, user, helper };

const char* name_of(Role role);

enum class Code {
  usage,        // the person asked for something impossible: wrong flag, empty prompt, prompt over the context
  file,         // a file is missing, truncated or corrupted
  unsupported,  // a file is well formed, but of a kind that is not implemented
  mismatch,     // the peer speaks another wire version, or has another model or plan
  malformed,    // the peer sent bytes that do not fit the plan
  closed,       // the peer closed the connection, or ended the session
  timeout,      // the peer did not answer before the deadline
  resource,     // the system refused: memory, sockets, processes
};

const char* name_of(Code code);

// A fault found in a peer, a file or a request. Texts never hold secret data, prompts or tokens.
class Error : public std::runtime_error {
 public:
  // `field` names what was wrong ("PermutedRows.values", "tokenizer.ggml.pre"); may be empty.
  // what() is "field: message" or "message".
  Error(Code code, const std::string& field, const std::string& message);

  Code code() const { return code_; }
  const std::string& field() const { return field_; }
  // 2 for the person's mistakes (usage, file, unsupported), 1 otherwise.
  int exit_status() const;

 private:
  Code code_;
  std::string field_;
};

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line);

}  // namespace permllm

// A broken invariant of our own code: message and abort, in every build.
#define PERMLLM_ASSERT(condition) \
  ((condition) ? static_cast<void>(0) : ::permllm::assertion_failed(#condition, __FILE__, __LINE__))
