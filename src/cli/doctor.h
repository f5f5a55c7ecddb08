// The command `permllm doctor`: checks each link that a party has and what it needs on its machine, one finding a line, each with what to do.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>

#include "cli/link_check.h"

namespace permllm {

// A user, by its invite: the links to provider and helper, and by the provider's word that between the two.
void examine_user(const std::filesystem::path& invite, const OnFinding& tell);

// A provider or helper, by the settings of its service; empty ones are not looked at.
struct ProviderSettings {
  std::string identity, listen, helper, model, state;
  LinkShape shape = {};
  bool synthetic = false;
};
void examine_provider(const ProviderSettings& settings, const OnFinding& tell);
struct HelperSettings {
  std::string identity, listen, store;
};
void examine_helper(const HelperSettings& settings, const OnFinding& tell);

// Prints what an examination tells, as lines or JSON objects. Errors: mismatch (exit status 1), where something is wrong.
void diagnose(const std::function<void(const OnFinding&)>& examine, bool json);

void add_json(CLI::App& command, bool& json);
void add_doctor(CLI::App& parent);

}  // namespace permllm
