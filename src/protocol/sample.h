// Sample and retrieve: logits -> the masked one-hot of the chosen token; its id to the user.   docs/protocol.md 4.7
//
//   Sample is a PermutedMap over the vocabulary at a hidden level: the user chooses a position and answers the one-hot of
//   that position, which the provider un-permutes: the next embedding needs no id. One round trip.
//   Retrieve: the id is a public linear function of the one-hot e, id = sum_k k e[k], in 12-bit digits:
//   step 1    P -> U   d_j = sum_k digit_j(k) e0[k]          user opens   d_j + sum_k digit_j(k) r[k] = digit_j(id)
//   sent in the provider's next message: no round trip of its own, exact, nothing new to either party.
//   bound:    a digit is below 2^12, the ring of the one-hot 2^16.
#pragma once

#include <span>
#include <vector>

#include "protocol/permuted_map.h"
#include "ring/clear.h"

namespace permllm {

struct SampleShape {
  MapShape
      map;  // one row of one group; level on but where logits are capped; the answer's ring is the one-hot's, no fraction bits
  double cap = 0;  // logits: cap tanh(logit / cap), in units of the reveal; 0: none
};

constexpr Cost cost(const SampleShape& s, Batch batch) { return cost(s.map, batch); }

template <class Choose>
Mask sample(Helper& helper, const SampleShape& s, const Mask& logits, const Choose&) {
  return std::move(permuted_map(helper, s.map, logits)[0]);
}
template <class Choose>
Mask sample(UserDealer& user, const SampleShape& s, const Mask&, const Choose&) {
  return std::move(permuted_map(user, s.map)[0]);
}
template <class Choose>
Masked sample(Provider& provider, const SampleShape& s, const Masked& logits, const Choose&) {
  return std::move(permuted_map(provider, s.map, logits)[0]);
}

// cap tanh(logit / cap), in their units; 0: as they are.
inline void cap_logits(std::vector<std::int64_t>& logits, double cap) {
  if (cap == 0) return;
  std::vector<double> row(logits.begin(), logits.end());
  clear::cap(row, cap);
  for (std::size_t j = 0; j < row.size(); ++j) logits[j] = std::llrint(row[j]);
}

// choose(logits) -> position: logits in units of the reveal, in a fresh order, less the first of them (but where they are capped). The hidden level
// makes what is shown wrap in its ring; differences to one element do not.
template <class Choose>
Mask sample(User& user, const SampleShape& s, const Mask&, const Choose& choose) {
  user.one_by_one = true;
  Mask one_hot = std::move(permuted_map(user, s.map, [&](std::size_t, std::size_t, auto row, auto& answers) {
    const Ring shown = s.map.reveal.sent();
    std::vector<std::int64_t> logits(row.size());
    for (std::size_t j = 0; j < row.size(); ++j) {
      logits[j] = s.cap == 0 ? centre(static_cast<Word>(row[j]) - static_cast<Word>(row[0]), shown) : row[j];
    }
    cap_logits(logits, s.cap);
    const std::size_t chosen = choose(std::span<const std::int64_t>(logits));
    PERMLLM_ASSERT(chosen < row.size());
    for (std::size_t j = 0; j < row.size(); ++j) answers[0][j] = Word{j == chosen};
  })[0]);
  user.one_by_one = false;
  return one_hot;
}
template <class Choose>
Counted sample(Counter& counter, const SampleShape& s, const Counted& logits, const Choose&) {
  counter.total += cost(s, counter.batch);
  return {s.map.answers[0].out, logits.size};
}

// --- Retrieve ---------------------------------------------------------------------------------------------------------

inline constexpr int k_digit_bits = 12;
inline constexpr std::size_t k_digits = 2;  // ids below 2^24

constexpr Cost retrieve_cost(Ring ring, std::size_t tokens = 1) {
  return {.rounds = 0, .online = {.provider_to_user = tokens * k_digits * ring.bytes()}, .offline = {}};
}

struct TokenDigits {  // provider -> user: two words a token
  static constexpr Tag tag = Tag::token_digits;
  Block d;
  template <class Io>
  void visit(Io& io) {
    io.block("d", d);
  }
};

inline Words digit_sums(std::span<const Word> share) {
  Words sums(k_digits);
  for (std::size_t k = 0; k < share.size(); ++k) {
    sums[0] += (k & ((Word{1} << k_digit_bits) - 1)) * share[k];
    sums[1] += (k >> k_digit_bits) * share[k];
  }
  return sums;
}

// Of each token of the one-hots.
inline void retrieve(Provider& provider, const Masked& one_hots) {
  Words d;
  for (std::size_t i = 0; i < one_hots.tokens(); ++i) {
    const Words sums = digit_sums(one_hots.token(i));
    d.insert(d.end(), sums.begin(), sums.end());
  }
  provider.user.send(TokenDigits{block(one_hots.format.ring, std::move(d))});
}

inline std::vector<std::uint32_t> retrieve(User& user, const Mask& one_hots) {
  const Ring ring = one_hots.format.ring;
  const auto d = user.provider.receive(TokenDigits{expect(ring, one_hots.tokens() * k_digits)}).d.words;
  std::vector<std::uint32_t> ids;
  for (std::size_t i = 0; i < one_hots.tokens(); ++i) {
    const Words own = digit_sums(one_hots.token(i));
    const Word low = (d[k_digits * i] + own[0]) & ring.mask(), high = (d[k_digits * i + 1] + own[1]) & ring.mask();
    const Word id = low + (high << k_digit_bits);
    if (id >= one_hots.size) {
      throw Error(Code::malformed, "TokenDigits.d", "the id is beyond the vocabulary");
    }
    ids.push_back(static_cast<std::uint32_t>(id));
  }
  return ids;
}

inline void retrieve(Counter& counter, const Counted& one_hots) {
  counter.total += retrieve_cost(one_hots.format.ring, counter.batch.count);
}

}  // namespace permllm
