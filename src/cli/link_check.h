// The checks of one link of `permllm doctor`, from the name of the peer's machine to the bandwidth.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/finding.h"
#include "net/certificates.h"
#include "session/probe.h"
#include "user/links.h"

namespace permllm {

// How long a certificate still holds; a warning within `days` of its end, wrong once it has ended.
void check_validity(const Certificate& certificate, int days, const std::string& remedy, const char* check,
                    const Teller& teller);
// Two clocks.
void check_clock(double ahead, const std::string& whose, const std::string& against, const Teller& teller);

struct LinkToCheck {
  std::string name, address;
  Role peer;
  Credentials credentials;
  LinkShape shape = {};
};
struct CheckedLink {
  Probed probed;
  Delay delay;
  Bandwidth bandwidth;
};
// Nothing where the peer could not be asked: the last finding says why.
std::optional<CheckedLink> check_link(const LinkToCheck& link, const std::vector<std::string>& model_ids,
                                      const OnFinding& tell);

}  // namespace permllm
