// What `permllm doctor` found, and how it is told.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "permllm/error.h"

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
  // An error's text, with the remedy of its reason; the one given is for errors without.
  void wrong(const char* check, const Error& error, const std::string& remedy) const;

 private:
  std::string link_;
  const OnFinding& tell_;
};

}  // namespace permllm
