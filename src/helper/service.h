// The helper: keeps V = W - U of each model in its store, and deals material for sessions of users and providers that it pairs up.
#pragma once

#include <compare>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/mutex.h"
#include "helper/model_store.h"
#include "helper/pool.h"
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
  // they live in memory. pool: where it is one of several on that store. Errors: the store's.
  HelperService(Executor& executor, Clock::duration patience, OnEvent on_event, std::filesystem::path store = {},
                std::optional<HelperPool> pool = std::nullopt);
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
  // The provider's link of a session, parked until the user's arrives, the provider leaves, or for the patience.
  struct Parked {
    std::unique_ptr<Link> link;
    Channel channel;
    Seed common;
    PairHello hello;
  };

  ProbeFacts facts(const std::vector<std::string>& ids, const Peer& peer);
  void store_model(Channel& provider, const Frame& offer, const Peer& peer);
  void park(std::unique_ptr<Link>& link, Channel channel, const PairHello& hello, const Peer& peer);
  // Whether that was an order for them. A pass over the weights, as dealing a piece is; at most once a filling (keyed: it was).
  bool sent_product_keys(Channel& user, const Frame& frame, bool& keyed, const StoredModel& model, const Peer& peer,
                         Executor& executor);
  // A user's connection: of a session that is dealt for here, or by another helper of the pool.
  void serve_user(Channel& user, const PairHello& hello, const Peer& peer, Executor& executor, SessionEvents& events);
  // Hands what the user asks on to that helper. False where it has the provider's side no more, and nothing was said to the user.
  bool forward(Channel& user, const PairHello& hello, const Peer& peer, const Seed& half, const std::string& address,
               const StoredModel& model, Executor& executor);
  // From another helper of the pool.
  void serve_forwarded(Channel& user, const Frame& first);
  // Behind PairAccepted.
  void deal_session(Channel& user, const PairHello& hello, const Peer& peer, const Seed& half, Parked& provider,
                    Executor& executor, SessionEvents& events);
  std::shared_ptr<const StoredModel> find_model(const PairHello& hello, const Peer& peer);
  // The provider's side of the user's session, here or (address) at another helper of the pool. Errors: timeout, where neither is there in time;
  // mismatch, where it is of another model or chain.
  struct Found {
    std::unique_ptr<Parked> here;
    std::string address;
  };
  Found find_provider(const PairHello& hello, const Peer& peer, Clock::time_point until);
  static std::string name_of_place(const Place& place);
  // Of the chain that they pair for. Errors: mismatch, where it is none of the model's.
  static Plan plan_of_pair(const StoredModel& model, const PairHello& hello);

  Executor& executor_;
  Clock::duration patience_;
  OnEvent on_event_;
  const std::optional<HelperPool> pool_;
  std::function<void()> admit_ = [] {};
  ModelStore store_;
  RoomByPeer answers_{k_answer_room};
  Mutex mutex_;
  std::condition_variable parked_changed_;
  std::map<Place, std::unique_ptr<Parked>> parked_ GUARDED_BY(mutex_);
};

}  // namespace permllm
