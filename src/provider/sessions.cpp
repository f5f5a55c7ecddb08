#include "provider/sessions.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/heap.h"
#include "base/reason.h"

namespace permllm {
namespace {

constexpr auto k_stalled =
    std::chrono::seconds(30);  // that a pass waits for its user, before others may have its place
constexpr auto k_between_passes =
    std::chrono::seconds(3);  // of an answer: who takes longer for the next has none under way
constexpr auto k_drain_step = std::chrono::milliseconds(100);

}  // namespace

ProviderSessions::ProviderSessions(ProviderChains& chains, ResumableSessions& resumable, Clock::duration patience)
    : chains_(chains), resumable_(resumable), patience_(std::min<Clock::duration>(patience, k_first_patience)) {}

void ProviderSessions::set_admission(std::function<void()> admit, std::function<std::size_t()> most) {
  admit_ = std::move(admit);
  most_ = std::move(most);
}

void ProviderSessions::drain() {
  {
    const Lock lock(mutex_);
    draining_ = true;
  }
  changed_.notify_all();
}

void ProviderSessions::check_admission(const std::string& peer) {
  const Lock lock(mutex_);
  admit(peer);
}

ProviderSessions::Spent ProviderSessions::spent(const std::string& peer) {
  Ledger& ledger = chains_.ledger();
  const std::string month = ledger.month();
  const auto account = accounts_.find(peer);
  if (account == accounts_.end()) return {ledger.used(peer), month, ledger.used(peer, month)};
  // A clock that was set back begins no month anew.
  return account->second.month >= month ? account->second : Spent{account->second.ever, month, {}};
}

std::uint64_t ProviderSessions::tokens_left(const std::string& peer, const Allowance& allowance) {
  const Lock lock(mutex_);
  const Spent now = spent(peer);
  const Usage& used = now.of(allowance);
  return std::min(allowance.tokens - std::min(allowance.tokens, used.tokens),
                  allowance.rows - std::min(allowance.rows, used.rows));
}

std::unique_ptr<ProviderSessions::Place> ProviderSessions::open(std::uint64_t id, const std::string& peer,
                                                                const Agreement& agreement,
                                                                const std::shared_ptr<ResumableLink>& link,
                                                                const UserLimits& limits) {
  std::unique_ptr<Place> place;
  {
    const Lock lock(mutex_);
    const std::size_t own = places_of(peer);
    if (own >= limits.sessions) {
      throw Error(Code::resource, Reason::busy, "session",
                  fmt::format("{} of this user are open, the limit is {}; end one", own, limits.sessions));
    }
    const std::uint64_t gives_way = admit(peer);  // asked again: others may have come since the first time
    auto chain = chains_.open(peer, agreement);
    if (gives_way != 0)
      end(gives_way, Error(Code::resource, Reason::session_ended, "session",
                           "it was idle and was ended to make room for other users"));
    accounts_.try_emplace(peer, spent(peer));
    Session& session = sessions_[id];
    session.peer = peer;
    session.chain = chain;
    session.link = link;
    place = std::make_unique<Place>(*this, id, peer, std::move(chain), session);
  }
  changed_.notify_all();
  return place;
}

std::shared_ptr<ProviderChains::Chain> ProviderSessions::chain_of(std::uint64_t id, const std::string& peer) {
  const Lock lock(mutex_);
  const auto found = sessions_.find(id);
  if (found == sessions_.end() || found->second.peer != peer)
    throw Error(Code::closed, Reason::session_ended, "Hello.session", "no such session");
  return found->second.chain;
}

ProviderSessions::Place::Place(ProviderSessions& sessions, std::uint64_t id, const std::string& peer,
                               std::shared_ptr<ProviderChains::Chain> chain, Session& session)
    : sessions_(sessions), id_(id), peer_(peer), chain_(std::move(chain)), session_(session) {}

ProviderSessions::Place::~Place() {
  const Lock lock(sessions_.mutex_);
  sessions_.sessions_.erase(id_);
  if (sessions_.sessions_of(peer_) == 0) sessions_.accounts_.erase(peer_);
}

SessionActivity& ProviderSessions::Place::activity() { return session_.activity; }

void ProviderSessions::Place::charge(const Usage& pass, const Allowance& allowance) {
  const Lock lock(sessions_.mutex_);
  session_.used = true;
  Spent& spent = sessions_.accounts_.at(peer_) = sessions_.spent(peer_);
  const Usage& used = spent.of(allowance);
  // Logs say so, too: without numbers, which would tell a prompt's length.
  const auto refuse_beyond = [&](const char* what, std::uint64_t had, std::uint64_t more, std::uint64_t most) {
    if (more <= most - std::min(most, had)) return;
    throw Error(Code::resource, Reason::allowance_used_up, "allowance",
                fmt::format("{}{}: {}", facts_of(Reason::allowance_used_up).cause,
                            allowance.monthly ? " until the next month (UTC) begins" : "", what));
  };
  refuse_beyond("no tokens of answers are left", used.tokens, pass.tokens, allowance.tokens);
  refuse_beyond("fewer rows are left than this takes, one for each token that is read, drafted or written", used.rows,
                pass.rows, allowance.rows);
  for (Usage* sum : {&spent.ever, &spent.in_month}) sum->tokens += pass.tokens, sum->rows += pass.rows;
}

std::size_t ProviderSessions::sessions_of(const std::string& peer) const {
  return static_cast<std::size_t>(
      std::count_if(sessions_.begin(), sessions_.end(), [&](const auto& s) { return s.second.peer == peer; }));
}

std::size_t ProviderSessions::places_of(const std::string& peer) const {
  return static_cast<std::size_t>(std::count_if(
      sessions_.begin(), sessions_.end(), [&](const auto& s) { return s.second.peer == peer && !s.second.ending; }));
}

std::optional<Clock::time_point> ProviderSessions::Session::waits_since() const {
  const auto on_link = link->waits_since();
  return on_link ? on_link : chain->stock().waits_since();
}

std::optional<Clock::time_point> ProviderSessions::Session::idle_since() const {
  if (ending || activity.in_pass) return {};
  const Clock::time_point since = used ? activity.last_pass.load() : waits_since().value_or(begun);
  return std::max(since, chain->filled_at().value_or(since));
}

std::uint64_t ProviderSessions::admit(const std::string& peer) const {
  admit_();
  const std::size_t most = most_();
  std::map<std::string, std::size_t> places;
  std::size_t taken = 0;
  for (const auto& [id, session] : sessions_) {
    if (!session.ending) ++places[session.peer], ++taken;
  }
  if (most == 0 || taken < most) return 0;
  // A pass that its user has let lie may go where no session is idle: else it would cost little to be never idle.
  const std::size_t own = places[peer];
  for (const bool in_pass : {false, true}) {
    std::uint64_t chosen = 0;
    std::pair<std::size_t, Clock::duration> best{};  // most places, longest idle
    const Clock::time_point now = Clock::now();
    for (const auto& [id, session] : sessions_) {
      if (session.ending || session.activity.in_pass != in_pass || places[session.peer] <= own) continue;
      const auto since = in_pass ? session.waits_since() : session.idle_since();
      if (!since || (in_pass && now - *since < k_stalled)) continue;
      const std::pair mine{places[session.peer], now - *since};
      if (chosen != 0 && mine <= best) continue;
      chosen = id;
      best = mine;
    }
    if (chosen != 0) return chosen;
  }
  throw Error(Code::resource, Reason::busy, "provider",
              fmt::format("as many conversations are open as may be ({}, of all users)", most));
}

void ProviderSessions::end(std::uint64_t session, const Error& why) {
  Session& s = sessions_.at(session);
  s.ending = true;
  resumable_.remember_end(session, s.peer, why);
  s.link->end(why);
}

void ProviderSessions::end_unused(const std::stop_token& stop) {
  Lock lock(mutex_);
  while (changed_.wait(lock, stop, [&]() REQUIRES(mutex_) { return !sessions_.empty(); })) {
    for (auto& [id, session] : sessions_) {
      if (!session.link->waits_since()) continue;
      const auto since = session.idle_since();
      if (!since) continue;
      const Clock::duration idle = Clock::now() - *since;
      if (!session.used && idle >= patience_) {
        end(id, Error(Code::timeout, Reason::session_ended, "the first pass", "did not come in time"));
      } else if (draining_ && idle >= k_between_passes) {
        end(id,
            Error(Code::resource, Reason::session_ended, "session", "it was idle, and the provider is shutting down"));
      }
    }
    const bool draining = draining_;
    changed_.wait_for(lock, stop, draining ? Clock::duration(k_drain_step) : patience_ / 8,
                      [&]() REQUIRES(mutex_) { return draining_ != draining; });
    lock.unlock();
    trim_heap_if_due();  // sessions that ended lately may have freed memory when it was not due
    lock.lock();
  }
}

}  // namespace permllm
