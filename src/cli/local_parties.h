// Provider and helper as child processes of this one, which is the user: what `demo`, `bench` and `serve --demo` run on.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/temporary_directory.h"
#include "cli/offer_options.h"
#include "cli/process.h"
#include "user/invite.h"
#include "user/links.h"

namespace permllm {

struct LocalOptions {
  std::string model;
  OfferOptions serve;
  LinkShape shape;
  double patience_seconds = 120;
  bool quiet = false;        // no progress on standard error
  std::size_t machines = 1;  // processes that mpirun starts, which hold the provider's matrices together
  bool stock = false;        // the provider keeps offline material beyond a session, as long as this lives

  Clock::duration patience() const { return duration_of(patience_seconds); }
};
// model, the serve options, --rtt, --bandwidth, --patience
void add_local_options(CLI::App& command, LocalOptions& options);

class LocalParties {
 public:
  // Starts both, with identities made for all three on the spot, and waits until the model is registered. Errors: theirs.
  explicit LocalParties(const LocalOptions& options);
  // The user's links, metered.
  UserLinks links(UserTraffic& traffic) const;
  const Invite& invite() const { return invite_; }

  // Adds to a conversation's report how long the parties took to be ready.
  void complete(nlohmann::json& report) const;
  // Of the layers' weights that the provider's memory holds, packed.
  double layer_bytes() const { return layer_bytes_; }

 private:
  LocalOptions options_;
  TemporaryDirectory directory_;
  std::unique_ptr<Process> helper_, provider_;
  Invite invite_;
  double load_seconds_ = 0, registration_seconds_ = 0, layer_bytes_ = 0;
};

}  // namespace permllm
