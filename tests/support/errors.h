// What a call is refused with.
#pragma once

#include <optional>
#include <string>

#include "permllm/error.h"

namespace permllm::test {

// The Error that f throws, if it does.
template <class F>
std::optional<Error> caught(F f) {
  try {
    f();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

// Its text, or "no error".
template <class F>
std::string error_of(F f) {
  const auto error = caught(f);
  return error ? error->what() : "no error";
}

// The name of its reason, or "no error".
template <class F>
std::string reason_of(F f) {
  const auto error = caught(f);
  return error ? name_of(error->reason()) : "no error";
}

}  // namespace permllm::test
