#include "permllm/error.h"

#include <cstdio>
#include <cstdlib>

namespace permllm {

const char* name_of(Role role) {
  switch (role) {
    case Role::provider: return "provider";
    case Role::user: return "user";
    case Role::helper: return "helper";
  }
  return "?";
}

const char* name_of(Code code) {
  switch (code) {
    case Code::usage: return "usage";
    case Code::file: return "file";
    case Code::unsupported: return "unsupported";
    case Code::mismatch: return "mismatch";
    case Code::malformed: return "malformed";
    case Code::closed: return "closed";
    case Code::timeout: return "timeout";
    case Code::resource: return "resource";
  }
  return "?";
}

Error::Error(Code code, const std::string& field, const std::string& message)
    : std::runtime_error(field.empty() ? message : field + ": " + message), code_(code), field_(field) {}

int Error::exit_status() const {
  return code_ == Code::usage || code_ == Code::file || code_ == Code::unsupported ? 2 : 1;
}

void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "permllm: %s:%d: broken invariant: %s\n", file, line, condition);
  std::abort();
}

}  // namespace permllm
