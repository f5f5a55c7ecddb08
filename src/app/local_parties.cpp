#include "app/local_parties.h"

#include <fmt/format.h>
#include <unistd.h>

#include "app/progress.h"
#include "net/tls.h"

namespace permllm {

TemporaryDirectory::TemporaryDirectory() {
  std::string name = (std::filesystem::temp_directory_path() / "permllm-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw Error(Code::resource, name, "no temporary directory can be made");
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void add_local_options(CLI::App& command, LocalOptions& options) {
  add_serve_options(command, options.serve);
  add_link_shape(command, options.shape);
  command.add_option("--patience", options.patience_seconds, "seconds to wait for a peer before giving up")
      ->capture_default_str()->check(CLI::PositiveNumber);
}

LocalParties::LocalParties(const LocalOptions& options) : options_(options) {
  options.shape.none();  // refuses unreadable values before anything starts
  const Authority authority;
  for (const Role role : {Role::provider, Role::helper}) {
    const auto place = directory_.path() / name_of(role);
    std::filesystem::create_directory(place);
    save_identity(authority.issue(role), place);
  }
  user_ = authority.issue(Role::user);
  const auto arguments = [&](Role role, const std::vector<std::string>& more) {
    std::vector<std::string> all{name_of(role), "--events", "--identity", (directory_.path() / name_of(role)).string(), "--rtt",
                                 options.shape.rtt, "--bandwidth", options.shape.bandwidth, "--patience",
                                 fmt::format("{}", options.patience_seconds)};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  const auto address = [](const nlohmann::json& ready) { return fmt::format("127.0.0.1:{}", ready.at("port").get<int>()); };
  helper_ = std::make_unique<Process>(arguments(Role::helper, {}));
  helper_address_ = address(helper_->wait_for("ready"));
  std::vector<std::string> serve{"--model", options.model, "--helper", helper_address_};
  for (const std::string& argument : arguments_of(options.serve)) serve.push_back(argument);
  provider_ = std::make_unique<Process>(arguments(Role::provider, serve));
  const auto loading = late_bar("Loading the model", options.quiet);
  Clock::time_point begin = Clock::now();  // of the registration
  ProgressBar bar(options.serve.profile == Profile::open ? "Weights to the helper" : "Masked weights to the helper", options.quiet);
  const auto ready = provider_->wait_for("ready", [&](const nlohmann::json& event) {
    if (event.at("event") != "progress") return;
    if (event.at("what") == "registration") return bar.show(event.at("fraction"), std::chrono::duration<double>(Clock::now() - begin).count());
    loading(event.at("fraction"));
    begin = Clock::now();
  });
  bar.finish();
  provider_address_ = address(ready);
  load_seconds_ = ready.at("load_seconds");
  registration_seconds_ = ready.at("registration_seconds");
  layer_bytes_ = ready.at("layer_bytes");
}

UserLinks LocalParties::links(LocalTraffic& traffic) const {
  const auto dial = [&](const std::string& address, Role role, Traffic& counted) {
    return [&, role]() -> std::unique_ptr<Link> {
      auto link = shaped(tls_connect(user_, address, role, Clock::now() + options_.patience()), options_.shape);
      return std::make_unique<Meter>(std::move(link), counted);
    };
  };
  return {dial(provider_address_, Role::provider, traffic.online), dial(provider_address_, Role::provider, traffic.offline),
          dial(helper_address_, Role::helper, traffic.helper)};
}

}  // namespace permllm
