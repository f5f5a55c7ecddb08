#include "base/reason.h"

#include <array>

namespace permllm {
namespace {

constexpr const char *k_server = "server_error", *k_request = "invalid_request_error",
                     *k_new_invite = "ask the provider for a new invite", *k_try_later = "try again in a moment",
                     *k_doctor = "permllm doctor looks at each link; try again once they are well";

constexpr std::array k_reasons{
    ReasonFacts{Reason::allowance_used_up, "allowance_used_up", 2, 429, "insufficient_quota", "allowance_used_up", 0,
                "the allowance of the invite is used up", "ask the provider for more"},
    ReasonFacts{Reason::context_exceeded, "context_exceeded", 2, 400, k_request, "context_length_exceeded", 0,
                "this is longer than the model can read", "shorten the question, or begin another conversation"},
    ReasonFacts{Reason::queue_full, "queue_full", 1, 429, "rate_limit_error", "queue_full", 5,
                "too many requests are waiting already", k_try_later},
    ReasonFacts{Reason::busy, "busy", 1, 503, k_server, "provider_busy", 10,
                "the provider or the helper takes no more for now", k_try_later},
    ReasonFacts{Reason::session_ended, "session_ended", 1, 503, k_server, "provider_busy", 5,
                "the provider has ended the session", "ask again"},
    ReasonFacts{Reason::provider_unreachable, "provider_unreachable", 1, 503, k_server, "provider_unreachable", 10,
                "the provider cannot be reached", k_doctor},
    ReasonFacts{Reason::helper_unreachable, "helper_unreachable", 1, 503, k_server, "out_of_stock", 30,
                "no offline material is ready, and the helper cannot be reached", k_doctor},
    ReasonFacts{Reason::out_of_stock, "out_of_stock", 1, 503, k_server, "out_of_stock", 30,
                "no offline material is ready, and none can be made now", k_try_later},
    ReasonFacts{Reason::stock_full, "stock_full", 1, 503, k_server, "out_of_stock", 30,
                "the provider keeps no more offline material for this user",
                "ask with what is made, which makes room, or the provider raises --user-stock"},
    ReasonFacts{Reason::disk_full, "disk_full", 1, 503, k_server, "out_of_stock", 30,
                "the disk for offline material or models is full", "whoever owns the disk makes room"},
    ReasonFacts{Reason::model_changed, "model_changed", 1, 503, k_server, "model_changed", 60,
                "the provider serves another model or profile than before",
                "look at what it serves now, and start this program again"},
    ReasonFacts{Reason::model_missing, "model_missing", 1, 502, k_server, "peer_fault", 0,
                "the helper does not hold the provider's model",
                "try again in a minute, in which the provider sends it again"},
    ReasonFacts{Reason::version, "version", 1, 502, k_server, "peer_fault", 0,
                "the parties' programs are of different releases", "bring all to the same release"},
    ReasonFacts{Reason::invite_revoked, "invite_revoked", 1, 502, k_server, "peer_fault", 0,
                "the invite is revoked, replaced or unknown", k_new_invite},
    ReasonFacts{Reason::certificate_expired, "certificate_expired", 1, 502, k_server, "peer_fault", 0,
                "a certificate has expired", "a user asks for a new invite, others run permllm keygen --renew"},
    ReasonFacts{Reason::not_trusted, "not_trusted", 1, 502, k_server, "peer_fault", 0,
                "a party's certificate is not trusted",
                "a user asks for a new invite, a service puts its peer's certificate into its peers folder"},
    ReasonFacts{Reason::address_in_use, "address_in_use", 1, 500, k_server, "", 0,
                "another program listens at this address", "end it, or choose another port"},
    ReasonFacts{Reason::wrong_product, "wrong_product", 1, 502, k_server, "wrong_product", 0,
                "the provider computed with another model than the one that was registered",
                "ask the provider what it changed; a further try tells it a little of the prompt"},
};

constexpr ReasonFacts k_none{Reason::none, "none", 1, 500, k_server, "", 0, "", ""};

constexpr bool are_by_number() {
  for (std::size_t i = 0; i < k_reasons.size(); ++i) {
    if (static_cast<std::size_t>(k_reasons[i].reason) != i + 1) return false;
  }
  return k_reasons.back().reason == k_last_reason;
}
static_assert(are_by_number());

}  // namespace

std::span<const ReasonFacts> reasons() { return k_reasons; }

const ReasonFacts& facts_of(Reason reason) {
  return reason == Reason::none || reason > k_last_reason ? k_none : k_reasons[static_cast<std::size_t>(reason) - 1];
}

Reason reason_for_user(const Error& error) {
  const bool lost = error.code() == Code::closed || error.code() == Code::timeout;
  return error.reason() == Reason::none && lost ? Reason::provider_unreachable : error.reason();
}

bool is_of_stock(Reason reason) {
  return reason == Reason::helper_unreachable || reason == Reason::out_of_stock || reason == Reason::stock_full ||
         reason == Reason::disk_full;
}

Error allowance_used_up(Code code, const char* field) {
  return Error(code, Reason::allowance_used_up, field, facts_of(Reason::allowance_used_up).cause);
}

}  // namespace permllm
