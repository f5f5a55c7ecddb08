#include "service/server.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <list>
#include <map>
#include <mutex>
#include <thread>

#include "base/heap.h"
#include "wire/message.h"

namespace permllm {
namespace {

constexpr auto k_handshake_patience = std::chrono::seconds(10);
constexpr auto k_first_message_patience = std::chrono::seconds(5);  // of a peer that is to be refused
constexpr auto k_closing_patience = std::chrono::seconds(5);        // for threads whose links are closed
// Lines a minute of refusals, before the handshake and behind it: in all, and of one address or user.
constexpr std::size_t k_lines_in_all = 60, k_lines_of_one = 20;

// Addresses that one owner is likely to have.
std::string group_of(const std::string& address) {
  in6_addr v6;
  if (inet_pton(AF_INET6, address.c_str(), &v6) != 1 || IN6_IS_ADDR_V4MAPPED(&v6)) return address;
  return fmt::format("{:02x}", fmt::join(v6.s6_addr, v6.s6_addr + 8, ""));
}

// One connection, from its arrival for as long as its link lives.
struct Open {
  std::uint64_t number;  // the listener's
  std::string address, group;
  Clock::time_point since;
  std::shared_ptr<TlsLink> link = nullptr;  // once its peer has spoken
  bool served = false, gave_way = false;
  std::string user = "";  // a served user's key
};

}  // namespace

struct Server::State {
  State(TlsListener& l, Handler h, const Limits& most, Log& o, Metrics& m)
      : listener(l), handler(std::move(h)), log(o), metrics(m), rooms(handler.room), limits(most) {}
  TlsListener& listener;
  const Handler handler;
  Log& log;
  Metrics& metrics;
  RoomByPeer rooms;

  struct Worker {
    std::atomic<bool> done = false;
    std::jthread thread;
  };
  std::list<Worker> workers;  // of the thread in run alone

  mutable std::mutex mutex;  // of what follows
  Limits limits;
  std::map<std::uint64_t, std::shared_ptr<Open>> open;
  bool running = true, draining = false;
  Clock::time_point deadline;  // of draining

  // Refusals before a handshake cost a peer nothing, those behind it a user little.
  LineBound strangers{k_lines_in_all, k_lines_of_one}, peers{k_lines_in_all, k_lines_of_one};

  Count count() const {
    Count count;
    for (const auto& [number, entry] : open) {
      if (entry->served)
        ++count.served;
      else if (!entry->gave_way)
        ++count.handshakes;
    }
    return count;
  }
  // Null: there is none. Of those that have not spoken nothing is left, and the caller refuses them once it has let go of the lock; the others end
  // in their threads.
  std::shared_ptr<Open> give_way(std::shared_ptr<Open> entry) {
    if (!entry) return nullptr;
    entry->gave_way = true;
    if (entry->link) {
      entry->link->close();
    } else {
      listener.drop(entry->number);
      open.erase(entry->number);
    }
    return entry;
  }
  // The oldest handshake of the group, or of the group that has most of them. Null: there is none.
  std::shared_ptr<Open> oldest_handshake(const std::string* of_group) const {
    std::map<std::string, std::size_t> sizes;
    for (const auto& [number, entry] : open) sizes[entry->group] += !entry->served && !entry->gave_way;
    std::shared_ptr<Open> oldest;
    for (const auto& [number, entry] : open) {
      if (entry->served || entry->gave_way || (of_group != nullptr && entry->group != *of_group)) continue;
      if (oldest == nullptr || sizes[entry->group] > sizes[oldest->group]) oldest = entry;
    }
    return oldest;
  }
  void leave(std::uint64_t number) {
    const std::lock_guard lock(mutex);
    open.erase(number);
    if (running && draining) listener.interrupt();
  }
  void refuse(const std::string& address, const char* reason, const std::string& why) {
    metrics.count_refused_handshake(reason);
    log_refused(address, why);
  }
  void log_refused(const std::string& address, const std::string& why) {
    log.write(Log::Level::warn, "connection_refused", fmt::format("a connection was refused: {}", why),
              {{"address", address}}, strangers, group_of(address));
  }
  void refuse_crowded(const std::string& address) {
    refuse(address, "crowded", "its handshake was not done when there was no more room");
  }

  // A connection to its end, in its thread. ticket: of the links to it.
  void serve(Open& entry, std::shared_ptr<void> ticket);
  // Its handshake, and its place among those that are served. Both say in the log, and the second to the peer, why there is none; then their Error
  // is of no more use.
  Peer greet(Open& entry);
  void admit(Open& entry, const Peer& peer);
};

namespace {

// A link that its server knows of and can close.
class Known : public Link {
 public:
  Known(std::shared_ptr<Link> link, std::shared_ptr<void> ticket)
      : link_(std::move(link)), ticket_(std::move(ticket)) {}
  void send(Frame frame) override { link_->send(std::move(frame)); }
  void flush() override { link_->flush(); }
  Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) override {
    return link_->receive(deadline, awaited, most);
  }
  void close() override { link_->close(); }

 private:
  std::shared_ptr<Link> link_;
  std::shared_ptr<void> ticket_;
};

// The peer reads the refusal once its own first message was taken: a connection closed over unread bytes would lose it.
void tell(Link& link, const Error& error) {
  Channel channel(link, 0, k_first_message_patience);
  try {
    channel.receive_any("the first message of a connection", k_first_payload);
  } catch (const Error&) {
    return;
  }
  channel.refuse(error);
  link.close();
}

nlohmann::ordered_json fields_of(const Peer& peer) { return {{"role", name_of(peer.role)}, {"peer", peer.name}}; }

}  // namespace

Peer Server::State::greet(Open& entry) {
  try {
    return entry.link->handshake(entry.since + k_handshake_patience);
  } catch (const Error& error) {
    bool gave_way = false;
    {
      const std::lock_guard lock(mutex);
      gave_way = entry.gave_way;
    }
    gave_way ? refuse_crowded(entry.address) : refuse(entry.address, name_of(error.code()), error.what());
    throw;
  }
}

void Server::State::admit(Open& entry, const Peer& peer) {
  std::string full;
  {
    const std::lock_guard lock(mutex);
    const std::size_t kept = std::min<std::size_t>(16, limits.connections / 4);
    std::size_t of_user = 0;
    for (const auto& [number, other] : open)
      of_user += other->served && peer.role == Role::user && other->user == peer.key;
    if (count().served >= limits.connections - kept)
      full = "as many are open as may be";
    else if (of_user >= limits.per_user)
      full = fmt::format("{} are open already, the limit for one user", of_user);
    if (full.empty()) {
      entry.served = true;
      entry.user = peer.key;
    }
  }
  metrics.count_connection();
  try {
    if (!full.empty()) {
      metrics.count_refused_connection();
      throw Error(Code::resource, Reason::busy, "connections", full);
    }
    handler.admit(peer);
  } catch (const Error& error) {
    log.write(Log::Level::warn, "connection_refused", fmt::format("a connection was refused: {}", error.what()),
              fields_of(peer), peers, peer.key);
    tell(*entry.link, error);
    throw;
  }
}

void Server::State::serve(Open& entry, std::shared_ptr<void> ticket) {
  try {
    const Peer peer = greet(entry);
    entry.link->share(rooms.of(peer.key));
    admit(entry, peer);
    log.write(Log::Level::debug, "connection_begins", "a connection begins", fields_of(peer));
    handler.serve(std::make_unique<Known>(entry.link, std::move(ticket)), peer);
    nlohmann::ordered_json fields = fields_of(peer);
    fields["seconds"] = seconds_since(entry.since);
    log.write(Log::Level::debug, "connection_ends", "a connection was served", fields);
  } catch (const Error&) {
    // It is logged, and the peer knows.
  } catch (const std::exception& error) {
    log.write(Log::Level::error, "connection_fails", fmt::format("a connection cannot be served: {}", error.what()), {},
              peers, entry.group);
  }
}

Server::Server(TlsListener& listener, Handler handler, const Limits& limits, Log& log, Metrics& metrics)
    : state_(std::make_shared<State>(listener, std::move(handler), limits, log, metrics)) {}

Server::~Server() = default;

void Server::welcome(const TlsListener::Arrival& arrival) {
  const auto entry =
      std::make_shared<Open>(Open{arrival.number, arrival.address, group_of(arrival.address), arrival.since});
  State& s = *state_;
  bool room = true;
  std::shared_ptr<Open> of_its_group, of_all;  // that give way to it
  {
    const std::lock_guard lock(s.mutex);
    std::size_t of_group = 0;
    for (const auto& [number, other] : s.open)
      of_group += !other->served && !other->gave_way && other->group == entry->group;
    if (of_group >= s.limits.handshakes) of_its_group = s.give_way(s.oldest_handshake(&entry->group));
    const Count count = s.count();
    if (count.handshakes + count.served >= s.limits.connections) {
      of_all = s.give_way(s.oldest_handshake(nullptr));
      room = of_all != nullptr;
    }
    if (room)
      s.open[entry->number] = entry;
    else
      s.listener.drop(entry->number);
  }
  for (const auto& sent_away : {of_its_group, of_all}) {
    if (sent_away && !sent_away->link) s.refuse_crowded(sent_away->address);
  }
  if (!room) s.refuse(entry->address, "full", "as many are open as may be");
}

void Server::attend(std::uint64_t number) {
  State& s = *state_;
  // Erased when the last of thread and link lets go of it.
  std::shared_ptr<void> ticket(nullptr, [state = state_, number](void*) { state->leave(number); });
  std::shared_ptr<Open> entry;
  {
    const std::lock_guard lock(s.mutex);
    entry = s.open.at(number);
  }
  try {
    std::shared_ptr<TlsLink> link = s.listener.take(number);
    const std::lock_guard lock(s.mutex);
    entry->link = std::move(link);
  } catch (const Error& error) {
    return s.refuse(entry->address, name_of(error.code()), error.what());
  }
  State::Worker& worker = s.workers.emplace_back();
  try {
    worker.thread = std::jthread([&s, &worker, entry, ticket = std::move(ticket)]() mutable {
      s.serve(*entry, std::move(ticket));
      trim_heap();
      worker.done = true;
    });
  } catch (const std::system_error& error) {
    s.workers.pop_back();
    s.refuse(entry->address, "resource", error.what());
  }
}

bool Server::run() {
  State& s = *state_;
  const auto reap = [&] { std::erase_if(s.workers, [](const State::Worker& worker) { return worker.done.load(); }); };
  for (;;) {
    reap();
    Clock::time_point deadline = Clock::now() + std::chrono::hours(24);
    std::size_t most = 0;
    {
      const std::lock_guard lock(s.mutex);
      if (s.draining) {
        deadline = s.deadline;
        if (s.count().served == 0 || deadline <= Clock::now()) break;
      }
      most = 2 * s.limits.connections;
    }
    if (s.workers.size() >= most) {  // those that gave way are on their way out
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      continue;
    }
    try {
      const TlsListener::Arrival arrival = s.listener.next(deadline);
      switch (arrival.kind) {
        case TlsListener::Arrival::Kind::came:
          welcome(arrival);
          break;
        case TlsListener::Arrival::Kind::spoke:
          attend(arrival.number);
          break;
        case TlsListener::Arrival::Kind::left:
          s.refuse(arrival.address, name_of(arrival.error->code()), arrival.error->what());
          s.leave(arrival.number);
          break;
      }
    } catch (const Error& error) {
      if (error.code() != Code::resource) continue;
      s.log_refused("", error.what());  // too many open files: the next ones may do better
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
  {
    const std::lock_guard lock(s.mutex);
    s.running = false;
    const Count left = s.count();
    if (left.served != 0)
      s.log.write(Log::Level::warn, "drain_ends", "connections that were not done in time are closed",
                  {{"connections", left.served}});
    for (const auto& [number, entry] : s.open) entry->link ? entry->link->close() : s.listener.drop(number);
    std::erase_if(s.open, [](const auto& one) { return !one.second->link; });
  }
  for (const Clock::time_point deadline = Clock::now() + k_closing_patience;
       !s.workers.empty() && Clock::now() < deadline; reap()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return s.workers.empty();
}

void Server::drain() {
  const std::lock_guard lock(state_->mutex);
  state_->draining = true;
  state_->deadline = Clock::now() + std::chrono::seconds(state_->limits.drain_seconds);
  state_->listener.interrupt();
}

void Server::set_limits(const Limits& limits) {
  const std::lock_guard lock(state_->mutex);
  state_->limits = limits;
}

Server::Count Server::count() const {
  const std::lock_guard lock(state_->mutex);
  return state_->count();
}

}  // namespace permllm
