// For tests of peers that do what they should not: a user's handshake by hand, and what this process takes of memory meanwhile.
#pragma once

#include <fstream>
#include <memory>
#include <string>

#include "support/world.h"

namespace permllm::test {

// A number of /proc/PID/status; process: "self" or a number.
inline double status_of(const std::string& process, const std::string& key) {
  std::ifstream status("/proc/" + process + "/status");
  for (std::string word; status >> word;) {
    double number = 0;
    if (word == key && status >> number) return number;
  }
  return 0;
}

// Highest resident size of this process since the last call, in MB.
class PeakMemory {
 public:
  PeakMemory() {
    std::ofstream("/proc/self/clear_refs") << "5";
    before_ = megabytes("VmRSS:");
  }
  double growth() const { return megabytes("VmHWM:") - before_; }

 private:
  static double megabytes(const std::string& key) { return status_of("self", key) / 1024; }
  double before_;
};

// The handshake of a user, by hand.
struct Handshake {
  const std::uint64_t chain = random_number();
  std::unique_ptr<Link> online_link, offline_link, helper_link;
  std::unique_ptr<Channel> online, offline, helper;
  Card card;

  explicit Handshake(TlsWorld& world, bool with_helper = true) {
    online_link = world.dial(Role::user, Role::provider);
    online = std::make_unique<Channel>(*online_link, 0, std::chrono::seconds(20));
    online->send(Hello{});
    card = online->receive(Card{});
    online->send(Agreement{card.plan.hash(), chain});
    online->receive(Accepted{});
    online->set_session(card.session);
    if (!with_helper) return;
    offline_link = world.dial(Role::user, Role::provider);
    offline = std::make_unique<Channel>(*offline_link, 0, std::chrono::seconds(20));
    offline->send(Hello{Hello::offline, card.session});
    offline->flush();
    pair(world);
    offline->receive(Accepted{});
    offline->set_session(card.session);
  }
  void pair(TlsWorld& world) {
    helper_link = world.dial(Role::user, Role::helper);
    helper = std::make_unique<Channel>(*helper_link, 0, std::chrono::seconds(20));
    helper->send(PairHello{card.session, "", card.model_id, card.plan.hash(), chain, false, Seed{}});
    helper->receive(PairAccepted{});
    helper->set_session(card.session);
    helper->receive(Paired{});
  }
};

}  // namespace permllm::test
