// Sessions of one world, of which every end of every link may be wrapped. Of each the end of every party is known, and that it came.
#pragma once

#include <fmt/format.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "support/spent_masks.h"
#include "support/world.h"

namespace permllm::test {

// One direction of one link of a session, by its sender.
enum class End {
  user_online,
  provider_online,
  user_offline,
  provider_offline,
  user_helper,
  helper_user,
  provider_helper,
  helper_provider
};
inline constexpr std::array k_ends{End::user_online, End::provider_online, End::user_offline,    End::provider_offline,
                                   End::user_helper, End::helper_user,     End::provider_helper, End::helper_provider};
inline const char* name_of(End end) {
  constexpr const char* names[] = {"user > provider, online",  "provider > user, online", "user > provider, offline",
                                   "provider > user, offline", "user > helper",           "helper > user",
                                   "provider > helper",        "helper > provider"};
  return names[static_cast<std::size_t>(end)];
}

// A session of one user, and what became of it.
struct Session {
  using Wrap = std::function<std::unique_ptr<Link>(std::unique_ptr<Link>, End)>;
  explicit Session(std::string name_, Wrap wrap_ = nullptr) : name(std::move(name_)), wrap(std::move(wrap_)) {}

  std::string name;  // for the watchdog
  Wrap wrap;
  // Errors, empty where a party ended as it should. A party that ended before a fault has none.
  std::string user, provider, helper;
  std::vector<TokenId> answer;
  double seconds = 0;  // until all parties had ended

  std::string errors() const { return fmt::format("user: {} | provider: {} | helper: {}", user, provider, helper); }
  bool any_error() const { return !user.empty() || !provider.empty() || !helper.empty(); }

 private:
  friend class SessionWorld;
  std::mutex mutex;  // of the errors
  Threads serving;
};

class SessionWorld : public MemoryWorld {
 public:
  SessionWorld(Profile profile, bool fused, Clock::duration patience)
      : MemoryWorld(
            {.model = tiny_model({.profile = profile, .fused = fused, .layers = 1, .slots = 8}), .patience = patience}),
        patience_(patience) {}
  ~SessionWorld() override { threads_.join(); }

  // A session of a short prompt and answer, from its handshake to its reports. Returns once every party has ended.
  void run(Session& session) {
    SpentMasks::all().forget();
    const Clock::time_point begin = Clock::now();
    const Watched watched(*this, session.name);
    try {
      Ledger ledger;
      UserClient client(links(session), ledger, executor(), patience_);
      session.answer = make_and_ask(client, {5, 6}, 2);
      client.end();
    } catch (const Error& error) {
      session.user = error.what();
    }
    session.serving.join();
    session.seconds = seconds_since(begin);
  }
  UserLinks links(Session& session) {
    return {[&] { return connect(session, End::user_online, End::provider_online); },
            [&] { return connect(session, End::user_offline, End::provider_offline); },
            [&] { return connect(session, End::user_helper, End::helper_user); }};
  }
  // A connection whose far end a service has.
  std::unique_ptr<Link> connect(Session& session, End near_end, End far_end) {
    auto [near, far] = memory_links();
    const auto wrapped = [&](std::unique_ptr<Link> link, End end) -> std::unique_ptr<Link> {
      return std::make_unique<Spending>(session.wrap ? session.wrap(std::move(link), end) : std::move(link),
                                        static_cast<int>(end));
    };
    std::unique_ptr<Link> link = wrapped(std::move(near), near_end);
    session.serving.begin([this, &session, near_end, far = wrapped(std::move(far), far_end)]() mutable {
      const Serving serving(*this, session);
      switch (near_end) {
        case End::user_helper:
          helper().serve(std::move(far), user_named("alice"));
          break;
        case End::provider_helper:
          helper().serve(std::move(far), k_provider);
          break;
        default: {
          UserLimits limits;
          limits.sessions = 1000;
          provider().serve(std::move(far), user_named("alice"), limits);
        }
      }
    });
    return link;
  }
  Clock::duration patience() const { return patience_; }

 private:
  // Which session a thread serves.
  struct Serving {
    SessionWorld& world;
    Serving(SessionWorld& of, Session& session) : world(of) {
      const std::lock_guard lock(of.mutex_);
      of.runs_[std::this_thread::get_id()] = &session;
    }
    ~Serving() {
      const std::lock_guard lock(world.mutex_);
      world.runs_.erase(std::this_thread::get_id());
    }
  };
  // Names the session that hangs, and ends the program.
  struct Watched {
    SessionWorld& world;
    std::multimap<Clock::time_point, std::string>::iterator place;
    Watched(SessionWorld& of, const std::string& name) : world(of) {
      const std::lock_guard lock(of.mutex_);
      place = of.deadlines_.emplace(Clock::now() + 10 * of.patience_ + std::chrono::seconds(10), name);
    }
    ~Watched() {
      const std::lock_guard lock(world.mutex_);
      world.deadlines_.erase(place);
    }
  };

  std::unique_ptr<Link> dial_helper() override {
    return connect(*run_of_this_thread(), End::provider_helper, End::helper_provider);
  }
  void note(Role role, const Event& event) override {
    const bool ends = event.kind == Event::Kind::session_ends || event.kind == Event::Kind::connection_failed;
    if (!ends || !event.error) return;
    Session* session = run_of_this_thread();
    if (session == nullptr) return;
    const std::lock_guard lock(session->mutex);
    (role == Role::helper ? session->helper : session->provider) += event.text.substr(event.text.find(": ") + 2) + "; ";
  }
  Session* run_of_this_thread() {
    const std::lock_guard lock(mutex_);
    const auto found = runs_.find(std::this_thread::get_id());
    return found == runs_.end() ? nullptr : found->second;
  }

  const Clock::duration patience_;
  std::mutex mutex_;
  std::map<std::thread::id, Session*> runs_;
  std::multimap<Clock::time_point, std::string> deadlines_;
  std::jthread watchdog_{[this](std::stop_token stop) {
    while (!stop.stop_requested()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      const std::lock_guard lock(mutex_);
      if (deadlines_.empty() || deadlines_.begin()->first > Clock::now()) continue;
      fmt::print(stderr, "a session hangs: {}\n", deadlines_.begin()->second);
      std::abort();
    }
  }};
};

}  // namespace permllm::test
