#include "gateway/refusal.h"

#include <fmt/format.h>

#include <cctype>

#include "base/reason.h"
#include "wire/plain.h"

namespace permllm::gateway {
namespace {

// "try again" -> "Try again."
std::string sentence(std::string clause) {
  clause[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(clause[0])));
  return clause + ".";
}

}  // namespace

// Fields that nobody knows are told by their names, which are as long as the client likes.
Refusal invalid(const std::string& message, const std::string& param, const std::string& code, int status) {
  constexpr std::size_t k_message = 1000, k_param = 128;
  return {status, "invalid_request_error", fmt::format("{:.{}}", message, k_message),
          fmt::format("{:.{}}", param, k_param), code};
}

Refusal refusal_of(const Error& error) {
  Reason reason = reason_for_user(error);
  if (reason == Reason::none && error.code() == Code::resource) reason = Reason::busy;
  const std::string message = for_person(error);
  if (reason != Reason::none) {
    const ReasonFacts& facts = facts_of(reason);
    return {facts.http_status, facts.type,        message, "",
            facts.code,        facts.retry_after, "",      sentence(facts.cause) + " " + sentence(facts.remedy),
            facts.name};
  }
  // What a peer makes of this program's messages is nothing that the client did.
  const bool ours = !error.by_peer();
  if (ours && error.code() == Code::unsupported) return invalid(message, error.field(), "unsupported_parameter");
  if (ours && error.code() == Code::usage) return invalid(message, error.field());
  if (ours && error.code() == Code::file) return {500, "server_error", message};
  return {502, "server_error", message, "", "peer_fault"};
}

}  // namespace permllm::gateway
