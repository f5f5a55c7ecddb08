// The helper: keeps V = W - U of each model in its store, and deals material for sessions of users and providers that it pairs up.
#pragma once

#include <compare>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/mutex.h"
#include "helper/model_store.h"
#include "net/certificates.h"
#include "session/event.h"
#include "session/pairing.h"
#include "session/probe.h"
#include "session/product_keys.h"
#include "wire/link.h"

namespace permllm {

class HelperService {
 public:
  // `patience`: how long a peer may keep the helper waiting within a session. `on_event` is told, in a few words without
  // content, what happens ("model stored", "session begins"). `store`: the folder of the models (helper/model_store.h); empty:
  // they live in memory. Errors: the store's.
  HelperService(Executor& executor, Clock::duration patience, OnEvent on_event, std::filesystem::path store = {});
  // Asked before a provider opens a session or offers a model; its Error is the provider's. Sessions under way go on whatever it
  // says. To be set before serve.
  void set_admission(std::function<void()> admit) { admit_ = std::move(admit); }
  // Serves one connection to its end, in the caller's thread. Never throws for what a peer does: the peer gets a Refusal,
  // on_event a line. The processor goes round by user. A model is its provider's and that provider's users' (Peer::provider): to others it is not
  // there.
  void serve(std::unique_ptr<Link> link, const Peer& peer);
  // That all connections of a peer should have for what they bring (net/room.h): twice the longest frame, a chunk of a model.
  static std::size_t room();

 private:
  // Which session: its number alone would let another who learns it take a side's place. Of the provider's side as it says, of the user's
  // as its certificate does.
  struct Place {
    std::string provider, user;  // their keys
    std::uint64_t session;
    auto operator<=>(const Place&) const = default;
  };
  // The provider's link of a session, parked until the user's arrives, or for the patience.
  struct Parked {
    std::unique_ptr<Link> link;
    Channel channel;
    Seed common;
    PairHello hello;
    Clock::time_point until;
  };

  ProbeFacts facts(const std::vector<std::string>& ids, const Peer& peer);
  void store_model(Channel& provider, const Frame& offer, const Peer& peer);
  void park(std::unique_ptr<Link>& link, Channel channel, const PairHello& hello, const Peer& peer);
  void send_product_keys(Channel& user, const StoredModel& model, const ProductKeyOrder& order, const Peer& peer,
                         Executor& executor);
  void deal_session(Channel& user, const PairHello& hello, const Peer& peer, Executor& executor, SessionEvents& events);
  std::shared_ptr<const StoredModel> find_model(const PairHello& hello, const Peer& peer);
  std::unique_ptr<Parked> unpark(const PairHello& hello, const Peer& peer);

  Executor& executor_;
  Clock::duration patience_;
  OnEvent on_event_;
  std::function<void()> admit_ = [] {};
  ModelStore store_;
  RoomByPeer answers_{k_answer_room};
  Mutex mutex_;
  std::condition_variable parked_changed_;
  std::map<Place, std::unique_ptr<Parked>> parked_ GUARDED_BY(mutex_);
};

}  // namespace permllm
