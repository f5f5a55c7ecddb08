// Provider, helper and users in one process, each connection in a thread, as the commands serve it: over memory links, or over TLS. And what users
// ask there.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "helper/service.h"
#include "net/memory_link.h"
#include "net/tls.h"
#include "provider/service.h"
#include "support/links.h"
#include "support/parties.h"
#include "support/rig.h"
#include "support/tiny_model.h"
#include "user/user_client.h"

namespace permllm::test {

constexpr Clock::duration k_long = std::chrono::seconds(20);  // a patience that nobody exceeds
constexpr TinyModel k_smallest{.layers = 1, .slots = 8};
inline const Peer k_provider{Role::provider, "acme", "p", "p"};

// A user of that provider, known by its name.
inline Peer user_named(const std::string& name) { return {Role::user, name, name, k_provider.key}; }

// Material for a prompt and an answer, once it is there.
inline void make(UserClient& client, std::size_t prompt_tokens, std::size_t n) {
  client.make_material(prompt_tokens, n, 64);
  client.wait_for_material(prompt_tokens, n);
}
// An answer of n tokens behind a prompt.
inline std::vector<TokenId> ask(UserClient& client, const std::vector<TokenId>& prompt, std::size_t n) {
  client.session().prompt(prompt, greedy);
  std::vector<TokenId> ids;
  while (ids.size() + 1 < n) ids.push_back(client.session().advance([](TokenId) { return true; }, greedy));
  ids.push_back(client.session().retrieve_last());
  return ids;
}
// The material for it, and the answer.
inline std::vector<TokenId> make_and_ask(UserClient& client, const std::vector<TokenId>& prompt, std::size_t n) {
  make(client, prompt.size(), n);
  return ask(client, prompt, n);
}
// In a session of its own, on a chain of its own.
inline std::vector<TokenId> answer(const UserLinks& links, Executor& executor, const std::vector<TokenId>& prompt,
                                   std::size_t n) {
  Ledger ledger;
  UserClient client(links, ledger, executor, k_long);
  const auto ids = make_and_ask(client, prompt, n);
  client.end();
  return ids;
}

// What services say, in their threads' order.
class Notes {
 public:
  void add(const std::string& text) {
    {
      const std::lock_guard lock(mutex_);
      lines_.push_back(text);
    }
    changed_.notify_all();
  }
  std::string text() const {
    const std::lock_guard lock(mutex_);
    std::string all;
    for (const std::string& line : lines_) all += line + "\n";
    return all;
  }
  // How many lines have it.
  std::size_t count(const std::string& words) const {
    const std::lock_guard lock(mutex_);
    return count_now(words);
  }
  // Waits until so many have it.
  bool come(const std::string& words, std::size_t times = 1, Clock::duration within = k_long) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, within, [&] { return count_now(words) >= times; });
  }

 private:
  std::size_t count_now(const std::string& words) const {
    return static_cast<std::size_t>(std::count_if(
        lines_.begin(), lines_.end(), [&](const std::string& line) { return line.find(words) != std::string::npos; }));
  }
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> lines_;
};

// Threads that others may begin, too.
class Threads {
 public:
  template <class F>
  void begin(F run) {
    const std::lock_guard lock(mutex_);
    threads_.emplace_back(std::move(run));
  }
  // Until none is left, those that others began meanwhile among them.
  void join() {
    for (;;) {
      std::list<std::jthread> threads;
      {
        const std::lock_guard lock(mutex_);
        threads.swap(threads_);
      }
      if (threads.empty()) return;
    }
  }
  ~Threads() { join(); }

 private:
  std::mutex mutex_;
  std::list<std::jthread> threads_;
};

// A helper alone, whose providers and users a test makes.
class LoneHelper {
 public:
  explicit LoneHelper(std::filesystem::path store = {}, Clock::duration patience = k_long)
      : service_(
            executor_, patience, [this](const Event& event) { notes.add(event.text); }, std::move(store)) {}
  std::unique_ptr<Link> dial(const Peer& who) {
    auto [near, far] = memory_links();
    threads_.begin([this, who, link = std::move(far)]() mutable { service_.serve(std::move(link), who); });
    return std::move(near);
  }
  Executor& executor() { return executor_; }
  Notes notes;

 private:
  Executor executor_{2};
  HelperService service_;
  Threads threads_;
};

// How a world is made.
struct Making {
  OfferedModel model = tiny_model();
  Clock::duration patience = k_long, grace = {}, idle = {};  // users have the same grace
  std::filesystem::path state = {};                          // the provider's folder; empty: in memory
  unsigned threads = 1;                                      // of either service; 0: as many as there are cores
};

// Both services. A subclass knows how one dials another, registers the model, and joins the threads in its destructor, which call what it overrides: a
// subclass of it, too.
class World {
 public:
  virtual ~World() = default;
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  Executor& executor() { return executor_; }
  ProviderService& provider() { return provider_; }
  HelperService& helper() { return helper_; }
  Notes notes;
  std::atomic<std::size_t> most_sessions = 0;  // 0: any number

 protected:
  explicit World(Making making)
      : executor_(making.threads),
        grace_(making.grace),
        helper_(executor_, making.patience, [this](const Event& event) { note(Role::helper, event); }),
        provider_(
            std::move(making.model), executor_, making.patience, [this] { return dial_helper(); },
            [this](const Event& event) { note(Role::provider, event); }, making.state, making.grace, making.idle) {
    provider_.set_admission([] {}, [this] { return most_sessions.load(); });
  }
  // The provider's link to the helper.
  virtual std::unique_ptr<Link> dial_helper() = 0;
  virtual void note(Role, const Event& event) { notes.add(event.text); }
  Clock::duration grace() const { return grace_; }

 private:
  Executor executor_;
  const Clock::duration grace_;
  HelperService helper_;
  ProviderService provider_;

 protected:
  Threads threads_;
};

class MemoryWorld : public World {
 public:
  explicit MemoryWorld(Making making = {}) : World(std::move(making)) {
    provider().register_model(nullptr);
    threads_.join();
  }
  ~MemoryWorld() override { threads_.join(); }

  using Ends = std::pair<std::unique_ptr<Link>, std::unique_ptr<Link>>;
  // Connections of a peer, which gets the first of the ends; a service has the other.
  std::unique_ptr<Link> to_provider(const std::string& user = "alice", const UserLimits& limits = {},
                                    Ends ends = memory_links()) {
    return connect(std::move(ends), [this, user, limits](std::unique_ptr<Link> link) {
      provider().serve(std::move(link), user_named(user), limits);
    });
  }
  std::unique_ptr<Link> to_helper(const Peer& who = user_named("alice")) {
    if (!helper_works) throw Error(Code::closed, "helper", "no connection");
    return connect(memory_links(), [this, who](std::unique_ptr<Link> link) { helper().serve(std::move(link), who); });
  }
  UserLinks links(const std::string& user = "alice", const UserLimits& limits = {}) {
    const auto provider = [this, user, limits] { return to_provider(user, limits); };
    return {provider, provider, [this, user] { return to_helper(user_named(user)); }, grace()};
  }
  std::vector<TokenId> answer(std::size_t n) { return test::answer(links(), executor(), {5, 6, 7}, n); }
  std::atomic<bool> helper_works = true;  // else nobody reaches it
  // As when the services' processes are gone.
  void kill() {
    const std::lock_guard lock(mutex_);
    for (const auto& end : ends_) {
      if (const auto link = end.lock()) link->close();
    }
  }

 protected:
  std::unique_ptr<Link> dial_helper() override { return to_helper(k_provider); }

 private:
  template <class Serve>
  std::unique_ptr<Link> connect(Ends ends, Serve serve) {
    const std::shared_ptr<Link> far = std::move(ends.second);
    {
      const std::lock_guard lock(mutex_);
      ends_.push_back(far);
    }
    threads_.begin([serve, link = std::make_unique<PassingLink>(far)]() mutable { serve(std::move(link)); });
    return std::move(ends.first);
  }
  std::mutex mutex_;
  std::list<std::weak_ptr<Link>> ends_;  // the services'
};

class TlsWorld : public World {
 public:
  explicit TlsWorld(Clock::duration patience, Clock::duration handshake_patience = std::chrono::seconds(5),
                    OfferedModel model = tiny_model(k_smallest))
      : World({.model = std::move(model), .patience = patience}), handshake_patience_(handshake_patience) {
    accept(helper_listener_, helper_rooms_,
           [this](std::unique_ptr<Link> link, const Peer& peer) { helper().serve(std::move(link), peer); });
    accept(provider_listener_, provider_rooms_,
           [this](std::unique_ptr<Link> link, const Peer& peer) { provider().serve(std::move(link), peer, limits); });
    provider().register_model(nullptr);
  }
  ~TlsWorld() override {
    stopping_ = true;
    threads_.join();
  }

  const Parties& parties() const { return parties_; }
  std::uint16_t port(Role role) const {
    return role == Role::helper ? helper_listener_.port() : provider_listener_.port();
  }
  std::unique_ptr<Link> dial(const Credentials& who, Role to) const {
    return tls_connect(who, "127.0.0.1:" + std::to_string(port(to)), to, Clock::now() + k_long);
  }
  std::unique_ptr<Link> dial(Role who, Role to) const { return dial(parties_.of(who), to); }
  UserLinks links() {
    const auto provider = [this] { return dial(Role::user, Role::provider); };
    return {provider, provider, [this] { return dial(Role::user, Role::helper); }};
  }
  std::vector<TokenId> answer() { return answer(links()); }
  std::vector<TokenId> answer(const UserLinks& links) { return test::answer(links, executor(), {5, 6}, 2); }
  UserLimits limits;  // of every user

 protected:
  std::unique_ptr<Link> dial_helper() override { return dial(Role::provider, Role::helper); }

 private:
  template <class Serve>
  void accept(TlsListener& listener, RoomByPeer& rooms, Serve serve) {
    threads_.begin([this, &listener, &rooms, serve] {
      while (!stopping_) {
        try {
          threads_.begin(
              [this, &rooms, serve, link = listener.accept(Clock::now() + std::chrono::milliseconds(50))]() mutable {
                try {
                  const Peer peer = link->handshake(Clock::now() + handshake_patience_);
                  link->share(rooms.of(peer.key));
                  serve(std::move(link), peer);
                } catch (const Error& error) {
                  notes.add(std::string("refused: ") + error.what());
                }
              });
        } catch (const Error&) {  // nobody came
        }
      }
    });
  }

  const Clock::duration handshake_patience_;
  const Parties parties_;
  RoomByPeer helper_rooms_{HelperService::room()}, provider_rooms_{provider().room()};
  TlsListener helper_listener_{[this] { return parties_.of(Role::helper); }, "127.0.0.1:0", handshake_patience_},
      provider_listener_{[this] { return parties_.of(Role::provider); }, "127.0.0.1:0", handshake_patience_};
  std::atomic<bool> stopping_ = false;
};

}  // namespace permllm::test
