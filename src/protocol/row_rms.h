// Row rms: <x> -> 1 / rms(x) at the user, who learns x.x and nothing else. No round trip of its own.     docs/protocol.md 4.8
//
//   Lets the matrix behind a norm be applied before the norm: the user divides afterwards.
//   step 1    P -> U   e = x0 - a, in the residual's ring          a: known to provider and helper
//   For each scale k, all cut their parts of x to f_k fraction bits: x_k = x0_k + r_k, and x0_k = e_k + a_k, each exact or a
//   unit low.
//   step 2    P -> U   s_k = x0_k.x0_k + c_k, where x0_k = e_k + a_k
//   offline:  helper -> provider   c_k = 2 a_k.r_k - rho_k         rho_k: known to user and helper
//   result    U : s_k + 2 e_k.r_k + r_k.r_k + rho_k = (e_k + a_k + r_k)^2 = x.x
//   Several scales, because one ring cannot hold the square of a row of rms 1,000 (attention sinks) and resolve one of 0.08:
//   from coarse to fine, the user takes the last whose range the one before it allows. One e serves all.
//   coins of what the provider receives: rho_k for c_k.
//   bound:    x.x < 2^(bits of the cut ring - 1 - 2 f_0), from the plan's calibrated ranges.
#pragma once

#include <cmath>

#include "protocol/party.h"

namespace permllm {

struct RowRmsShape {
  Site site;
  std::uint16_t layer = 0;
  std::size_t size = 0;
  Format x;
  std::vector<int> scales;  // fraction bits, from coarse to fine
  double eps = 0;
  int shown_frac = 0;  // of the rms in the user's records

  int drop(std::size_t k) const { return x.frac - scales[k]; }
  Ring ring(std::size_t k) const { return Ring{x.ring.bits - drop(k)}; }
  // x.x that the k-th scale holds.
  double limit(std::size_t k) const { return power_of_two(ring(k).bits - 1 - 2 * scales[k]); }
};

inline constexpr Leak k_row_rms_leak[] = {{Role::user, "the rms of the row"}, {Role::provider, "nothing"}, {Role::helper, "nothing"}};

inline Cost cost(const RowRmsShape& s, Batch batch) {
  std::size_t squares = 0;
  for (std::size_t k = 0; k < s.scales.size(); ++k) squares += s.ring(k).bytes();
  return {.rounds = 0,
          .online = {.provider_to_user = batch.count * (s.size * s.x.ring.bytes() + squares)},
          .offline = {.helper_to_provider = batch.count * squares}};
}

struct MaskedRow {  // step 1, provider -> user
  static constexpr Tag tag = Tag::masked_row;
  Block e;
  template <class Io>
  void visit(Io& io) {
    io.block("e", e);
  }
};
struct RowSquares {  // step 2, provider -> user: one scale of each token
  static constexpr Tag tag = Tag::row_squares;
  Block s;
  template <class Io>
  void visit(Io& io) {
    io.block("s", s);
  }
};

// 1 / rms of each row of the batch at the user; nothing at the others. Empty: rows are normalised already.
using RowScales = std::vector<double>;

inline Address rms_at(Use use, const RowRmsShape& s, std::uint32_t index, std::size_t scale = 0) {
  return {use, s.site, s.layer, index, static_cast<std::uint16_t>(scale)};
}

// sum over j of (a_j << 1 when doubled) b_j, each cut.
inline Word cut_dot(std::span<const Word> a, std::span<const Word> b, int drop) {
  Word sum = 0;
  for (std::size_t j = 0; j < a.size(); ++j) sum += cut(a[j], drop) * cut(b[j], drop);
  return sum;
}

inline RowScales row_rms(Helper& helper, const RowRmsShape& s, const Mask& x) {
  for (std::size_t i = 0; i < helper.batch.count; ++i) {
    const std::uint32_t index = helper.batch.index(i);
    helper.with_user.burn(rms_at(Use::rms_share, s, index));
    const Words a = helper.with_provider.words(rms_at(Use::rms_sent, s, index), s.size, s.x.ring);
    for (std::size_t k = 0; k < s.scales.size(); ++k) {
      const Word rho = helper.with_user.words(rms_at(Use::rms_share, s, index, k), 1, s.ring(k))[0];
      helper.packs[i].words(Words{2 * cut_dot(a, x.token(i), s.drop(k)) - rho}, s.ring(k));
    }
  }
  return {};
}

inline RowScales row_rms(UserDealer&, const RowRmsShape&, const Mask&) { return {}; }

inline RowScales row_rms(Provider& provider, const RowRmsShape& s, const Masked& x) {
  Words e(x.words.size());
  std::vector<Words> squares(s.scales.size());
  for (std::size_t i = 0; i < provider.batch.count; ++i) {
    const Address at = rms_at(Use::rms_sent, s, provider.batch.index(i));
    const Words a = provider.with_helper.spend(at, s.size, s.x.ring);
    Word* sent = &e[i * s.size];
    for (std::size_t j = 0; j < s.size; ++j) sent[j] = (x.token(i)[j] - a[j]) & s.x.ring.mask();
    for (std::size_t k = 0; k < s.scales.size(); ++k) {
      Word sum = provider.pack(i).helper.words("2 a.r - rho", 1, s.ring(k))[0];
      for (std::size_t j = 0; j < s.size; ++j) {
        const Word x0 = cut(sent[j], s.drop(k)) + cut(a[j], s.drop(k));
        sum += x0 * x0;
      }
      squares[k].push_back(sum);
    }
  }
  provider.user.send(MaskedRow{block(s.x.ring, std::move(e))});
  for (std::size_t k = 0; k < squares.size(); ++k) provider.user.send(RowSquares{block(s.ring(k), std::move(squares[k]))});
  return {};
}

inline RowScales row_rms(User& user, const RowRmsShape& s, const Mask& x) {
  const auto e = user.provider.receive(MaskedRow{expect(s.x.ring, x.words.size())}).e.words;
  // x.x of the batch at each scale.
  std::vector<std::vector<double>> squares;
  for (std::size_t k = 0; k < s.scales.size(); ++k) {
    const Words sums = user.provider.receive(RowSquares{expect(s.ring(k), user.batch.count)}).s.words;
    std::vector<double>& at = squares.emplace_back();
    for (std::size_t i = 0; i < user.batch.count; ++i) {
      const auto row = std::span(e).subspan(i * s.size, s.size);
      const Word rho = user.with_helper.words(rms_at(Use::rms_share, s, user.batch.index(i), k), 1, s.ring(k))[0];
      const Word sum = sums[i] + 2 * cut_dot(row, x.token(i), s.drop(k)) + cut_dot(x.token(i), x.token(i), s.drop(k)) + rho;
      at.push_back(decode(sum, {s.ring(k), 2 * s.scales[k]}));
    }
  }
  RowScales scales;
  for (std::size_t i = 0; i < user.batch.count; ++i) {
    double square = squares[0][i];
    bool fits = true;  // the next finer scale holds this row
    for (std::size_t k = 1; k < squares.size(); ++k) {
      fits = fits && square < s.limit(k) / 2;
      square = fits ? squares[k][i] : square;
    }
    const double rms = std::sqrt(std::max(square, 0.0) / static_cast<double>(s.size) + s.eps);
    if (user.observe) {
      const std::int64_t seen = std::llrint(std::ldexp(rms, s.shown_frac));
      user.observe({s.site, s.layer, user.batch.index(i), 0, {&seen, 1}});
    }
    scales.push_back(1.0 / rms);
  }
  return scales;
}

inline RowScales row_rms(Counter& counter, const RowRmsShape& s, const Counted&) {
  counter.total += cost(s, counter.batch);
  return {};
}

}  // namespace permllm
