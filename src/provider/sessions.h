// The sessions that a provider has under way, of all users: who may begin one, which gives way to a newcomer, which has waited in vain, and what
// answers have used of a user's allowance.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "base/mutex.h"
#include "net/resumable.h"
#include "provider/chains.h"
#include "provider/session.h"

namespace permllm {

// Thread-safe.
class ProviderSessions {
  struct Session;

 public:
  static constexpr auto k_first_patience = std::chrono::seconds(30);
  // Before its first pass a session ends when nothing was asked or made for it for as long as the patience, or k_first_patience. Both references
  // outlive the object.
  ProviderSessions(ProviderChains& chains, ResumableSessions& resumable, Clock::duration patience);
  // Asked before each session; its Error is the user's. most: how many there may be, of all users; 0: any number. Where there are as many, a
  // newcomer takes the place of an idle one of whoever has most, and more than the newcomer has. To be set before the first.
  void set_admission(std::function<void()> admit, std::function<std::size_t()> most);

  // From now on sessions end that are idle, or become so.
  void drain();

  // Whether a user may begin one now. Errors: resource.
  void check_admission(const std::string& peer);
  // Tokens of answers that a user may still have, and so no more than rows.
  std::uint64_t tokens_left(const std::string& peer, const Allowance& allowance);

  // A session's place, until it ends. Of its thread.
  class Place {
   public:
    Place(ProviderSessions& sessions, std::uint64_t id, const std::string& peer,
          std::shared_ptr<ProviderChains::Chain> chain, Session& session);
    ~Place();
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;
    ProviderChains::Chain& chain() { return *chain_; }
    SessionActivity& activity();
    // A pass begins, and goes on the user's account. Errors: resource, where its allowance has not so much left.
    void charge(const Usage& pass, const Allowance& allowance);

   private:
    ProviderSessions& sessions_;
    const std::uint64_t id_;
    const std::string peer_;
    std::shared_ptr<ProviderChains::Chain> chain_;
    Session& session_;
  };
  // Begins session `id` on the chain that was agreed on. Errors: resource; those of ProviderChains::open.
  std::unique_ptr<Place> open(std::uint64_t id, const std::string& peer, const Agreement& agreement,
                              const std::shared_ptr<ResumableLink>& link, const UserLimits& limits);
  // The chain of a user's session. Errors: closed, where there is no such session.
  std::shared_ptr<ProviderChains::Chain> chain_of(std::uint64_t id, const std::string& peer);

 private:
  struct Session {
    std::string peer;
    std::shared_ptr<ProviderChains::Chain> chain;
    std::shared_ptr<ResumableLink> link;
    Clock::time_point begun = Clock::now();
    SessionActivity activity;
    bool used = false;    // a pass began
    bool ending = false;  // it was told to go, and counts no more
    // Since when it waits, in a pass or for one.
    std::optional<Clock::time_point> waits_since() const;
    // Since when nothing was asked or made for it, whatever its user sends; none: it is no place to take.
    std::optional<Clock::time_point> idle_since() const;
  };
  // Used, ever and in a month; the ledger charges some ahead.
  struct Spent {
    Usage ever;
    std::string month;
    Usage in_month;
    const Usage& of(const Allowance& allowance) const { return allowance.monthly ? in_month : ever; }
  };
  // By now.
  Spent spent(const std::string& peer) REQUIRES(mutex_);
  // Of a peer, all or those that count.
  std::size_t sessions_of(const std::string& peer) const REQUIRES(mutex_);
  std::size_t places_of(const std::string& peer) const REQUIRES(mutex_);
  // Whether there is room for one more, and which session has to go for it; 0: none. Errors: those of admission.
  std::uint64_t admit(const std::string& peer) const REQUIRES(mutex_);
  void end(std::uint64_t session, const Error& why) REQUIRES(mutex_);
  // In a thread of its own: those that came to nothing, and while it drains those that are idle.
  void end_unused(const std::stop_token& stop);

  ProviderChains& chains_;
  ResumableSessions& resumable_;
  const Clock::duration patience_;
  std::function<void()> admit_ = [] {};
  std::function<std::size_t()> most_ = [] { return std::size_t{0}; };
  Mutex mutex_;
  bool draining_ GUARDED_BY(mutex_) = false;
  std::map<std::uint64_t, Session> sessions_ GUARDED_BY(mutex_);
  std::map<std::string, Spent> accounts_ GUARDED_BY(mutex_);  // of users with sessions
  std::condition_variable_any changed_;
  std::jthread unused_{[this](const std::stop_token& stop) { end_unused(stop); }};  // the last, which uses the others
};

}  // namespace permllm
