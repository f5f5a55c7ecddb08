#include "cli/local_parties.h"

#include <fmt/format.h>

#include <limits>

#include "base/small_file.h"
#include "cli/invite.h"
#include "cli/offer_options.h"
#include "cli/progress.h"
#include "cli/shared_options.h"
#include "mpi/join.h"
#include "service/identity.h"

namespace permllm {

void add_local_options(CLI::App& command, LocalOptions& options) {
  add_offer_options(command, options.serve);
  add_link_shape(command, options.shape);
  add_patience(command, options.patience_seconds);
}

LocalParties::LocalParties(const LocalOptions& options) : options_(options) {
  options.shape.none();  // refuses unreadable values before anything starts
  const auto place = [&](Role role) { return directory_.path() / name_of(role); };
  const auto helper = create_identity(place(Role::helper), Role::helper, "helper", 7).certificate;
  const auto provider = create_identity(place(Role::provider), Role::provider, "provider", 7).certificate;
  replace_file(place(Role::helper) / "peers" / "provider.pem", provider.pem(), 0644);
  replace_file(place(Role::provider) / "peers" / "helper.pem", helper.pem(), 0644);
  const auto arguments = [&](Role role, const std::vector<std::string>& more) {
    std::vector<std::string> all{name_of(role), "--events",
                                 "--log-level", "off",
                                 "--drain",     "0",
                                 "--identity",  place(role).string(),
                                 "--rtt",       options.shape.rtt,
                                 "--bandwidth", options.shape.bandwidth,
                                 "--patience",  fmt::format("{}", options.patience_seconds)};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const auto address = [](const nlohmann::json& ready) {
    return fmt::format("127.0.0.1:{}", ready.at("port").get<int>());
  };
  helper_ = std::make_unique<Process>(arguments(Role::helper, {}));
  const std::string helper_address = address(helper_->wait_for("ready"));
  std::vector<std::string> serve{"--model", options.model, "--helper", helper_address};
  for (const std::string& argument : arguments_of(options.serve)) serve.push_back(argument);
  if (options.stock) serve.insert(serve.end(), {"--state", (directory_.path() / "state").string()});
  std::vector<std::string> command = arguments(Role::provider, serve);
  if (options.machines == 1) {
    provider_ = std::make_unique<Process>(command);
  } else {
    const std::filesystem::path own = std::filesystem::read_symlink("/proc/self/exe");
    command.insert(command.begin(), {"-c", "exec mpirun \"$@\"", "mpirun", "-n", std::to_string(options.machines),
                                     own.parent_path() / k_mpi_program});
    provider_ = std::make_unique<Process>(command, "/bin/sh");
  }
  const auto loading = late_bar("Loading the model", options.quiet);
  Clock::time_point begin = Clock::now();  // of the registration
  ProgressBar bar(options.serve.profile == Profile::open ? "Weights to the helper" : "Masked weights to the helper",
                  options.quiet);
  const auto ready = provider_->wait_for("ready", [&](const nlohmann::json& event) {
    if (event.at("event") != "progress") return;
    if (event.at("what") == "registration") return bar.show(event.at("fraction"), seconds_since(begin));
    loading(event.at("fraction"));
    begin = Clock::now();
  });
  bar.finish();
  invite_ = make_invite(place(Role::provider), "user", helper, address(ready), helper_address,
                        std::numeric_limits<std::int64_t>::max(), 7);
  load_seconds_ = ready.at("load_seconds");
  registration_seconds_ = ready.at("registration_seconds");
  layer_bytes_ = ready.at("layer_bytes");
}

UserLinks LocalParties::links(UserTraffic& traffic) const {
  return links_of(invite_, options_.shape, options_.patience(), traffic);
}

void LocalParties::complete(nlohmann::json& report) const {
  report["seconds"]["load"] = load_seconds_;
  report["seconds"]["registration"] = registration_seconds_;
}

}  // namespace permllm
