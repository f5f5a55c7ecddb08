// What the commands `permllm provider` and `permllm helper` have in common.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "service/service_process.h"

namespace permllm {

void add_service_options(CLI::App& command, ServiceOptions& options, const std::string& status_example);
// A peer of a role that does not connect here. Errors: mismatch.
void refuse_unless(bool fits, const Peer& peer, const char* who);
// Without any there is nobody to work with. Errors: file.
void require_peer(const std::string& identity, Role role);
// Runs a party; with --events its error goes to the program that started it.
void run_service(const ServiceOptions& options, const std::function<void()>& run);

}  // namespace permllm
