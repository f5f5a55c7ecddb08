// The user: joins a session with provider and helper, has its offline material made, and asks.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "engine/deal.h"
#include "engine/handshake.h"
#include "engine/user_session.h"
#include "model/chat_format.h"
#include "model/tokenizer.h"
#include "net/resumable.h"

namespace permllm {

// The user's three links. The online link carries the conversation; the other two offline material.
struct UserLinks {
  std::function<std::unique_ptr<Link>()> online, offline, helper;
  Clock::duration grace{};  // how long the online link waits for its next connection when one was lost (net/resumable.h)
};

// How far offline production is: pieces made of pieces ordered, in slots' worth.
struct OfflineProgress {
  double fraction = 0;
  double seconds = 0;  // since it began
};

class UserClient {
 public:
  // Handshakes with both. Errors: mismatch (names both values), closed, timeout.
  UserClient(const UserLinks& links, Executor& executor, Clock::duration patience);
  ~UserClient();
  UserClient(const UserClient&) = delete;
  UserClient& operator=(const UserClient&) = delete;

  const Card& card() const { return card_; }
  UserSession& session() { return *session_; }

  // Begins to make the material for a prompt and an answer of at most max_tokens, in a thread of its own, never more than
  // `ahead` slots ahead of what the session has used. Once a client. on_progress is called from that thread.
  void make_material(std::size_t prompt_tokens, std::size_t max_tokens, std::size_t ahead,
                     std::function<void(const OfflineProgress&)> on_progress);
  // Waits until the material for the prompt and `tokens` more is at the provider's door, or all that was ordered.
  void wait_for_material(std::size_t tokens);
  // Tells the producer how much the session has used.
  void material_used();
  // Wall seconds that production took so far.
  double offline_seconds() const;

  // Time spent waiting for the provider online.
  double waited_seconds() const { return online_->waited_seconds(); }

  // Ends the session and asks provider and helper for their reports.
  struct Reports {
    PartyReport provider, helper;
  };
  Reports end();

 private:
  void produce();
  void receive_public_part();
  void deal_order(const PackOrder& order);

  Executor& executor_;
  Clock::duration patience_;
  std::unique_ptr<ResumableLink> online_link_;
  std::unique_ptr<Link> offline_link_, helper_link_;
  std::unique_ptr<Channel> online_, offline_, helper_;
  Card card_;
  PublicPart public_;  // profile open
  std::unique_ptr<ReadableStream> mask_stream_;
  Weights<StreamedMatrix> u_;
  std::unique_ptr<AesCoins> coins_;
  std::optional<BfvUser> bfv_;
  std::unique_ptr<UserSession> session_;

  std::vector<PackOrder> orders_;
  std::size_t ahead_ = 0;
  std::function<void(const OfflineProgress&)> on_progress_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t used_slots_ = 0;  // by the online session
  std::size_t done_orders_ = 0;
  bool stopping_ = false;
  double seconds_ = 0;
  std::exception_ptr failure_;
  std::jthread producer_;
};

// The orders for a prompt of n tokens and an answer of at most m, in the order of need: a list of batches of at most
// k_deal_batch pieces. The answer's first token costs no slot; its last is never fed.
std::vector<PackOrder> orders_for(const Plan& plan, std::size_t prompt_tokens, std::size_t max_tokens);

}  // namespace permllm
