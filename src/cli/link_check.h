// Findings of `permllm doctor`, and the checks of one link, from the name of the peer's machine to the bandwidth.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "net/certificates.h"
#include "session/probe.h"
#include "user/links.h"

namespace permllm {

struct Finding {
  enum class State { ok, warning, wrong } state = State::ok;
  std::string link;                                 // "user-provider"; "here": of this machine alone
  std::string check;                                // "port"
  std::string text;                                 // what was found
  std::string remedy = {};                          // what to do about it
  nlohmann::json facts = nlohmann::json::object();  // numbers, for programs
};
const char* name_of(Finding::State state);
using OnFinding = std::function<void(const Finding&)>;

// Tells the findings of one link.
class Teller {
 public:
  Teller(std::string link, const OnFinding& tell) : link_(std::move(link)), tell_(tell) {}
  void ok(const char* check, const std::string& text, nlohmann::json facts = nlohmann::json::object()) const;
  void warning(const char* check, const std::string& text, const std::string& remedy,
               nlohmann::json facts = nlohmann::json::object()) const;
  void wrong(const char* check, const std::string& text, const std::string& remedy) const;
  // An error's text; what follows its first semicolon is the remedy, if anything does.
  void wrong(const char* check, const Error& error, const std::string& remedy) const;

 private:
  std::string link_;
  const OnFinding& tell_;
};

// What an error says, without its field.

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
