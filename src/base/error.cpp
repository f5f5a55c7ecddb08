#include "permllm/error.h"

#include <cstdio>
#include <cstdlib>

#include "base/reason.h"

namespace permllm {

const char* name_of(Role role) {
  switch (role) {
    case Role::provider:
      return "provider";
    case Role::user:
      return "user";
    case Role::helper:
      return "helper";
  }
  return "?";
}

const char* name_of(Code code) {
  switch (code) {
    case Code::usage:
      return "usage";
    case Code::file:
      return "file";
    case Code::unsupported:
      return "unsupported";
    case Code::mismatch:
      return "mismatch";
    case Code::malformed:
      return "malformed";
    case Code::closed:
      return "closed";
    case Code::timeout:
      return "timeout";
    case Code::resource:
      return "resource";
  }
  return "?";
}

const char* name_of(Reason reason) { return facts_of(reason).name; }
const char* remedy_of(Reason reason) { return facts_of(reason).remedy; }

namespace {

std::string before_message(const std::string& field, bool by_peer) {
  return (by_peer ? "peer: " : "") + (field.empty() ? "" : field + ": ");
}

}  // namespace

Error::Error(Code code, Reason reason, const std::string& field, const std::string& message, bool by_peer)
    : std::runtime_error(before_message(field, by_peer) + message),
      code_(code),
      reason_(reason),
      by_peer_(by_peer),
      message_at_(before_message(field, by_peer).size()),
      field_(field) {}

int Error::exit_status() const {
  if (reason_ != Reason::none) return facts_of(reason_).exit_status;
  return code_ == Code::usage || code_ == Code::file || code_ == Code::unsupported ? 2 : 1;
}

void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "permllm: %s:%d: broken invariant: %s\n", file, line, condition);
  std::abort();
}

}  // namespace permllm
