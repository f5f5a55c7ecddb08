// Retrieve by BFV: the id of the token at a position of the pass's order, the user's.   docs/protocol.md 4.11; PermLLM, section 4.4
//
//   F:        provider holds pi, the order that the pass's logits were shown in, user a position i   ->   pi(i) to the user
//   once:     user -> provider   its public key; `a` of it is a function of the session's number, which the provider drew
//   offline   user -> provider   query: for a uniform s, X^-j in block b and 0 in the others, s = b N + j, encrypted
//   step 1    user -> provider   delta = s - i modulo the number of positions
//   step 2    provider -> user   the query times pi, turned by delta, with an encryption of zero under the user's key and the
//                                flood added: one coefficient (he/answer.h)
//   Step 1 goes with the answer to the logits, step 2 behind the next pass's first layer: no round trip of its own, and nobody
//   waits for it. The provider prepares the query while the pass is under way and answers beside the next one.
//   coins:    the user's alone: s and the query's errors, by pass. A query is used for one delta: two would show how far the two
//             positions are apart.
//   bound:    he/parameters.h.
#pragma once

#include <future>
#include <optional>

#include "he/answer.h"
#include "protocol/permuted_map.h"

namespace permllm {

struct BfvShape {
  he::Parameters parameters;
  MapShape logits;  // of a pass, whose order is retrieved from
};

// Offline: of a pass.
constexpr Cost query_cost(const BfvShape& s) {
  return {.rounds = 0, .online = {}, .offline = {.user_to_provider = he::query_bytes(s.parameters)}};
}

struct RetrievalKey {  // once a session, user -> provider
  static constexpr Tag tag = Tag::retrieval_key;
  he::PublicKey key;
  template <class Io>
  void visit(Io& io) {
    key.visit(io);
  }
};

struct RetrievalIndex {  // step 1, user -> provider
  static constexpr Tag tag = Tag::retrieval_index;
  static constexpr std::size_t k_bytes = 4;
  std::uint32_t delta = 0;
  template <class Io>
  void visit(Io& io) {
    io.number("delta", delta);
  }
};

struct RetrievalReply {  // step 2, provider -> user
  static constexpr Tag tag = Tag::retrieval_reply;
  he::Reply reply;
  template <class Io>
  void visit(Io& io) {
    reply.visit(io);
  }
};

inline Cost index_cost() {
  return {.rounds = 0, .online = {.user_to_provider = RetrievalIndex::k_bytes}, .offline = {}};
}
// own_round: where nothing else is on its way to the user at that time.
inline Cost reply_cost(bool own_round) {
  return {.rounds = own_round ? std::size_t{1} : 0, .online = {.provider_to_user = he::reply_bytes()}, .offline = {}};
}

// What both take for `a`: the chain's number.
inline std::string key_context(std::uint64_t chain) { return "chain " + std::to_string(chain); }

// The user's secrets of one chain. Queries may be made ahead of time by another thread, and again.
class BfvUser {
 public:
  BfvUser(const BfvShape& shape, const Seed& seed)
      : shape_(shape), seed_(seed), secret_(derive(seed, domain::retrieval, "secret key")) {}

  RetrievalKey key(std::uint64_t chain) const {
    return {he::public_key(secret_, key_context(chain), derive(seed_, domain::retrieval, "public key"))};
  }
  he::Query query(std::uint32_t pass) const {
    return he::encrypt(secret_, shape_.parameters, index(pass), of_pass(pass));
  }
  // Passes in rising order, each once.
  RetrievalIndex choose(std::uint32_t pass, std::size_t position) {
    PERMLLM_ASSERT(pass >= next_ && position < shape_.parameters.vocabulary);
    next_ = pass + 1;
    // Modulo n in the same steps for all: a division's time tells of its operands.
    const std::size_t n = shape_.parameters.positions(), delta = index(pass) + n - position;
    return {static_cast<std::uint32_t>(delta - (n & (std::size_t{0} - std::size_t{delta >= n})))};
  }
  std::uint32_t open(const RetrievalReply& message) const {
    return he::decrypt(secret_, shape_.parameters, message.reply);
  }

 private:
  Seed of_pass(std::uint32_t pass) const { return derive(seed_, domain::retrieval, "pass " + std::to_string(pass)); }
  std::size_t index(std::uint32_t pass) const { return he::random_index(shape_.parameters, of_pass(pass)); }

  BfvShape shape_;
  Seed seed_;
  he::SecretKey secret_;
  std::uint32_t next_ = 0;
};

// The provider's part of one session. What takes time runs beside the pass.
class BfvProvider {
 public:
  BfvProvider(const BfvShape& shape, const RetrievalKey& message, std::uint64_t chain)
      : shape_(shape), key_(message.key, key_context(chain)) {}

  // At the begin of a pass: its query, out of the stock.
  void prepare(he::Query query) {
    query_ = std::async(std::launch::async, [query = std::move(query)] { return he::PreparedQuery(query); });
  }
  // At its end, by the coins of the logits' order, which outlive this. Errors: malformed, a delta that is no position.
  void answer(const RetrievalIndex& message, const Coins& with_helper, std::uint32_t pass) {
    const std::size_t positions = shape_.parameters.positions();
    if (message.delta >= positions) {
      throw Error(Code::malformed, "RetrievalIndex.delta",
                  std::to_string(message.delta) + ", expected less than " + std::to_string(positions));
    }
    reply_ =
        std::async(std::launch::async, [this, &with_helper, pass, query = std::move(query_),
                                        delta = message.delta]() mutable {
          return he::answer(key_, query.get(), row_order(with_helper, shape_.logits, pass, 0).pi, delta, random_seed());
        }).share();
  }
  // The reply to the last pass, the same each time.
  RetrievalReply reply() const { return {reply_.get()}; }

 private:
  BfvShape shape_;
  he::PreparedKey key_;
  std::future<he::PreparedQuery> query_;
  std::shared_future<he::Reply> reply_;
};

}  // namespace permllm
