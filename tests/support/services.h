// Provider, helper and users as services of one process, over memory links of which every end may be wrapped. Of each session the
// end of every party is known, and that it came.
#pragma once

#include <fmt/format.h>

#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "helper/service.h"
#include "net/memory_link.h"
#include "provider/service.h"
#include "support/links.h"
#include "support/rig.h"
#include "support/spent_masks.h"
#include "support/tiny_model.h"
#include "user/user_client.h"

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
  friend class Services;
  std::mutex mutex;
  std::vector<std::jthread> serving;
};

class Services {
 public:
  static constexpr std::size_t k_prompt = 2, k_answer = 2;

  Services(Profile profile, bool fused, Clock::duration patience)
      : patience_(patience),
        helper_(executor_, patience, [this](const Event& event) { note(event, &Session::helper); }),
        provider_(
            tiny_model({.profile = profile, .fused = fused, .layers = 1, .slots = 8}), executor_, patience,
            [this] { return dial_helper(); }, [this](const Event& event) { note(event, &Session::provider); }) {
    provider_.register_model(nullptr);
  }

  // A session of a short prompt and answer, from its handshake to its reports. Returns once every party has ended.
  void run(Session& session) {
    SpentMasks::all().forget();
    const Clock::time_point begin = Clock::now();
    const Watched watched(*this, session.name);
    try {
      converse(session);
    } catch (const Error& error) {
      session.user = error.what();
    }
    for (;;) {  // each may have started another
      std::vector<std::jthread> serving;
      {
        const std::lock_guard lock(session.mutex);
        serving.swap(session.serving);
      }
      if (serving.empty()) break;
    }
    session.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
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
    const std::lock_guard lock(session.mutex);
    session.serving.emplace_back([this, &session, near_end, far = wrapped(std::move(far), far_end)]() mutable {
      const Serving serving(*this, session);
      switch (near_end) {
        case End::user_helper:
          helper_.serve(std::move(far), Peer{Role::user, {}, {}, {}});
          break;
        case End::provider_helper:
          helper_.serve(std::move(far), Peer{Role::provider, {}, {}, {}});
          break;
        default:
          provider_.serve(std::move(far), {}, UserLimits{.sessions = 1000});
      }
    });
    return link;
  }
  Executor& executor() { return executor_; }
  Clock::duration patience() const { return patience_; }

 private:
  // Which session a thread serves.
  struct Serving {
    Services& services;
    Serving(Services& s, Session& session) : services(s) {
      const std::lock_guard lock(s.mutex_);
      s.runs_[std::this_thread::get_id()] = &session;
    }
    ~Serving() {
      const std::lock_guard lock(services.mutex_);
      services.runs_.erase(std::this_thread::get_id());
    }
  };
  // Names the session that hangs, and ends the program.
  struct Watched {
    Services& services;
    std::multimap<Clock::time_point, std::string>::iterator place;
    Watched(Services& s, const std::string& name) : services(s) {
      const std::lock_guard lock(s.mutex_);
      place = s.deadlines_.emplace(Clock::now() + 10 * s.patience_ + std::chrono::seconds(10), name);
    }
    ~Watched() {
      const std::lock_guard lock(services.mutex_);
      services.deadlines_.erase(place);
    }
  };

  void converse(Session& session) {
    Ledger ledger;
    UserClient client(links(session), ledger, executor_, patience_);
    client.make_material(k_prompt, k_answer, 64);
    client.wait_for_material(k_prompt, k_answer);
    client.session().prompt(std::vector<TokenId>{5, 6}, greedy);
    std::vector<TokenId> answer{client.session().advance([](TokenId) { return true; }, greedy)};
    answer.push_back(client.session().retrieve_last());
    session.answer = std::move(answer);
    client.end();
  }
  std::unique_ptr<Link> dial_helper() {
    Session* session = run_of_this_thread();
    if (session != nullptr) return connect(*session, End::provider_helper, End::helper_provider);
    auto [near, far] = memory_links();  // the registration
    registration_ = std::jthread([this, link = std::move(far)]() mutable {
      helper_.serve(std::move(link), Peer{Role::provider, {}, {}, {}});
    });
    return std::move(near);
  }
  void note(const Event& event, std::string Session::*party) {
    const bool ends = event.kind == Event::Kind::session_ends || event.kind == Event::Kind::connection_failed;
    if (!ends || !event.error) return;
    Session* session = run_of_this_thread();
    if (session == nullptr) return;
    const std::lock_guard lock(session->mutex);
    (session->*party) += event.text.substr(event.text.find(": ") + 2) + "; ";
  }
  Session* run_of_this_thread() {
    const std::lock_guard lock(mutex_);
    const auto found = runs_.find(std::this_thread::get_id());
    return found == runs_.end() ? nullptr : found->second;
  }

  Clock::duration patience_;
  Executor executor_{1};
  std::mutex mutex_;
  std::map<std::thread::id, Session*> runs_;
  std::multimap<Clock::time_point, std::string> deadlines_;
  HelperService helper_;
  ProviderService provider_;
  std::jthread registration_;
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
