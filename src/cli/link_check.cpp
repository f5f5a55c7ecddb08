#include "cli/link_check.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "net/tls.h"
#include "permllm/version.h"
#include "wire/frame.h"
#include "wire/plain.h"

namespace permllm {
namespace {

constexpr auto k_connect_patience = std::chrono::seconds(5);
constexpr auto k_answer_patience = std::chrono::seconds(15);  // a provider looks at its helper first
constexpr double k_clock_tolerance = 30;                      // seconds
constexpr int k_peer_days = 30;

using Step = Attempt::Step;

std::string text_of_bandwidth(double bits) {
  return bits >= 1e9   ? fmt::format("{:.1f} Gbit/s", bits / 1e9)
         : bits >= 1e6 ? fmt::format("{:.1f} Mbit/s", bits / 1e6)
                       : fmt::format("{:.0f} kbit/s", bits / 1e3);
}

// The address was reached in no way.
void tell_of_port(const LinkToCheck& link, const Attempt& attempt, const Error& error, const Teller& teller) {
  const std::string at = fmt::format("{} ({})", link.address, attempt.ip);
  if (attempt.port_error == ECONNREFUSED) {
    teller.wrong("port", fmt::format("refused: nobody listens at {}", at),
                 fmt::format("start the {} there, or correct the port", name_of(link.peer)));
  } else if (attempt.port_error != 0) {
    teller.wrong("port", fmt::format("unreachable: {} at {}", error.message(), at),
                 "check cables, routes and the address of both machines");
  } else {
    teller.wrong("port", fmt::format("no answer from {} within {} s", at, k_connect_patience.count()),
                 "look for a firewall that drops it, a machine that is off, or an address that is another's");
  }
}

// The port is open, and TLS fails.
void tell_of_handshake(const LinkToCheck& link, const Attempt& attempt, const Error& error, const Teller& teller) {
  const bool user = link.credentials.identity.certificate.role() == Role::user;
  const std::string peer = name_of(link.peer);
  if (!attempt.shown) {
    if (error.code() == Code::timeout)
      return teller.wrong("TLS", "the port is open, and the peer does not answer",
                          fmt::format("look whether the {} is overloaded, or restart it", peer));
    return teller.wrong(
        "TLS", error.message(),
        fmt::format("see whether another program than the {} listens there, and what the {} reports", peer, peer));
  }
  const Certificate& shown = *attempt.shown;
  if (shown.role() != link.peer) {
    return teller.wrong(
        "certificate",
        fmt::format("a {} answers, named \"{}\", expected the {}", name_of(shown.role()), shown.name(), peer),
        "correct the address: it is another party's");
  }
  std::string expected;
  bool known = false;
  for (const Trust::Pin& pin : link.credentials.trust.pins) {
    if (pin.role != link.peer) continue;
    expected += (expected.empty() ? "sha256:" : " or sha256:") + pin.key;
    known = known || pin.key == shown.pin();
  }
  if (!known) {
    return teller.wrong(
        "certificate",
        fmt::format("{} \"{}\" has key sha256:{}, expected {}", peer, shown.name(), shown.pin(), expected),
        user ? fmt::format("if the {} says that it has a new key, ask the provider for a new invite; else somebody "
                           "else answers there: do not go on",
                           peer)
             : fmt::format("compare the key with the {}'s own; if it is, put the {}'s certificate.pem into peers", peer,
                           peer));
  }
  if (shown.ended()) {
    return teller.wrong("certificate", fmt::format("that of the {} expired on {}", peer, shown.last_day()),
                        fmt::format("the {} runs permllm keygen --renew (or compare the clocks)", peer));
  }
  teller.wrong("certificate", error, fmt::format("ask the {}", peer));
}

// The peer's first answer does not come.
void tell_of_silence(const LinkToCheck& link, const Error& error, const Teller& teller) {
  const std::string peer = name_of(link.peer);
  if (error.reason() == Reason::version && !error.by_peer()) {
    teller.wrong("version", fmt::format("{}; this program is permllm {}", error.message(), PERMLLM_VERSION),
                 "bring both to the same release");
  } else if (error.by_peer() && error.code() == Code::malformed) {
    teller.wrong("version",
                 fmt::format("the {} does not know what is asked; this program is permllm {}", peer, PERMLLM_VERSION),
                 "bring both to the same release");
  } else if (error.code() == Code::mismatch) {
    teller.wrong("own key", error, fmt::format("ask the {}", peer));
  } else {
    teller.wrong("answer", error, fmt::format("see what the {} reports, or restart it", peer));
  }
}

}  // namespace

void check_validity(const Certificate& certificate, int days, const std::string& remedy, const char* check,
                    const Teller& teller) {
  const std::string who = fmt::format("{} \"{}\"", name_of(certificate.role()), certificate.name()),
                    key = "sha256:" + certificate.pin();
  const int left = certificate.days_left();
  const nlohmann::json facts{{"key", key}, {"days_left", left}};
  if (certificate.ended())
    return teller.wrong(check, fmt::format("{}: expired on {}", who, certificate.last_day()), remedy);
  if (!certificate.begun())
    return teller.wrong(check, fmt::format("{}: not valid yet", who), "set this machine's clock");
  const std::string text = fmt::format("{}, key {}, valid to {}", who, key, certificate.last_day());
  if (left < days) return teller.warning(check, text, fmt::format("in {} days it ends: {}", left, remedy), facts);
  teller.ok(check, text, facts);
}

void check_clock(double ahead, const std::string& whose, const std::string& against, const Teller& teller) {
  const nlohmann::json facts{{"ahead_seconds", ahead}};
  if (std::abs(ahead) <= k_clock_tolerance)
    return teller.ok("clock", fmt::format("{:.1f} s apart", std::abs(ahead)), facts);
  teller.warning(
      "clock", fmt::format("{} is {:.0f} s {} {}", whose, std::abs(ahead), ahead > 0 ? "ahead of" : "behind", against),
      "set both clocks, by NTP: certificates are judged by them", facts);
}

namespace {

// Whether delay, clock and bandwidth could be measured.
bool check_speed(Channel& channel, const std::string& peer, CheckedLink& checked, const Teller& teller) {
  try {
    checked.delay = measure_delay(channel);
    check_clock(checked.delay.clock_ahead, fmt::format("the {}'s clock", peer), "this one's", teller);
    checked.bandwidth = measure_bandwidth(channel, checked.delay.round_trip);
    teller.ok(
        "speed",
        fmt::format("round trip {:.2f} ms; {} to the {}, {} from it", 1e3 * checked.delay.round_trip,
                    text_of_bandwidth(checked.bandwidth.to_peer), peer, text_of_bandwidth(checked.bandwidth.from_peer)),
        {{"round_trip_seconds", checked.delay.round_trip},
         {"to_peer_bits_per_second", checked.bandwidth.to_peer},
         {"from_peer_bits_per_second", checked.bandwidth.from_peer}});
    return true;
  } catch (const Error& error) {
    teller.wrong("speed", error, "try again; if it stays so, look for what cuts or slows the connection");
    return false;
  }
}

}  // namespace

std::optional<CheckedLink> check_link(const LinkToCheck& link, const std::vector<std::string>& model_ids,
                                      const OnFinding& tell) {
  const Teller teller(link.name, tell);
  const std::string peer = name_of(link.peer);
  Attempt attempt;
  std::unique_ptr<TlsLink> tls;
  std::optional<Error> failure;
  try {
    tls = tls_connect(link.credentials, link.address, link.peer, Clock::now() + k_connect_patience, &attempt);
  } catch (const Error& error) {
    failure = error;
  }
  if (attempt.step == Step::name) {
    teller.wrong("name", failure->message(), "correct the address, or the name service of this machine");
    return std::nullopt;
  }
  teller.ok("name", fmt::format("{} is {}", link.address.substr(0, link.address.rfind(':')), attempt.ip));
  if (attempt.step == Step::port) {
    tell_of_port(link, attempt, *failure, teller);
    return std::nullopt;
  }
  teller.ok("port", fmt::format("{} is open", link.address.substr(link.address.rfind(':') + 1)));
  if (failure) {
    tell_of_handshake(link, attempt, *failure, teller);
    return std::nullopt;
  }
  teller.ok("TLS", "1.3");
  check_validity(*attempt.shown, k_peer_days, fmt::format("the {} runs permllm keygen --renew", peer), "certificate",
                 teller);
  const std::unique_ptr<Link> connection = shaped(std::move(tls), link.shape);
  Channel channel(*connection, 0, k_answer_patience);
  CheckedLink checked;
  try {
    checked.probed = probe(channel, model_ids);
  } catch (const Error& error) {
    tell_of_silence(link, error, teller);
    return std::nullopt;
  }
  teller.ok("own key", fmt::format("accepted by the {}", peer));
  teller.ok("version",
            fmt::format("permllm {} here, {} at the {}; wire version {} of both", PERMLLM_VERSION,
                        checked.probed.version, peer, k_wire_version),
            {{"version", PERMLLM_VERSION}, {"peer_version", checked.probed.version}, {"wire_version", k_wire_version}});
  if (!check_speed(channel, peer, checked, teller)) return std::nullopt;
  connection->close();
  return checked;
}

}  // namespace permllm
