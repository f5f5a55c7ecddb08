// The provider: owns the weights, registers V = W - U at the helper, and serves conversations.
#pragma once

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "base/mutex.h"
#include "net/resumable.h"
#include "provider/chains.h"
#include "provider/offer.h"
#include "provider/registration.h"
#include "provider/session.h"
#include "provider/sessions.h"
#include "session/event.h"
#include "session/greeting.h"
#include "session/probe.h"

namespace permllm {

class ProviderService {
 public:
  // state: the folder of chains and packs; empty: in memory. grace: how long a conversation waits for its user's next connection when one was
  // lost; idle: how long it keeps its cache for the next turn, at least the patience. Before its first pass a session has neither: it ends with
  // its connection, and when nothing was asked or made for it for as long as the patience, or k_first_patience. Errors: those of ProviderChains.
  ProviderService(OfferedModel model, Executor& executor, Clock::duration patience, DialHelper dial_helper,
                  OnEvent on_event, const std::filesystem::path& state = {}, Clock::duration grace = {},
                  Clock::duration idle = {});
  // Sends V to the helper, as far as it is not there. Where the connection is lost it goes on over another, as long as each
  // gets something across. progress: fraction done of what had to be sent. Errors: the helper's refusals, among them resource
  // where its disk has no room.
  void register_model(const std::function<void(double)>& progress);
  // Those of ProviderSessions. To be set before serve.
  void set_admission(std::function<void()> admit, std::function<std::size_t()> most_sessions) {
    sessions_.set_admission(std::move(admit), std::move(most_sessions));
  }
  // Users who probe this service are told how its own link to the helper is, and so is whoever asks helper_trouble (empty: none). dial: as
  // dial_helper, with little patience.
  void watch_helper(DialHelper dial);
  std::string helper_trouble() { return watch_ ? watch_->look().trouble : std::string(); }
  // Whether the helper was sent the whole model once, as the record has it: then there may be material in stock, and it is worth serving without it.
  bool was_registered() const;
  // From now on the model is registered again where the helper has lost it, which is looked at every `rest` and when a user finds it so. After
  // watch_helper.
  void keep_registered(Clock::duration rest = HelperWatch::k_rest);
  // From now on conversations end that are idle, or become so.
  void drain() { sessions_.drain(); }
  // Why no offline material can be taken; empty: it can. Sessions go on with what is there.
  std::string disk_trouble() { return chains_.disk_trouble(); }
  // Bytes of offline material, and of what is left on its disk (none: it is in memory).
  std::uint64_t stock_bytes() { return chains_.bytes(); }
  std::optional<std::uint64_t> disk_free() const { return chains_.free_space(); }
  // Drops offline material of users (by their keys) who are not to be kept.
  void drop_stock_unless(const std::function<bool(const std::string& user)>& keep) { chains_.drop_unless(keep); }
  // Serves one connection of a user to its end, or a conversation over this connection and those that follow it, in the caller's thread. The
  // processor goes round by user, however many sessions each has. Never throws for what a peer does.
  void serve(std::unique_ptr<Link> connection, const Peer& peer = {}, const UserLimits& limits = {});

  // That all connections of a user should have for what they bring (net/room.h): twice the longest frame.
  std::size_t room() const { return 2 * std::max(k_cut_bytes, most_material_); }

 private:
  // What is kept until it is acknowledged: of each session, beside one frame more, and of all sessions of a user beyond that, so that the
  // frames of a long prompt need not wait for each other.
  static constexpr std::size_t k_kept_bytes = std::size_t{512} << 10, k_kept_room = 2 * (k_cut_bytes + k_least_payload);
  void converse(Channel& user, const std::shared_ptr<ResumableLink>& link, const Peer& peer, const UserLimits& limits,
                Executor& executor, SessionEvents& events);
  void send_card(Channel& user, std::uint64_t session, const std::string& peer, const UserLimits& limits);
  // What follows the agreement; of a plan with BFV the key that the user answers with.
  std::optional<RetrievalKey> begin(Channel& user, std::uint64_t session, const ProviderChains::Chain& chain);
  void send_embedding(Channel& user);
  void take_material(Channel& from, Stock::Source source, ProviderChains::Chain& chain, const UserLimits& limits);
  void fill(Channel& user, std::uint64_t session, const std::string& peer, const UserLimits& limits);

  OfferedModel model_;
  const std::vector<Plan> plans_;  // of sessions
  Executor& executor_;
  Clock::duration patience_, idle_;
  DialHelper dial_helper_;
  OnEvent on_event_;
  std::unique_ptr<HelperWatch> watch_;
  ResumeLimits resume_limits_;
  const std::size_t most_material_;  // bytes of a frame of it
  Mutex card_mutex_;
  // What all users are told; a session's own fields are set for it, so that no session copies the vocabulary.
  Card card_ GUARDED_BY(card_mutex_);
  const std::size_t card_bytes_;
  RoomByPeer answers_{k_answer_room}, kept_{k_kept_room};
  ResumableSessions resumable_;
  ProviderChains chains_;
  ProviderSessions sessions_;
  // Of keeper_, which is the last, since it uses the others.
  void keep(const std::stop_token& stop, Clock::duration rest);
  Mutex keeper_mutex_;
  bool model_missing_ GUARDED_BY(keeper_mutex_) = false;  // a user found it so
  std::shared_ptr<Link> keeper_link_ GUARDED_BY(keeper_mutex_);
  std::condition_variable_any keeper_wakes_;
  std::jthread keeper_;
};

}  // namespace permllm
