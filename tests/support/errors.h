// What a call is refused with.
#pragma once

#include <string>

#include "permllm/error.h"

namespace permllm::test {

// The text of the Error that f throws, or "no error".
template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace permllm::test
