#include "audit/witness.h"

#include <utility>

#include "permllm/error.h"

namespace permllm {
namespace {

// Where each token's words begin, and where the last end.
std::vector<std::size_t> begins_of(const Witness& w, std::size_t tokens, const auto& size_at) {
  std::vector<std::size_t> at(tokens + 1);
  for (std::size_t i = 0; i < tokens; ++i) at[i + 1] = at[i] + size_at(w.slot(i));
  return at;
}

// What the user knows of the rounding of a row.
std::vector<double> part_of(std::span<const Word> own, int drop) {
  std::vector<double> part(own.size());
  for (std::size_t j = 0; j < own.size() && drop > 0; ++j)
    part[j] = static_cast<double>((own[j] + half_unit(drop)) & Ring{drop}.mask()) * power_of_two(-drop);
  return part;
}

// f as the user's (protocol/permuted_map.h). y: [token][row][group][column].
template <class W = Word, class F>
std::vector<MaskedOf<W>> shown_map(Witness& w, const MapShape& of_batch, const Masked& y, std::size_t tokens, F f) {
  const auto columns_at = [&](std::size_t slot) { return of_batch.columns_at(static_cast<std::uint32_t>(slot)); };
  const auto answered_at = [&](std::size_t slot) { return of_batch.rows * columns_at(slot) - of_batch.fewer; };
  const std::vector<std::size_t> at = begins_of(w, tokens, answered_at);
  std::vector<MaskedOf<W>> results;
  for (const MapShape::Answer& answer : of_batch.answers)
    results.push_back({answer.out, answered_at(0), std::vector<W>(at[tokens])});
  w.executor.parallel(tokens, [&](std::size_t i) {
    MapShape s = of_batch;
    s.columns = columns_at(w.slot(i));
    s.reveal = w.shown_by(of_batch);
    const std::uint32_t index = w.index(i);
    const Words own = w.user.words(map_at(Use::map_shown, s, s.site, index), s.shown_at(index), s.in);
    for (std::size_t row = 0; row < s.rows; ++row) {
      const std::size_t n = s.columns_of(index, row), first = row * s.columns, size = s.groups * n;
      const RowOrder order = row_order(w.provider, s, index, row);
      const Address level{Use::map_level, s.site, s.layer, index, static_cast<std::uint16_t>(row)};
      const std::span<const Word> exact = std::span(y.words).subspan(s.groups * (at[i] + first), size),
                                  s1 = std::span(own).subspan(s.groups * first, size);
      Words a(size);
      for (std::size_t j = 0; j < size; ++j) a[j] = Word{0} - s1[j];
      disguise_row(order, s.groups, exact, a, s.level ? w.provider.words(level, 1, s.in)[0] : 0, s.reveal.drop, a);
      std::vector<std::int64_t> shown(size);
      open(a, s1, s.reveal.drop, s.reveal.sent(), shown);
      if (w.shown) {
        const std::vector<double> part = part_of(s1, s.reveal.drop);
        w.shown({{s.site, s.layer, index, row, shown, s.shown, s.disguise()}, order, exact, part});
      }
      std::vector<std::vector<W>> words(results.size(), std::vector<W>(n));
      std::vector<std::span<W>> answers(words.begin(), words.end());
      f(i, row, std::span<const std::int64_t>(shown), answers);
      const std::vector<W> zeros(n);
      for (std::size_t k = 0; k < results.size(); ++k)
        restore_row(order, std::span<const W>(words[k]), std::span<const W>(zeros),
                    std::span(results[k].words).subspan(at[i] + first, n));
    }
  });
  return results;
}
template <class F>
Masked shown_map(Witness& w, const MapShape& s, const Masked& y, F f) {
  return std::move(shown_map<Word>(w, s, y, y.tokens(), f)[0]);
}

// SecretCut of the i-th token. x0: [size], what the provider holds behind cut_openly, r and d of protocol/secret_cut.h; exact: what is cut, whole.
template <class W>
Words cut_in_secret(const Witness& w, const SecretCutShape& s, std::size_t i, std::span<const W> x0,
                    std::span<const W> r, std::span<const W> d, std::span<const W> exact) {
  const std::uint32_t index = w.index(i);
  const Words delta = w.coined ? cut_coins(w.provider, s, index) : Words(s.size);
  Words out(s.size);
  for (std::size_t j = 0; j < s.size; ++j)
    out[j] = cut(static_cast<W>(x0[j] + d[j] + delta[j]), s.secret) + cut(static_cast<W>(r[j] - delta[j]), s.secret);
  if (!w.rounded) return out;
  const int drop = s.open + s.secret;
  std::vector<double> own(s.size), came(s.size), off(s.size);
  for (std::size_t j = 0; j < s.size; ++j) {
    const Word low = static_cast<Word>(r[j] + half_unit(s.secret)) & Ring{s.secret}.mask();
    own[j] = static_cast<double>(low) * power_of_two(-s.secret);
    came[j] = static_cast<double>(centre(out[j], s.out));
    const W above = (widen<W>(out[j]) << drop) - exact[j];
    off[j] = static_cast<double>(centre(static_cast<Word>(above), Ring{std::min(64, s.out.bits + drop)})) *
             power_of_two(-drop);
  }
  w.rounded({s, index, own, came, off});
  return out;
}

template <class W>
Masked attention_of(Witness& w, const AttentionShape& s, const Masked& qkv, std::span<const float> key_level) {
  const HeadShape& head = s.head();
  const std::size_t tokens = qkv.tokens(), q_rows = head.q_rows(), kv = head.kv_rows(), all = q_rows + kv;
  Timeline timeline;
  for (std::size_t t = 0; t < w.tokens; ++t) timeline.append(true);
  // q and k turned, v, all once cut; v as integers.
  Words q(tokens * q_rows), k(tokens * kv), v(tokens * kv);
  w.executor.parallel(tokens, [&](std::size_t i) {
    const std::uint32_t index = w.index(i);
    const SecretCutShape turned = head.rotated_cut();
    const Words own = w.user.words({Use::linear_mask, Site::qkv, head.layer, index}, qkv.size, qkv.format.ring);
    Words x0(qkv.token(i).begin(), qkv.token(i).end());
    subtract(x0, own);
    const auto rotate = [&](std::span<const Word> from, int drop) {
      Words z(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(all));
      turn(places(head, timeline, w.slot(i)), z);
      for (Word& word : z) word = cut(word, drop);
      return z;
    };
    const Words r = cut_masks<Word>(w.user, turned, index), whole = rotate(qkv.token(i), 0),
                z0 = rotate(x0, turned.open);
    Words d = rotate(own, turned.open);
    subtract(d, r);
    Words z = cut_in_secret<Word>(w, turned, i, z0, r, d, whole);
    for (std::size_t j = 0; j < key_level.size(); ++j) z[q_rows + j] -= encode(double{key_level[j]}, head.qk);
    std::copy_n(z.begin(), q_rows, q.begin() + static_cast<std::ptrdiff_t>(i * q_rows));
    std::copy_n(z.begin() + static_cast<std::ptrdiff_t>(q_rows), kv, k.begin() + static_cast<std::ptrdiff_t>(i * kv));

    const std::span<const Word> known = std::span(own).last(kv);
    const Words values = cut_in_secret<Word>(w, head.value_cut(), i, std::span<const Word>(x0).last(kv), known,
                                             Words(kv), value_row(qkv, head, i));
    for (std::size_t j = 0; j < kv; ++j) v[i * kv + j] = static_cast<Word>(centre(values[j], head.v.ring));
  });
  const auto keys_of = [&](const Words& of_all, std::size_t i) {  // of the token's own prompt
    const std::size_t first = (i - w.slot(i)) * kv;
    return Words(of_all.begin() + static_cast<std::ptrdiff_t>(first),
                 of_all.begin() + static_cast<std::ptrdiff_t>(first + (w.slot(i) + 1) * kv));
  };

  const auto pairs_at = [&](std::size_t slot) { return head.heads * (slot + 1); };
  const std::vector<std::size_t> at = begins_of(w, tokens, pairs_at);
  Masked scores{head.qk, pairs_at(0), Words(at[tokens])};
  w.executor.parallel(tokens, [&](std::size_t i) {
    const std::size_t n = w.slot(i) + 1;
    const std::span<Word> row = std::span(scores.words).subspan(at[i], head.heads * n);
    add_pairs(head, std::span(q).subspan(i * q_rows, q_rows), 0, keys_of(k, i), row);
    const Words noise =
        w.provider.words(scores_at(Use::score_unseen, head, w.index(i)), head.heads, Ring{head.dead_bits - 1});
    for (std::size_t j = 0; j < n; ++j) {
      for (std::size_t h = 0; h < head.heads && !head.sees(timeline, n - 1, j); ++h)
        row[h * n + j] = noise[h] - (Word{1} << head.dead_bits);
    }
  });

  std::vector<W> p(at[tokens]);
  if (s.fast) {
    w.executor.parallel(tokens, [&](std::size_t i) {
      const std::uint32_t index = w.index(i);
      const std::size_t n = w.slot(i) + 1;
      const Words own = w.user.words(scores_at(Use::score_share, head, index), head.heads * n, head.qk.ring),
                  level = head.level ? w.provider.words({Use::map_level, Site::scores, head.layer, index}, head.heads,
                                                        head.qk.ring)
                                     : Words(head.heads);
      for (std::size_t h = 0; h < head.heads; ++h) {
        const std::span<const Word> exact = std::span(scores.words).subspan(at[i] + h * n, n),
                                    s1 = std::span(own).subspan(h * n, n);
        Words a(n);
        for (std::size_t j = 0; j < n; ++j) a[j] = cut(exact[j] - s1[j] + level[h], head.shown.drop);
        std::vector<std::int64_t> shown(n);
        open(a, s1, head.shown.drop, head.shown.sent(), shown);
        RowOrder order{Permutation(n), {}};
        for (std::size_t j = 0; j < n; ++j) order.pi[j] = static_cast<std::uint32_t>(j);
        if (w.shown) {
          const std::vector<double> part = part_of(s1, head.shown.drop);
          w.shown(
              {{Site::scores, head.layer, index, h, shown, Shown::score, {.level = head.level}}, order, exact, part});
        }
        softmax_row(s, std::span<const std::int64_t>(shown), std::span(p).subspan(at[i] + h * n, n));
      }
    });
  } else {
    p = std::move(
        shown_map<W>(w, s.softmax, scores, tokens,
                     [&](std::size_t, std::size_t, auto row, auto& answers) { softmax_row(s, row, answers[0]); })[0]
            .words);
  }

  Masked out{s.values.out, q_rows, Words(tokens * q_rows)};
  w.executor.parallel(tokens, [&](std::size_t i) {
    const std::uint32_t index = w.index(i);
    const SecretCutShape mixed = s.values.mix_cut();
    std::vector<W> whole(q_rows), x0(q_rows);
    mix(head, &p[at[i]], w.slot(i) + 1, 0, keys_of(v, i), whole.data());
    auto d = w.user.words<W>(values_at(Use::value_share, s.values, index), q_rows, s.values.mixed);
    const auto r = cut_masks<W>(w.user, mixed, index);
    for (std::size_t j = 0; j < q_rows; ++j) {
      x0[j] = cut_openly(static_cast<W>(whole[j] - d[j]), mixed);
      d[j] = cut_openly(d[j], mixed) - r[j];
    }
    const Words o = cut_in_secret<W>(w, mixed, i, x0, r, d, whole);
    std::copy(o.begin(), o.end(), out.token(i).begin());
  });
  return out;
}

// Rows of the embedding table of the prompt, once for each repeat.
Masked prompt_rows(const Witness& w, const Plan& plan, const IntWeights& weights,
                   std::span<const std::uint32_t> prompt) {
  Masked rows{{plan.embed, plan.embed_frac}, plan.config.width, Words(w.rows() * plan.config.width)};
  for (std::size_t i = 0; i < w.rows(); ++i) {
    for (std::size_t d = 0; d < rows.size; ++d)
      rows.token(i)[d] = static_cast<Word>(std::int64_t{weights.embed.at(d, prompt[w.slot(i)])});
  }
  return rows;
}

}  // namespace

void add_positions(Witness& w, std::span<const float> positions, Masked& rows) {
  for (std::size_t i = 0; !positions.empty() && i < rows.tokens(); ++i) {
    const auto row = rows.token(i);
    for (std::size_t j = 0; j < row.size(); ++j)
      row[j] += encode(double{positions[w.slot(i) * row.size() + j]}, rows.format);
  }
}

Embedded<Masked> embed(Witness& w, const EmbedShape& s, const Masked& rows) {
  return embedded(
      shown_map<Word>(w, s.map, rows, rows.tokens(), [&](std::size_t, std::size_t, auto row, auto& answers) {
        const double unit = power_of_two(-s.frac);
        const RowNorm of = s.plain != 0 ? RowNorm{0, s.plain} : row_norm(row, s.frac, s.eps, s.centred);
        clear::scale(row, 0, unit, s.map.answers[0].out, answers[0]);
        clear::scale(row, of.mean, unit * of.scale, s.map.answers[1].out, answers[1]);
      }));
}

Masked norm(Witness& w, const NormShape& s, const Masked& x) {
  const int frac = x.format.frac - w.shown_by(s.map).drop;
  return shown_map(w, s.map, x, [&](std::size_t, std::size_t, auto row, auto& answers) {
    const RowNorm of = s.plain != 0 ? RowNorm{0, s.plain} : row_norm(row, frac, s.eps, s.centred);
    clear::scale(row, of.mean, power_of_two(-frac) * of.scale, s.map.answers[0].out, answers[0]);
  });
}

RowScales row_scales(Witness& w, const NormShape& s, const Masked& x) {
  RowScales scales(x.tokens());
  shown_map<Word>(w, s.map, x, x.tokens(), [&](std::size_t i, std::size_t, auto row, auto&) {
    scales[i] = row_norm(row, x.format.frac - w.shown_by(s.map).drop, s.eps, s.centred).scale;
  });
  return scales;
}

Masked attention(Witness& w, const AttentionShape& s, const Masked& qkv, std::span<const float> key_level) {
  return s.values.mixed.bits > 64 ? attention_of<Wide>(w, s, qkv, key_level) : attention_of<Word>(w, s, qkv, key_level);
}

Masked mlp(Witness& w, const MlpShape& s, const Masked& gate_up, const RowScales& scales) {
  const double unit = power_of_two(w.shown_by(s.map).drop - gate_up.format.frac);
  const Format out = s.map.answers[0].out;
  return shown_map(w, s.map, gate_up, [&](std::size_t i, std::size_t, auto row, auto& answers) {
    const double scale = unit * (scales.empty() ? 1.0 : scales[i]);
    if (!s.gated()) return clear::gelu(row, scale, out, answers[0]);
    const auto gate = row.first(row.size() / 2), up = row.last(row.size() / 2);
    s.gelu ? clear::gelu_product(gate, up, scale, out, answers[0])
           : clear::silu_product(gate, up, scale, out, answers[0]);
  });
}

Masked run_witness(Witness& w, const Plan& plan, const IntWeights& weights, std::span<const std::uint32_t> prompt,
                   std::size_t layers) {
  // With positions hidden a user sees the same.
  PERMLLM_ASSERT(prompt.size() == w.tokens && layers <= plan.config.layers && !plan.hides_positions);
  if (plan.open()) throw Error(Code::unsupported, "profile", "open hides nothing from a user");
  if (plan.config.prefix)
    throw Error(Code::unsupported, "model", "a prompt that attends both ways is not simulated yet");
  Masked x = prompt_rows(w, plan, weights, prompt);
  add_positions(w, weights.positions, x);
  NoMaterial none;
  for (std::size_t l = 0; l < layers; ++l) x = run_layer(w, plan, weights, l, x, none);
  return x;
}

void run_witness_pass(const Witness& of_rows, const Plan& plan, const IntWeights& weights, const Masked& residual) {
  Witness w = of_rows;  // a pass has its last row alone
  w.tokens = 1;
  Masked last{residual.format, residual.size, {}};
  for (std::size_t i = of_rows.tokens - 1; i < residual.tokens(); i += of_rows.tokens)
    last.words.insert(last.words.end(), residual.token(i).begin(), residual.token(i).end());
  Masked logits = linear(w, head_shape(plan), weights.head, norm(w, final_norm_shape(plan), last));
  add_constant(logits, weights.head_bias);
  shown_map(w, sample_shape(plan).map, logits, [](std::size_t, std::size_t, auto, auto&) {});
}

}  // namespace permllm
