// Value by value on the real model: after every box of a prompt's pass the two parties' parts are put together and compared
// with clear integer arithmetic that rounds where the protocol rounds, and so is every number that the user sees.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "page/open_page.h"
#include "support/activations.h"
#include "support/model.h"
#include "support/rig.h"

namespace permllm::test {

// What one party held after a box.
struct Held {
  const char* box;
  std::size_t layer;
  Format format;
  std::size_t size;
  Words words;
};

// A party that notes what each box gives it. The boxes are the release's own: these overloads call them.
template <class Party>
struct Noting : Party {
  std::vector<Held> held;
  template <Role R>
  Share<R> note(const char* box, std::size_t layer, Share<R> share) {
    held.push_back({box, layer, share.format, share.size, share.words});
    return share;
  }
};
template <class P, class Matrix, Role R>
Share<R> linear(Noting<P>& p, const LinearShape& s, const Matrix& w, const Share<R>& x) {
  return p.note("linear", s.layer, linear(static_cast<P&>(p), s, w, x));
}
template <class P, Role R>
Share<R> norm(Noting<P>& p, const NormShape& s, const Share<R>& x) {
  return p.note("norm", s.map.layer, norm(static_cast<P&>(p), s, x));
}
template <class P, Role R>
Share<R> mlp(Noting<P>& p, const MlpShape& s, const Share<R>& x, const RowScales& scales) {
  return p.note("mlp", s.map.layer, mlp(static_cast<P&>(p), s, x, scales));
}
template <class P>
auto hand(Noting<P>& p, const HandShape& s, const Words& v) {
  return p.note("hand", s.layer, hand(static_cast<P&>(p), s, v));
}
template <class P, Role R>
Share<R> attention(Noting<P>& p, const AttentionShape& s, const Share<R>& x, std::span<const float> key_level) {
  return p.note("attention", s.head().layer, attention(static_cast<P&>(p), s, x, key_level));
}
template <class P, Role R>
Embedded<Share<R>> embed(Noting<P>& p, const EmbedShape& s, const Share<R>& x) {
  auto e = embed(static_cast<P&>(p), s, x);
  p.note("embed.x", 0, e.x);
  p.note("embed.h", 0, e.h);
  return e;
}

namespace {

struct Whole {
  std::vector<Held> provider, user;
  std::vector<std::pair<Seen, std::vector<std::int64_t>>> seen;  // by the user, with copies of the values
};

// One prompt's pass, walked by noting parties.
Whole walk(const std::vector<TokenId>& ids, const Plan& plan) {
  const OfferedModel& model = smollm2();
  Rig rig(model.weights, plan, executor(), 41);
  rig.deal_for_pass(ids.size(), true);
  Timeline timeline;
  for (std::size_t i = 0; i < ids.size(); ++i) timeline.append(true);
  const Batch tokens{0, ids.size()};
  struct Material {
    Stock* stock;
    Batch tokens;
    void open(Provider& p, Part part) {
      p.batch = part.kind == Part::Kind::pass ? Batch{0, 1} : tokens;
      p.packs.clear();
      for (std::size_t i = 0; i < p.batch.count; ++i) {
        p.packs.push_back(stock->take(static_cast<std::uint8_t>(part.kind), part.layer, p.batch.index(i),
                                      Clock::now() + std::chrono::seconds(9)));
      }
    }
    void open(User& u, Part part) { u.batch = part.kind == Part::Kind::pass ? Batch{0, 1} : tokens; }
    void close(Provider&, Part) {}
    void close(User&, Part) {}
  } material{&rig.stock(), tokens};
  auto [provider_link, user_link] = memory_links();
  Channel to_user(*provider_link, 7, std::chrono::seconds(60)), to_provider(*user_link, 7, std::chrono::seconds(60));
  std::vector<ProviderKeys> provider_keys(plan.config.layers);
  std::vector<UserKeys> user_keys(plan.config.layers);
  Noting<Provider> provider{{to_user, rig.mutable_provider_coins(), executor(), timeline, provider_keys, tokens, {}, 0},
                            {}};
  Noting<User> user{{to_provider, rig.user_coins(), timeline, user_keys, executor(), tokens, nullptr, 0}, {}};
  Whole whole;
  user.observe = [&](const Seen& s) {
    whole.seen.emplace_back(s, std::vector<std::int64_t>(s.values.begin(), s.values.end()));
  };
  {
    std::jthread other([&] {
      if (plan.open()) {
        NoClear nothing;
        const Masked x =
            run_open_layers(provider, plan, model.weights, hand(provider, hand_row_shape(plan), {}), material, nothing);
        run_open_pass(provider, plan, model.weights, x.last(), material, nothing);
        return;
      }
      Masked rows =
          run_entries(provider, plan, model.weights, prompt_one_hots(provider, one_hot_shape(plan)), material);
      rows = remask(provider, embed_remask_shape(plan), std::move(rows));
      const Masked x = run_layers(provider, plan, model.weights, rows, material);
      run_pass(provider, plan, model.weights, x.last(), greedy, material);
    });
    const auto none = no_weights(plan.config);
    if (plan.open()) {
      const PublicPart part = public_part(model.weights);
      ClearSide clear(plan, part, executor());
      const Mask x =
          run_open_layers(user, plan, none, hand(user, hand_row_shape(plan), clear.begin(ids, 1)), material, clear);
      run_open_pass(user, plan, none, x.last(), material, clear);
    } else {
      Mask rows = run_entries(user, plan, none, prompt_one_hots(user, one_hot_shape(plan), ids), material);
      rows = remask(user, embed_remask_shape(plan), rows);
      const Mask x = run_layers(user, plan, none, rows, material);
      run_pass(user, plan, none, x.last(), greedy, material);
    }
  }
  whole.provider = std::move(provider.held);
  whole.user = std::move(user.held);
  return whole;
}

using Rows = std::vector<std::vector<std::int64_t>>;  // integers of a format, by token

class ValueCheck {
 public:
  ValueCheck(const std::vector<TokenId>& ids, const Variant& variant)
      : plan_(smollm2_plan(variant)), weights_(smollm2().weights), ids_(ids), whole_(walk(ids, plan_)) {}

  void run() {
    if (plan_.open()) return run_open();
    const Config& c = plan_.config;
    Rows table = next("linear");  // the embedding rows
    for (std::size_t i = 0; i < ids_.size(); ++i) {
      for (std::size_t d = 0; d < c.width; ++d) ASSERT_EQ(table[i][d], weights_.embed.at(d, ids_[i]));
    }
    Rows x;
    for (std::size_t l = 0; l < c.layers; ++l) {
      Rows h;
      if (l == 0) {
        x = next("embed.x");
        for (std::size_t i = 0; i < x.size(); ++i) {
          for (std::size_t d = 0; d < c.width; ++d)
            ASSERT_EQ(x[i][d], table[i][d] << (plan_.residual_frac - plan_.embed_frac));
        }
        h = next("embed.h");
        check_norm(x, h, l, plan_.layers[l].attention_norm);
      } else {
        h = next("norm");
        check_norm(x, h, l, plan_.layers[l].attention_norm);
        check_shown(Site::attention_norm, l, x, plan_.norm_reveal().drop);
      }
      const Rows qkv = check_linear(weights_.layers[l].qkv, plan_.qkv(l), h);
      const Rows mixed = next("attention");
      check_attention(l, qkv, mixed);
      add(x, check_linear(weights_.layers[l].o, plan_.o(l), mixed), plan_.residual_frac - plan_.o_frac(l));
      if (!plan_.fused) {
        h = next("norm");
        check_norm(x, h, l, plan_.layers[l].mlp_norm);
        check_shown(Site::mlp_norm, l, x, plan_.norm_reveal().drop);
      }
      if (plan_.fused) check_shown(Site::mlp_norm, l, x, plan_.norm_reveal().drop);
      const Rows gate_up = check_linear(weights_.layers[l].up, plan_.up(l), plan_.fused ? x : h);
      const Rows active = next("mlp");
      check_mlp(l, gate_up, active, x);
      add(x, check_linear(weights_.layers[l].down, plan_.down(l), active), plan_.residual_frac - plan_.down_frac(l));
    }
    x.erase(x.begin(), x.end() - 1);
    const Rows h = next("norm");
    check_norm(x, h, c.layers, plan_.final_norm_frac);
    check_shown(Site::final_norm, 0, x, plan_.norm_reveal().drop);
    const Rows logits = check_linear(weights_.head, plan_.head, h);
    check_shown(Site::logits, 0, logits, plan_.logit_reveal().drop, true);
    EXPECT_GT(compared_, 10'000u);
  }
  std::size_t compared() const { return compared_; }

 private:
  // Public weights: each product, each number that the user is shown, and what it computes of them.
  void run_open() {
    const Config& c = plan_.config;
    Rows x = next("hand");
    for (std::size_t i = 0; i < ids_.size(); ++i) {
      for (std::size_t d = 0; d < c.width; ++d) {
        ASSERT_EQ(x[i][d], std::int64_t{weights_.embed.at(d, ids_[i])} << (plan_.residual_frac - plan_.embed_frac));
      }
    }
    for (std::size_t l = 0; l < c.layers; ++l) {
      const Rows qkv = check_linear(weights_.layers[l].qkv, plan_.qkv(l), x);
      check_shown(Site::attention_norm, l, x, plan_.norm_reveal().drop);
      check_shown(Site::qkv, l, qkv, plan_.qkv_reveal(l).drop);
      // As if the norm had come first, in the format of the other profiles: they share the check of attention.
      Rows normed = qkv;
      for (std::size_t i = 0; i < qkv.size(); ++i) {
        const double scale = std::ldexp(1.0 / rms(x[i]), plan_.layers[l].attention_norm - plan_.residual_frac);
        for (std::int64_t& v : normed[i]) v = std::llrint(static_cast<double>(v) * scale);
      }
      const Rows mixed = next("hand");
      check_attention(l, normed, mixed);
      add(x, check_linear(weights_.layers[l].o, plan_.o(l), mixed), plan_.residual_frac - plan_.o_frac(l));
      const Rows gate_up = check_linear(weights_.layers[l].up, plan_.up(l), x);
      check_shown(Site::mlp_norm, l, x, plan_.norm_reveal().drop);
      check_shown(Site::up, l, gate_up, plan_.gate_up_reveal(l).drop);
      const Rows active = next("hand");
      check_mlp(l, gate_up, active, x);
      add(x, check_linear(weights_.layers[l].down, plan_.down(l), active), plan_.residual_frac - plan_.down_frac(l));
    }
    x.erase(x.begin(), x.end() - 1);
    const Rows logits = check_linear(weights_.head, plan_.head, x);
    check_shown(Site::final_norm, 0, x, plan_.norm_reveal().drop);
    check_shown(Site::head, 0, logits, plan_.logit_reveal().drop);
  }
  double rms(const std::vector<std::int64_t>& row) const {
    double squares = 0;
    for (const std::int64_t v : row) squares += std::pow(std::ldexp(static_cast<double>(v), -plan_.residual_frac), 2);
    return std::sqrt(squares / static_cast<double>(row.size()) + plan_.config.norm_eps);
  }
  // The two parts of the next noted value, put together.
  Rows next(const char* box) {
    const Held& p = whole_.provider.at(at_);
    const Held& u = whole_.user.at(at_);
    ++at_;
    EXPECT_STREQ(p.box, box);
    EXPECT_TRUE(p.format == u.format && p.words.size() == u.words.size());
    Rows rows(p.words.size() / p.size, std::vector<std::int64_t>(p.size));
    for (std::size_t j = 0; j < p.words.size(); ++j)
      rows[j / p.size][j % p.size] = centre(p.words[j] + u.words[j], p.format.ring);
    return rows;
  }
  // Linear is exact.
  Rows check_linear(const IntMatrix& w, Ring ring, const Rows& in) {
    const Rows out = next("linear");
    Words x;
    for (const auto& row : in) x.insert(x.end(), row.begin(), row.end());
    Words y(in.size() * w.rows());
    product(w, ring, x, y, executor());
    for (std::size_t j = 0; j < y.size(); ++j) EXPECT_EQ(out[j / w.rows()][j % w.rows()], centre(y[j], ring));
    compared_ += y.size();
    return out;
  }
  void add(Rows& x, const Rows& y, int shift) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      for (std::size_t d = 0; d < x[i].size(); ++d) {
        x[i][d] = centre(static_cast<Word>(x[i][d]) + (static_cast<Word>(y[i][d]) << shift), plan_.residual);
      }
    }
  }
  // Within one unit of the output, and what two units of the shown row make of a quiet row.
  void check_norm(const Rows& x, const Rows& h, std::size_t layer, int frac) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double size = rms(x[i]), tolerance = 1 + std::ldexp(2.0, frac - frac::norm_row) / size;
      for (std::size_t d = 0; d < x[i].size(); ++d) {
        const double want = std::ldexp(static_cast<double>(x[i][d]), frac - plan_.residual_frac) / size;
        // The rms of the cut row is a little off too.
        EXPECT_NEAR(static_cast<double>(h[i][d]), want, tolerance * (1 + std::fabs(want) * 1e-3))
            << "layer " << layer << " token " << i;
      }
      compared_ += x[i].size();
    }
  }
  // Rows as the user saw them, in any order, at any level: a cut is off by less than a unit.
  void check_shown(Site site, std::size_t layer, const Rows& values, int drop, bool level = false) {
    std::size_t token = 0;
    for (const auto& [seen, shown] : whole_.seen) {
      if (seen.site != site || seen.layer != layer) continue;
      std::vector<std::int64_t> want, got = shown;
      for (const std::int64_t v : values.at(token))
        want.push_back(static_cast<std::int64_t>(cut(static_cast<Word>(v), drop)));
      std::sort(want.begin(), want.end());
      if (level) {  // the level wraps: differences to the place after the widest gap
        const Ring ring = plan_.logit_reveal().sent();
        const std::int64_t base = got[0];
        for (std::int64_t& v : got) v = centre(static_cast<Word>(v - base), ring);
      }
      std::sort(got.begin(), got.end());
      const std::int64_t offset = level ? got[0] - want[0] : 0;
      ASSERT_EQ(got.size(), want.size());
      for (std::size_t j = 0; j < want.size(); ++j) EXPECT_LE(std::abs(got[j] - want[j] - offset), level ? 2 : 1);
      compared_ += want.size();
      ++token;
    }
    EXPECT_EQ(token, values.size());
  }
  // x: the row before the norm. Where the norm comes after the product, units of what is shown are those of the reveal, over the
  // rms, which is known to about 2^-10.
  void check_mlp(std::size_t layer, const Rows& gate_up, const Rows& active, const Rows& x) {
    const int frac_in = plan_.up_frac(layer), shown_frac = frac_in - plan_.gate_up_reveal(layer).drop;
    const std::size_t n = plan_.config.ff;
    for (std::size_t i = 0; i < active.size(); ++i) {
      const double scale = plan_.raw_up() ? 1 / rms(x[i]) : 1;
      for (std::size_t j = 0; j < n; ++j) {
        const double gate = std::ldexp(static_cast<double>(gate_up[i][j]), -frac_in) * scale,
                     up = std::ldexp(static_cast<double>(gate_up[i][n + j]), -frac_in) * scale;
        // Two units of either shown number, the rms, and the rounding of the answer.
        const double unit = std::ldexp(scale, plan_.layers[layer].activation - shown_frac),
                     off = plan_.raw_up() ? 0.004 : 0;
        const double tolerance = 1.01 + 2.3 * unit * (std::fabs(gate) + std::fabs(up)) +
                                 off * std::ldexp(std::fabs(gate * up), plan_.layers[layer].activation) + unit;
        EXPECT_NEAR(static_cast<double>(active[i][j]), std::ldexp(silu(gate) * up, plan_.layers[layer].activation),
                    tolerance)
            << "layer " << layer;
      }
      compared_ += n;
    }
  }
  void check_attention(std::size_t layer, const Rows& qkv, const Rows& mixed) {
    const Config& c = plan_.config;
    const HeadShape head = attention_shape(plan_, layer).head();
    const double v_unit = std::ldexp(1.0, -plan_.v_frac(layer)),
                 qk_unit = std::ldexp(1.0, -plan_.layers[layer].rotated);
    Timeline timeline;
    for (std::size_t i = 0; i < qkv.size(); ++i) timeline.append(true);
    Rows rotated;  // q and k as integers, exactly rotated and cut
    for (std::size_t i = 0; i < qkv.size(); ++i) {
      Words row(qkv[i].begin(), qkv[i].end());
      const auto heads = std::span(row).first(c.q_rows() + c.kv_rows());
      turn(places(head, timeline, i), heads);
      for (Word& word : heads) word = cut(word, head.qk_cut);
      rotated.emplace_back(row.begin(), row.end());
    }
    for (std::size_t i = 0; i < qkv.size(); ++i) {
      for (std::size_t h = 0; h < c.heads; ++h) {
        const std::size_t q = h * c.head_dim, k = c.q_rows() + c.kv_of(h) * c.head_dim,
                          v = c.q_rows() + c.kv_rows() + c.kv_of(h) * c.head_dim;
        std::vector<double> p(i + 1);
        double greatest = -1e300, total = 0, uncertainty = 0;
        for (std::size_t t = 0; t <= i; ++t) {
          double score = 0, slack = 0;
          for (std::size_t d = 0; d < c.head_dim; ++d) {
            const double a = static_cast<double>(rotated[i][q + d]), b = static_cast<double>(rotated[t][k + d]);
            score += a * b * qk_unit * qk_unit;
            slack += (std::fabs(a) + std::fabs(b) + 1) * qk_unit * qk_unit;  // either may be one unit low
          }
          p[t] = score / std::sqrt(static_cast<double>(c.head_dim));
          uncertainty = std::max(uncertainty, (slack + std::ldexp(2.0, -plan_.score_frac(layer))) /
                                                  std::sqrt(static_cast<double>(c.head_dim)));
          greatest = std::max(greatest, p[t]);
        }
        for (double& s : p) total += s = std::exp(s - greatest);
        for (std::size_t d = 0; d < c.head_dim; ++d) {
          double want = 0, largest = 0;
          for (std::size_t t = 0; t <= i; ++t) {
            const double value = std::ldexp(static_cast<double>(qkv[t][v + d]),
                                            -plan_.layers[layer].attention_norm - plan_.layers[layer].qkv);
            want += p[t] / total * value;
            largest = std::max(largest, std::fabs(value));
          }
          const double tolerance = 2 * uncertainty * largest + std::ldexp(2.5, -plan_.layers[layer].attention) +
                                   v_unit + largest * std::ldexp(static_cast<double>(i + 1), -frac::probability);
          EXPECT_NEAR(std::ldexp(static_cast<double>(mixed[i][h * c.head_dim + d]), -plan_.layers[layer].attention),
                      want, tolerance)
              << "layer " << layer << " token " << i;
        }
      }
      compared_ += c.q_rows();
    }
  }

  const Plan plan_;
  const IntWeights& weights_;
  std::vector<TokenId> ids_;
  Whole whole_;
  std::size_t at_ = 0, compared_ = 0;
};

class Values : public testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(Variants, Values, testing::ValuesIn(k_variants),
                         [](const auto& variant) { return variant.param.name(); });
INSTANTIATE_TEST_SUITE_P(Positions, Values, testing::Values(k_hidden_variant),
                         [](const auto& variant) { return variant.param.name(); });

TEST_P(Values, every_value_of_a_pass_is_what_clear_arithmetic_gives) {
  for (const std::size_t index : {4u, 5u, 1u}) {
    ValueCheck check(greedy_cases()[index].prompt_ids, GetParam());
    check.run();
    fmt::print("{} values compared\n", check.compared());
  }
}

}  // namespace
}  // namespace permllm::test
