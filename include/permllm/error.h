// The one exception type of the project, and the assertion for our own mistakes.
#pragma once

#include <cstddef>
#include <cstdint>
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

// A cause that programs and people act on, beside the code, which says of what kind the fault is. The numbers are on the wire (docs/wire.md 1) and stay:
// a new cause takes the next one. docs/operations.md, "Errors", has the table; none is every other fault.
enum class Reason : std::uint16_t {
  none = 0,
  allowance_used_up = 1,  // all tokens or rows of the invite are used
  context_exceeded = 2,   // the conversation does not fit the model's context
  queue_full = 3,         // the gateway has as many requests as it takes
  busy = 4,               // a party takes no more for now: sessions, connections, memory; or it is shutting down
  session_ended = 5,      // the provider ended the session, because others wait or nothing came
  provider_unreachable = 6,
  helper_unreachable = 7,  // from the user, or from the provider
  out_of_stock = 8,        // the offline material that is needed was not made
  stock_full = 9,          // no more material of this user goes onto the provider's disk
  disk_full = 10,          // of whoever wanted to write
  model_changed = 11,      // the provider serves another model, or the same by another plan, than before
  model_missing = 12,      // the helper does not hold the provider's model
  version = 13,            // the peer speaks another wire version
  invite_revoked = 14,     // or replaced, or unknown
  certificate_expired = 15,
  not_trusted = 16,     // a certificate is of a key, an issuer or a role that is not let in
  address_in_use = 17,  // another program listens there
  wrong_product = 18,   // the provider computed with another model than the helper holds
};
inline constexpr Reason k_last_reason = Reason::wrong_product;

const char* name_of(Reason reason);
// What a person can do about it, as a clause without a full stop: "ask the provider for a new invite". Empty for none.
const char* remedy_of(Reason reason);

// A fault found in a peer, a file or a request. Texts never hold secret data, prompts or tokens.
class Error : public std::runtime_error {
 public:
  // `field` names what was wrong ("PermutedRows.values", "tokenizer.ggml.pre"), or the option by its name in the library ("draft"); may be empty.
  // what() is "field: message" or "message".
  Error(Code code, const std::string& field, const std::string& message) : Error(code, Reason::none, field, message) {}
  Error(Code code, Reason reason, const std::string& field, const std::string& message)
      : Error(code, reason, field, message, false) {}
  // A peer's refusal. what() is "peer: field: message".
  static Error of_a_peer(Code code, Reason reason, const std::string& field, const std::string& message) {
    return {code, reason, field, message, true};
  }

  Code code() const { return code_; }
  Reason reason() const { return reason_; }
  const std::string& field() const { return field_; }
  // what() without field and peer.
  std::string message() const { return what() + message_at_; }
  // A peer said so, of its own side: `field` is one of its names.
  bool by_peer() const { return by_peer_; }
  // Of a program that ends with it: the reason's; else 2 for the person's mistakes (usage, file, unsupported), 1 otherwise.
  int exit_status() const;

 private:
  Error(Code code, Reason reason, const std::string& field, const std::string& message, bool by_peer);
  Code code_;
  Reason reason_;
  bool by_peer_;
  std::size_t message_at_;
  std::string field_;
};

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line);

}  // namespace permllm

// A broken invariant of our own code: message and abort, in every build.
#define PERMLLM_ASSERT(condition) \
  ((condition) ? static_cast<void>(0) : ::permllm::assertion_failed(#condition, __FILE__, __LINE__))
