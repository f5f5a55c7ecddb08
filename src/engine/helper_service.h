// The helper: keeps V = W - U of each model in its store, and deals material for sessions of users and providers that it pairs up.
#pragma once

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "engine/deal.h"
#include "engine/handshake.h"
#include "engine/model_store.h"
#include "net/link.h"

namespace permllm {

class HelperService {
 public:
  // `patience`: how long a peer may keep the helper waiting within a session. `on_event` is told, in a few words without
  // content, what happens ("model stored", "session begins"). `store`: the folder of the models (engine/model_store.h); empty:
  // they live in memory. Errors: the store's.
  HelperService(Executor& executor, Clock::duration patience, std::function<void(const std::string&)> on_event,
                std::filesystem::path store = {});
  // Serves one connection to its end, in the caller's thread. Never throws for what a peer does: the peer gets a Refusal,
  // on_event a line.
  void serve(std::unique_ptr<Link> link, Role peer);

 private:
  // The provider's link of a session, parked until the user's arrives, or for the patience.
  struct Parked {
    std::unique_ptr<Link> link;
    Channel channel;
    Seed common;
    PairHello hello;
    Clock::time_point until;
  };

  void store_model(Channel& provider, const Frame& offer);
  void park(std::unique_ptr<Link>& link, Channel channel, const PairHello& hello);
  void deal_session(Channel& user, const PairHello& hello);
  std::shared_ptr<const StoredModel> find_model(const PairHello& hello);
  std::unique_ptr<Parked> unpark(const PairHello& hello);

  Executor& executor_;
  Clock::duration patience_;
  std::function<void(const std::string&)> on_event_;
  ModelStore store_;
  std::mutex mutex_;
  std::condition_variable parked_changed_;
  std::map<std::uint64_t, std::unique_ptr<Parked>> parked_;  // by session
};

}  // namespace permllm
