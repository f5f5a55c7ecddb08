// The one table of reasons: status, cause and remedy for command line, gateway and page. What a person reads first on the command line is the
// sentence of the Error, where it is thrown; the remedy comes behind it. A test holds docs/serve.md and docs/operations.md to the table.
#pragma once

#include <span>

#include "permllm/error.h"

namespace permllm {

struct ReasonFacts {
  Reason reason;
  const char* name;  // as the enumerator
  int exit_status;   // of a program that ends with it
  int http_status;
  const char* type;    // of the HTTP body's error, as OpenAI's
  const char* code;    // likewise
  int retry_after;     // seconds; 0: not said, asking again would not help
  const char* cause;   // for a person, as a clause
  const char* remedy;  // likewise
};

// All but none, by number.
std::span<const ReasonFacts> reasons();
// Of none: an exit status of 1, an HTTP status of 500 and empty texts.
const ReasonFacts& facts_of(Reason reason);

// What a fault is to the user's programs: its own reason, or that of a lost or silent provider for what has none. Party and gateway have reasons for the rest.
Reason reason_for_user(const Error& error);

// Whether there is no material and none can be made: what is in stock serves all the same.
bool is_of_stock(Reason reason);

// Whoever finds that no token is left throws this, with the table's words.
Error allowance_used_up(Code code, const char* field);

// Runs f. A fault of its connection (closed, timeout) that has no reason gets this one.
template <class F>
decltype(auto) reach(Reason reason, F f) {
  try {
    return f();
  } catch (const Error& error) {
    if (error.by_peer() || error.reason() != Reason::none ||
        (error.code() != Code::closed && error.code() != Code::timeout))
      throw;
    throw Error(error.code(), reason, error.field(), error.message());
  }
}

}  // namespace permllm
