// The provider's stock of offline material: what helper and user sent, kept until the one time that it is used.
#pragma once

#include <condition_variable>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "net/link.h"
#include "protocol/party.h"

namespace permllm {

// A kind of pieces that only the user deals (Part::Kind::query); of others the helper deals a half.
inline constexpr std::uint8_t k_users_kind = 4;

// Filled by the threads that read from helper and user, emptied by the online thread.
class Stock {
 public:
  enum class Source { helper, user };
  // user_deals: whether pieces have a half of the user's (not so with public weights).
  explicit Stock(bool user_deals = true) : user_deals_(user_deals) {}
  // What a piece belongs to: kind and layer of a Part (engine/transformer.h), and the index of slot, entry or pass.
  using Place = std::tuple<std::uint8_t, std::uint32_t, std::uint32_t>;

  // Cuts `material` into one piece for each of the batch; sizes from the plan. Errors: malformed when the sum differs,
  // or when a piece of this place was delivered before (it could have been used).
  void put(Source source, std::uint8_t kind, std::uint32_t layer, Batch batch, const std::vector<std::size_t>& sizes,
           Bytes material);
  // All halves of a piece; waits for them until `deadline` (Error{timeout} says that the stock is empty). A piece is
  // handed out once.
  Pack take(std::uint8_t kind, std::uint32_t layer, std::uint32_t index, Clock::time_point deadline);
  // A source is gone: takers that wait, and later ones that find nothing, get this error.
  void fail(std::exception_ptr error);
  std::size_t bytes() const;

 private:
  // Whether pieces of a kind have a half of this source.
  bool deals(Source source, std::uint8_t kind) const { return source == Source::user ? user_deals_ : kind != k_users_kind; }

  struct Piece {
    std::shared_ptr<const Bytes> material;
    std::size_t offset = 0, size = 0;
  };
  struct Half {
    std::map<Place, Piece> pieces;
    // First index that was not delivered yet, by kind and layer: deliveries come in order.
    std::map<std::pair<std::uint8_t, std::uint32_t>, std::uint32_t> next;
  };
  const bool user_deals_;
  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  Half halves_[2];
  std::size_t bytes_ = 0;
  std::exception_ptr failure_;
};

}  // namespace permllm
