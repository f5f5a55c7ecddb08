// What a user of a plan sees of a model, from the integers and the plan alone: a fourth party that walks the transformer's page.
//
// It holds every value whole, as a provider does under masks of zero, and draws what decides of what is shown: the orders, signs and levels of
// provider and helper, the user's part of each showing, r and delta of each secret cut. These are derived where the parties derive them, so with the
// coins of a real session it shows, number for number, what that session's user sees. (Of the user's part of q, k and p.v it draws what lies below
// 2^-16 of a unit afresh, and of shown scores in profile fast all of it.)
//
// Its batch is `repeats` prompts of `tokens` tokens each, one behind the other, every one in a session of its own: the i-th token stands at position
// i % tokens and has the coins of slot first + i.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "model/weights.h"
#include "page/transformer.h"

namespace permllm {

// A row as the user sees it, with what the user does not know. Spans end with the call.
struct Showing {
  Seen seen;
  const RowOrder& order;        // column j of what is seen is column order.pi[j]; signs by column before
  std::span<const Word> exact;  // as it was: in order, with its signs, not rounded, in units of the ring
  std::span<const double>
      part;  // D of each value, known to the user: what was rounded lies D - 1 to D units above what is seen
};
// What came of the rounding of q and k, of v or of p.v, of one token.
struct Rounding {
  const SecretCutShape& cut;
  std::uint32_t index;
  std::span<const double> own;  // what D would be if the user's own bits decided: known to the user
  std::span<const double> out;  // what came out, in units
  std::span<const double> off;  // by how many it is above the exact number
};

struct Witness {
  const Coins& user;      // those of user and helper
  const Coins& provider;  // those of provider and helper
  Executor& executor;
  std::size_t tokens = 1, repeats = 1;
  std::uint32_t first = 0;
  int finer =
      0;  // bits by which rows of the residual and neurons are shown finer than the plan says, as far as there are some
  bool coined = true;  // false: cuts without the coin that the user never has, as up to wire version 6
  // Called from several threads, for different indices at a time.
  std::function<void(const Showing&)> shown = nullptr;
  std::function<void(const Rounding&)> rounded = nullptr;

  std::size_t rows() const { return tokens * repeats; }
  std::size_t slot(std::size_t i) const { return i % tokens; }
  // What is shown of a map.
  Reveal shown_by(const MapShape& map) const {
    const int more = map.site == Site::mlp_norm || map.site == Site::mlp ? std::min(finer, map.reveal.drop) : 0;
    return {map.reveal.drop - more, map.reveal.keep + more};
  }
  std::uint32_t index(std::size_t i) const { return first + static_cast<std::uint32_t>(i); }
};

// Nothing is dealt.
struct NoMaterial {
  void open(Witness&, Part) {}
  void close(Witness&, Part) {}
};

// The residual behind the first `layers` layers. Errors: unsupported, where a plan is open or a prompt attends both ways.
Masked run_witness(Witness& w, const Plan& plan, const IntWeights& weights, std::span<const std::uint32_t> prompt,
                   std::size_t layers);
// And the pass behind it: the last row of each prompt, and its logits.
void run_witness_pass(const Witness& w, const Plan& plan, const IntWeights& weights, const Masked& residual);

// --- The boxes --------------------------------------------------------------------------------------------------------

template <class Matrix>
Masked linear(Witness& w, const LinearShape& s, const Matrix& matrix, const Masked& x) {
  Masked y{s.out, s.rows, Words(x.tokens() * s.rows)};
  product(matrix, s.out.ring, x.words, y.words, w.executor);
  return y;
}

void add_positions(Witness& w, std::span<const float> positions, Masked& rows);
Embedded<Masked> embed(Witness& w, const EmbedShape& s, const Masked& rows);
Masked norm(Witness& w, const NormShape& s, const Masked& x);
RowScales row_scales(Witness& w, const NormShape& s, const Masked& x);
Masked attention(Witness& w, const AttentionShape& s, const Masked& qkv, std::span<const float> key_level);
Masked mlp(Witness& w, const MlpShape& s, const Masked& gate_up, const RowScales& scales);

}  // namespace permllm
