// Why a request is not answered, before an interface puts it into its own shape.
#pragma once

#include <string>

#include "permllm/error.h"

namespace permllm::gateway {

struct Refusal {
  int status = 500;
  std::string type = "server_error", message;  // the type is OpenAI's
  std::string param = {}, code = {};           // empty: null
  int retry_after = 0;                         // seconds; 0: not said
  std::string allow = {};                      // of 405: the methods that may be
  std::string plain = {};                      // of a reason: sentences for the person at the page, cause and remedy
  std::string reason = {};                     // its name (docs/operations.md, "Errors"), where there is one
};
// What a fault of the library or of a request's fields is to whoever asked.
Refusal refusal_of(const Error& error);

Refusal invalid(const std::string& message, const std::string& param = {}, const std::string& code = {},
                int status = 400);

}  // namespace permllm::gateway
