#include "cli/store.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "helper/model_store.h"
#include "service/print_event.h"

namespace permllm {
namespace {

struct StoreOptions {
  std::string folder, remove;
  bool json = false;
};

void remove_model(const StoreOptions& options) {
  std::vector<StoreEntry> matching;
  for (StoreEntry& entry : list_store(options.folder)) {
    if (entry.id.starts_with(options.remove)) matching.push_back(std::move(entry));
  }
  if (matching.size() != 1) {
    throw Error(Code::usage, "--remove",
                fmt::format("{} models of the store have ids that begin so, expected 1", matching.size()));
  }
  // A helper that runs on the store goes on with its sessions, and does not offer the model to another.
  if (!std::filesystem::remove(matching[0].path)) throw Error(Code::file, matching[0].path.string(), "is gone already");
  sync_folder(options.folder);
}

void list_models(const StoreOptions& options) {
  for (const StoreEntry& entry : list_store(options.folder)) {
    const std::string used = fmt::format("{:%Y-%m-%d %H:%M}", fmt::gmtime(static_cast<std::time_t>(entry.used)));
    if (options.json) {
      print_event({{"id", entry.id},
                   {"name", entry.name},
                   {"complete", entry.complete},
                   {"bytes", entry.bytes},
                   {"used", entry.used}});
    } else {
      fmt::print("{:.16}  {:>10.1f} MB  {}  {}  {}\n", for_terminal(entry.id), 1e-6 * static_cast<double>(entry.bytes),
                 used, entry.complete ? "complete" : "in part ", for_terminal(entry.name));
    }
  }
}

}  // namespace

void add_store(CLI::App& parent) {
  const auto options = std::make_shared<StoreOptions>();
  CLI::App* command = parent.add_subcommand(
      "store", "the models that a helper keeps: lists them, the one used last (UTC) first, or removes one");
  command->add_option("folder", options->folder, "the helper's --store")->required();
  command->add_option("--remove", options->remove, "remove the model whose id begins so")
      ->check([](const std::string& id) {
        return id.size() >= 4 ? std::string() : std::string("expected at least 4 digits");
      });
  command->add_flag("--json", options->json, "one JSON object a line, for programs");
  command->callback([options] { options->remove.empty() ? list_models(*options) : remove_model(*options); });
}

}  // namespace permllm
