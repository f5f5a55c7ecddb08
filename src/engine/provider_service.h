// The provider: owns the weights, registers V = W - U at the helper, and serves conversations.
#pragma once

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "engine/clear_side.h"
#include "engine/deal.h"
#include "engine/event.h"
#include "engine/handshake.h"
#include "engine/masked_model.h"
#include "engine/model_record.h"
#include "engine/probe.h"
#include "engine/provider_chains.h"
#include "engine/provider_session.h"
#include "net/resumable.h"

namespace permllm {

// What a provider offers: made once from a file.
struct OfferedModel {
  IntWeights weights;
  Plan plan;
  Vocabulary vocabulary;
  std::string model_id;  // SHA-256 of a fresh salt and the file's hash
  Seed mask_seed;        // expands U; fresh for every version, known to provider and users, never to the helper
  std::uint32_t chunk = 4 << 20;                  // bytes of V that are sent to the helper together
  std::unique_ptr<ModelRecord> record = nullptr;  // null: id and seed go with the process
};
// Keeps id and seed of the model in a record of the folder `state`; where it has one of this model already, they are taken from
// there. Errors: those of ModelRecord.
void keep_record(OfferedModel& model, const std::filesystem::path& state, Executor& executor);

// U as matrices for product(), by the numbers of for_each_matrix.
Weights<StreamedMatrix> expansion_of(const ReadableStream& stream, const Plan& plan);
// U of one gain, by its number of for_each_gain.
Words gain_mask(const ReadableStream& stream, std::uint32_t id, const LinearShape& shape);

class ProviderService {
 public:
  using Dial = std::function<std::unique_ptr<Link>()>;

  // state: the folder of chains and packs; empty: in memory. grace: how long a conversation waits for its user's next connection when one was
  // lost; idle: how long it keeps its cache for the next turn, at least the patience. Errors: those of ProviderChains.
  ProviderService(OfferedModel model, Executor& executor, Clock::duration patience, Dial dial_helper, OnEvent on_event,
                  const std::filesystem::path& state = {}, Clock::duration grace = {}, Clock::duration idle = {});
  // Sends V to the helper, as far as it is not there. Where the connection is lost it goes on over another, as long as each
  // gets something across. progress: fraction done of what had to be sent. Errors: the helper's refusals, among them resource
  // where its disk has no room.
  void register_model(const std::function<void(double)>& progress);
  // Asked before each session, and told how many are open; its Error is the user's. Sessions under way go on whatever it says. To be set before serve.
  void set_admission(std::function<void(std::size_t open)> admit) { admit_ = std::move(admit); }
  // Users who probe this service are told how its own link to the helper is, and so is whoever asks helper_trouble (empty: none). dial: as
  // dial_helper, with little patience.
  void watch_helper(Dial dial);
  std::string helper_trouble() { return watch_ ? watch_->look().trouble : std::string(); }
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
  struct Session {
    std::string peer;
    std::shared_ptr<ProviderChains::Chain> chain;
  };
  struct Registration;
  void send_model(Registration& registration);
  void send_chunks(Registration& registration, std::span<const std::uint32_t> missing, Channel& helper);
  void converse(Channel& user, const std::shared_ptr<ResumableLink>& link, const Peer& whose, const UserLimits& limits, Executor& executor,
                SessionEvents& events);
  void send_embedding(Channel& user);
  void take_material(Channel& from, Stock::Source source, ProviderChains::Chain& chain, const UserLimits& limits);
  std::size_t sessions_of(const std::string& peer) const;  // with the lock
  void fill(Channel& user, std::uint64_t session, const std::string& peer, const UserLimits& limits);

  OfferedModel model_;
  std::string plan_hash_;
  Executor& executor_;
  Clock::duration patience_, idle_;
  Dial dial_helper_;
  OnEvent on_event_;
  std::unique_ptr<HelperWatch> watch_;
  std::function<void(std::size_t)> admit_ = [](std::size_t) {};
  ResumeLimits resume_limits_;
  const std::size_t most_material_;  // bytes of a frame of it
  RoomByPeer answers_{k_answer_room}, kept_{k_kept_room};
  ResumableSessions resumable_;
  std::mutex mutex_;
  std::map<std::uint64_t, Session> sessions_;
  std::map<std::string, std::uint64_t> accounts_;  // tokens used, of users with sessions; the ledger charges some ahead
  ProviderChains chains_;
};

}  // namespace permllm
