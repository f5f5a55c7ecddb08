// Watches every one-time mask of a process being spent: under one address of one seed no two messages of a party may differ (user
// and helper each make one under rho). A message that is sent again, byte for byte, is fine.
//
// The program is linked with --wrap for Coins::burn (tests/CMakeLists.txt), so that the parties' code is the release's own. A
// mask belongs to the next frame that its thread sends.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "rand/coins.h"
#include "support/links.h"

namespace permllm::test {

class SpentMasks {
 public:
  static SpentMasks& all() {
    static SpentMasks masks;
    return masks;
  }

  void burnt(const Coins& coins, Address a) {
    // Words that nobody else draws tell the seeds apart.
    const Words seed = coins.words({static_cast<Use>(255), a.site}, 2, Ring{64});
    pending().push_back({0, seed[0], seed[1], static_cast<std::uint8_t>(a.use), static_cast<std::uint8_t>(a.site),
                         a.layer, a.index, a.part});
  }
  // sender: tells the parties of a session apart.
  void sent(const Frame& frame, int sender) {
    if (pending().empty()) return;
    Bytes bytes = frame.payload;
    bytes.push_back(static_cast<std::uint8_t>(frame.tag));
    const Digest digest = hash("spent masks", bytes);
    const std::lock_guard lock(mutex_);
    for (Place& place : pending()) {
      std::get<0>(place) = sender;
      twice_ += spent_.try_emplace(place, digest).first->second == digest ? 0 : 1;
    }
    pending().clear();
  }
  // A thread that begins another session has nothing under way.
  void forget() { pending().clear(); }

  std::size_t count() const {
    const std::lock_guard lock(mutex_);
    return spent_.size();
  }
  // Masks that protected two different messages.
  std::size_t twice() const {
    const std::lock_guard lock(mutex_);
    return twice_;
  }

 private:
  using Place = std::tuple<int, Word, Word, std::uint8_t, std::uint8_t, std::uint16_t, std::uint32_t, std::uint16_t>;
  static std::vector<Place>& pending() {
    thread_local std::vector<Place> places;
    return places;
  }
  mutable std::mutex mutex_;
  std::map<Place, Digest> spent_;
  std::size_t twice_ = 0;
};

// Tells SpentMasks what its owner sends, before anything happens to it.
class Spending : public PassingLink {
 public:
  Spending(std::unique_ptr<Link> link, int sender) : PassingLink(std::move(link)), sender_(sender) {}
  void send(Frame frame) override {
    SpentMasks::all().sent(frame, sender_);
    PassingLink::send(std::move(frame));
  }

 private:
  int sender_;
};

}  // namespace permllm::test

void real_burn(permllm::Coins* coins, permllm::Address address) __asm__("__real__ZN7permllm5Coins4burnENS_7AddressE");
void wrapped_burn(permllm::Coins* coins,
                  permllm::Address address) __asm__("__wrap__ZN7permllm5Coins4burnENS_7AddressE");
// For the one file of the program that includes this.
void wrapped_burn(permllm::Coins* coins, permllm::Address address) {
  permllm::test::SpentMasks::all().burnt(*coins, address);
  real_burn(coins, address);
}
