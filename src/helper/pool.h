// Several helpers on one store, of one identity, behind a balancer that hands a connection to any of them. All that a session has in one helper's memory
// is the provider's connection, parked until the user's comes. Who gets the user's connection looks up in the store who has the provider's, and
// hands on what the user asks; material goes straight from the helper that deals to the provider.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "session/pairing.h"
#include "wire/link.h"

namespace permllm {

// A user's side of a session, from the helper that has its connection to the one that has the provider's, which goes on as if it were the user's
// connection behind PairAccepted.
struct Forwarded {
  static constexpr Tag tag = Tag::forwarded;
  std::string user, provider;  // the user's key, and that of the provider who issued its certificate
  PairHello hello;
  Seed half;  // that the user was told
  template <class Io>
  void visit(Io& io) {
    io.text("user", user, 64);
    io.text("provider", provider, 64);
    hello.visit(io);
    permllm::visit(io, half);
  }
};

// Thread-safe.
class HelperPool {
 public:
  // store: the common folder. address: where the others reach this helper. dial: to another, by its address. Errors: file.
  using Dial = std::function<std::unique_ptr<Link>(const std::string& address)>;
  HelperPool(const std::filesystem::path& store, std::string address, Dial dial);

  // Where a session's provider is parked, by the hash of the session's place. Errors: file.
  void announce(const std::string& place) const;
  // What this helper announced, if it is that still: the provider may have come to another since.
  void withdraw(const std::string& place) const noexcept;
  // Likewise what a helper that does not run any more announced.
  void withdraw(const std::string& place, const std::string& address) const;
  // Another helper; empty: none, or this one.
  std::string where(const std::string& place) const;
  std::unique_ptr<Link> dial(const std::string& address) const { return dial_(address); }

 private:
  const std::filesystem::path folder_;
  const std::string address_;
  const Dial dial_;
};

}  // namespace permllm
