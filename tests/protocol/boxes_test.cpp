// Each box at real widths: its result against clear arithmetic, its cost against the declared cost (exactly), and what
// happens when a frame is damaged.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "net/meter.h"
#include "protocol/attention.h"
#include "protocol/embed.h"
#include "protocol/mlp.h"
#include "protocol/open.h"
#include "protocol/retrieve_bfv.h"
#include "protocol/sample.h"
#include "support/activations.h"
#include "support/protocol_check.h"

namespace permllm::test {
namespace {

// One run of a box with real coins.
struct Real {
  explicit Real(Batch batch, std::size_t skip = SIZE_MAX, std::uint8_t seed = 5)
      : user(seed_of(seed)),
        helper_user(seed_of(seed)),
        helper_provider(seed_of(seed + 1)),
        provider(seed_of(seed + 1)),
        run(user, helper_user, helper_provider, provider, batch, fibers, skip),
        random(seed) {}
  static Seed seed_of(int n) {
    std::array<std::uint8_t, Seed::k_bytes> bytes{};
    bytes[0] = static_cast<std::uint8_t>(n);
    return Seed{bytes};
  }
  Words words(std::size_t n, Ring ring) {
    Words out(n);
    for (Word& w : out) w = random() & ring.mask();
    return out;
  }
  // Real numbers of a normal distribution as words of a format.
  Words values(std::size_t n, double size, Format format) {
    std::normal_distribution<double> normal(0, size);
    Words out(n);
    for (Word& w : out) w = encode(normal(random), format);
    return out;
  }
  AesCoins user, helper_user, helper_provider, provider;
  Fibers fibers;
  BoxRun run;
  std::mt19937_64 random;
};

Words minus(const Words& a, const Words& b) {
  Words out(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) out[i] = a[i] - b[i];
  return out;
}
Words sum(const Words& a, const Words& b, Ring ring) {
  Words out(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) out[i] = (a[i] + b[i]) & ring.mask();
  return out;
}

const Batch k_batches[] = {{0, 1}, {0, 3}, {4, 1}, {2, 2}};

TEST(Boxes, linear_is_exact_and_costs_what_it_declares) {
  for (const Batch batch : k_batches) {
    for (const int bits : {16, 32, 43, 64}) {
      Real real(batch);
      const LinearShape s{Site::up, 0, 21, 34, {Ring{bits}, 10}};
      const TinyMatrix u{s.rows, s.cols, real.words(s.rows * s.cols, Ring{64})},
          w{s.rows, s.cols, real.words(s.rows * s.cols, Ring{64})};
      const TinyMatrix v{s.rows, s.cols, minus(w.words, u.words)};
      const Words x = real.words(batch.count * s.cols, Ring{64}), r = real.words(x.size(), Ring{64});
      const Mask mask{{Ring{64}, 0}, s.cols, r};
      Masked y0;
      Mask m;
      real.run.offline([&](Helper& h) { linear(h, s, v, mask); }, [&](UserDealer& d) { linear(d, s, u, mask); });
      real.run.online(
          [&](Provider& p) {
            y0 = linear(p, s, w, Masked{{Ring{64}, 0}, s.cols, minus(x, r)});
          },
          [&](User& p) { m = linear(p, s, NoMatrix{}, mask); });
      Words want(batch.count * s.rows);
      Executor executor(1);
      product(w, x, want, executor);
      for (Word& word : want) word &= s.out.ring.mask();
      EXPECT_EQ(sum(y0.words, m.words, s.out.ring), want);
      EXPECT_EQ(real.run.measured(), cost(s, batch));
    }
  }
}

// What one role holds goes into no box of another, nor do bare words: such a call does not compile.
template <class Party, class Value>
constexpr bool maps = requires(Party& p, const Value& v) {
  permuted_map(p, MapShape{}, v);
};
template <class Party, class Value>
constexpr bool mixes = requires(Party& p, const Value& v) {
  values(p, ValuesShape{}, v);
};
template <class Party, class Value>
constexpr bool shares_scores = requires(Party& p, const Value& v) {
  masked_scores(p, HeadShape{}, v, std::size_t{0});
};
static_assert(maps<Provider, Masked> && !maps<Provider, Mask> && !maps<Provider, Words>);
static_assert(maps<Helper, Mask> && !maps<Helper, Masked> && !maps<Helper, Words>);
static_assert(mixes<Provider, MaskedOf<Wide>> && !mixes<Provider, MaskOf<Wide>> && !mixes<Provider, std::vector<Wide>>);
static_assert(mixes<User, MaskOf<Wide>> && !mixes<User, MaskedOf<Wide>> && !mixes<User, std::vector<Wide>>);
static_assert(mixes<Helper, Mask> && !mixes<Helper, Masked> && !mixes<Helper, Words>);
static_assert(shares_scores<Provider, Masked> && !shares_scores<Provider, Mask> && !shares_scores<Provider, Words> &&
              !shares_scores<Provider, ShownQueries>);
static_assert(shares_scores<User, ShownQueries> && !shares_scores<User, Masked> && !shares_scores<User, Mask> &&
              !shares_scores<User, Words>);

TEST(Boxes, permuted_map_answers_every_column_in_its_place) {
  for (const Batch batch : k_batches) {
    for (const auto& [growing, fewer] : {std::pair{false, 0u}, {false, 5u}, {true, 0u}}) {
      for (const bool sign : {false, true}) {
        Real real(batch);
        MapShape s{.site = Site::mlp,
                   .layer = 0,
                   .rows = 3,
                   .groups = 2,
                   .columns = growing ? 0u : 17u,
                   .fewer = fewer,
                   .in = Ring{40},
                   .reveal = {8, 32},
                   .sign = sign,
                   .answers = {{Site::mlp, {Ring{43}, 0}}, {Site::mlp_norm, {Ring{16}, 0}}}};
        std::size_t shown = 0;
        for (std::size_t i = 0; i < batch.count; ++i) shown += s.shown_at(batch.index(i));
        const Words y = real.values(shown, 1000, {Ring{64}, 8}), m = real.words(shown, s.in);
        std::vector<Masked> b;
        std::vector<Mask> r;
        real.run.offline([&](Helper& h) { permuted_map(h, s, Mask{{s.in, 0}, m.size(), m}); });
        real.run.online(
            [&](Provider& p) {
              b = permuted_map(p, s, Masked{{s.in, 0}, m.size(), minus(y, m)});
            },
            [&](User& u) {
              r = permuted_map(u, s, [&](std::size_t, std::size_t, auto row, auto& out) {
                const std::size_t n = row.size() / 2;
                for (std::size_t j = 0; j < n; ++j) {
                  out[0][j] = static_cast<Word>(row[n + j]) * static_cast<Word>(row[j]);
                  out[1][j] = static_cast<Word>(row[n + j]);
                }
              });
            });
        std::size_t at = 0, answer = 0;
        for (std::size_t i = 0; i < batch.count; ++i) {
          for (std::size_t row = 0, n = 0; row < s.rows; ++row, at += 2 * n, answer += n) {
            n = s.columns_at(batch.index(i)) - (row == 2 ? fewer : 0);
            for (std::size_t j = 0; j < n; ++j) {
              // A cut is off by less than a unit.
              const double group0 = static_cast<double>(centre(y[at + j], s.in)) / 256,
                           group1 = static_cast<double>(centre(y[at + n + j], s.in)) / 256;
              const auto second =
                  static_cast<double>(centre(b[1].words[answer + j] + r[1].words[answer + j], Ring{16}));
              EXPECT_NEAR(second, group1, 1.0);
              const auto first = static_cast<double>(centre(b[0].words[answer + j] + r[0].words[answer + j], Ring{43}));
              EXPECT_NEAR(first, group0 * group1, std::fabs(group0) + std::fabs(group1) + 1);
            }
          }
        }
        EXPECT_EQ(at, shown);
        EXPECT_EQ(real.run.measured(), cost(s, batch));
      }
    }
  }
}

// Also once the mean is taken away, which shifts all entries by a third of their size here.
TEST(Boxes, norm_divides_by_the_rms) {
  for (const Batch batch : k_batches) {
    for (const double size : {0.08, 3.0, -3.0, 1000.0}) {
      const bool centred = size < 0;
      Real real(batch);
      NormShape s{{.site = Site::mlp_norm,
                   .layer = 0,
                   .columns = 576,
                   .in = Ring{48},
                   .reveal = {10, 38},
                   .answers = {{Site::mlp_norm, {Ring{32}, 10}}}},
                  1e-5,
                  centred};
      const Format in{Ring{48}, 26};
      Words x = real.values(batch.count * 576, std::fabs(size), in);
      if (centred) std::for_each(x.begin(), x.end(), [&](Word& word) { word += encode(1, in); });
      const Words m = real.words(x.size(), in.ring);
      Masked h;
      Mask r;
      real.run.offline([&](Helper& p) { norm(p, s, Mask{in, 576, m}); });
      real.run.online(
          [&](Provider& p) {
            h = norm(p, s, Masked{in, 576, minus(x, m)});
          },
          [&](User& u) {
            r = norm(u, s, Mask{in, 576, m});
          });
      for (std::size_t i = 0; i < batch.count; ++i) {
        double mean = 0, squares = 0;
        for (std::size_t j = 0; j < 576 && centred; ++j) mean += decode(x[i * 576 + j], in) / 576;
        for (std::size_t j = 0; j < 576; ++j) squares += std::pow(decode(x[i * 576 + j], in) - mean, 2);
        const double rms = std::sqrt(squares / 576 + 1e-5);
        for (std::size_t j = 0; j < 576; ++j) {
          const double got = decode(h.token(i)[j] + r.token(i)[j], {Ring{32}, 10});
          EXPECT_NEAR(got, (decode(x[i * 576 + j], in) - mean) / rms, 0.0006 + 2.0 / 65536 / rms);
        }
      }
      EXPECT_EQ(real.run.measured(), cost(s, batch));
    }
  }
}

TEST(Boxes, mlp_multiplies_silu_of_gate_by_up) {
  for (const Batch batch : k_batches) {
    Real real(batch);
    MlpShape s{{.site = Site::mlp,
                .layer = 0,
                .groups = 2,
                .columns = 50,
                .in = Ring{32},
                .reveal = {11, 21},
                .sign = true,
                .answers = {{Site::mlp, {Ring{43}, 10}}}}};
    const Format in{Ring{32}, 21};
    const Words y = real.values(batch.count * 100, 5, in), m = real.words(y.size(), in.ring);
    Masked a;
    Mask r;
    real.run.offline([&](Helper& p) { mlp(p, s, Mask{in, 100, m}, {}); });
    real.run.online(
        [&](Provider& p) {
          a = mlp(p, s, Masked{in, 100, minus(y, m)}, {});
        },
        [&](User& u) {
          r = mlp(u, s, Mask{in, 100, m}, {});
        });
    for (std::size_t i = 0; i < batch.count; ++i) {
      for (std::size_t j = 0; j < 50; ++j) {
        const double gate = decode(y[i * 100 + j], in), up = decode(y[i * 100 + 50 + j], in);
        EXPECT_NEAR(decode(a.token(i)[j] + r.token(i)[j], {Ring{43}, 10}), silu(gate) * up,
                    (std::fabs(up) * 1.1 + std::fabs(gate) + 2) / 512);
      }
    }
    EXPECT_EQ(real.run.measured(), cost(s, batch));
  }
}

TEST(Boxes, embed_shows_a_row_once_and_answers_twice) {
  for (const Batch batch : k_batches) {
    Real real(batch);
    EmbedShape s{{.site = Site::embed_residual,
                  .columns = 64,
                  .in = Ring{16},
                  .reveal = {0, 16},
                  .answers = {{Site::embed_residual, {Ring{48}, 26}}, {Site::embed_norm, {Ring{64}, 10}}}},
                 1e-5,
                 false,
                 12};
    const Format in{Ring{16}, 12};
    const Words x = real.values(batch.count * 64, 0.2, in), m = real.words(x.size(), in.ring);
    Embedded<Masked> a;
    Embedded<Mask> r;
    real.run.offline([&](Helper& p) { embed(p, s, Mask{in, 64, m}); });
    real.run.online(
        [&](Provider& p) {
          a = embed(p, s, Masked{in, 64, minus(x, m)});
        },
        [&](User& u) {
          r = embed(u, s, Mask{in, 64, m});
        });
    for (std::size_t i = 0; i < x.size(); ++i)
      EXPECT_EQ(decode(a.x.words[i] + r.x.words[i], {Ring{48}, 26}), decode(x[i], in));
    EXPECT_EQ(a.h.words.size(), x.size());
    EXPECT_EQ(real.run.measured(), cost(s, batch));
  }
}

TEST(Boxes, a_sampled_token_is_retrieved_exactly) {
  for (const std::size_t vocab : {257u, 4097u, 49152u, 262144u}) {
    Real real({3, 1});
    const Ring in{32};
    SampleShape s{{.site = Site::logits,
                   .columns = vocab,
                   .in = in,
                   .reveal = {10, 22},
                   .level = true,
                   .answers = {{Site::logits, {Ring{16}, 0}}}}};
    const std::size_t best = vocab * 2 / 3;
    Words y = real.values(vocab, 5, {in, 20});
    y[best] = encode(60, {in, 20});
    const Words m = real.words(vocab, in);
    std::uint32_t id = 0;
    const auto greatest = [](std::span<const std::int64_t> logits) {
      return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    };
    real.run.offline([&](Helper& p) { sample(p, s, Mask{{in, 20}, vocab, m}, greatest); });
    real.run.online(
        [&](Provider& p) {
          retrieve(p, sample(p, s, Masked{{in, 20}, vocab, minus(y, m)}, greatest));
        },
        [&](User& u) {
          id = retrieve(u, sample(u, s, Mask{{in, 20}, vocab, m}, greatest))[0];
        });
    EXPECT_EQ(id, best);
    Cost declared = cost(s, {3, 1}) + retrieve_cost(Ring{16});
    declared.rounds += 1;  // here nothing else travels with the digits
    EXPECT_EQ(real.run.measured(), declared);
  }
}

// Both ways, from one sampled token: the place of the entry in its block and in the order does not matter.
TEST(Boxes, a_token_is_retrieved_by_bfv_as_by_the_linear_word) {
  for (const std::size_t vocab : {257u, 4096u, 4097u, 49152u, 130528u, 151936u, 262144u}) {
    for (const std::size_t best : {std::size_t{0}, std::min<std::size_t>(4095, vocab / 2), vocab * 2 / 3, vocab - 1}) {
      constexpr std::uint32_t k_pass = 3;
      Real real({k_pass, 1});
      const Ring in{32};
      const SampleShape s{{.site = Site::logits,
                           .columns = vocab,
                           .in = in,
                           .reveal = {10, 22},
                           .level = true,
                           .answers = {{Site::logits, {Ring{16}, 0}}}}};
      const BfvShape bfv{he::parameters_of(vocab), s.map};
      Words y(vocab), m = real.words(vocab, in);
      y[best] = encode(60, {in, 20});
      BfvUser user(bfv, Real::seed_of(9));
      BfvProvider provider(bfv, user.key(7), 7);
      std::size_t position = 0;
      const auto greatest = [&](std::span<const std::int64_t> logits) {
        return position = static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
      };
      std::uint32_t linear = 0, by_bfv = 0;
      Bytes query;
      real.run.offline(
          [&](Helper& p) {
            sample(p, s, Mask{{in, 20}, vocab, m}, greatest);
          },
          [&](UserDealer&) {
            Writer writer;
            user.query(k_pass).visit(writer);
            query = writer.take();
          });
      EXPECT_EQ(query.size(), query_cost(bfv).offline.user_to_provider);
      real.run.online(
          [&](Provider& p) {
            he::Query received{bfv.parameters, {}, {}};
            Reader reader("Query", query);
            received.visit(reader);
            provider.prepare(std::move(received));
            const Masked one_hot = sample(p, s, Masked{{in, 20}, vocab, minus(y, m)}, greatest);
            provider.answer(p.user.receive(RetrievalIndex{}), p.with_helper, k_pass);
            p.user.send(provider.reply());
            retrieve(p, one_hot);
          },
          [&](User& u) {
            const Mask one_hot = sample(u, s, Mask{{in, 20}, vocab, m}, greatest);
            u.provider.send(user.choose(k_pass, position));
            by_bfv = user.open(u.provider.receive(RetrievalReply{}));
            linear = retrieve(u, one_hot)[0];
          });
      EXPECT_EQ(linear, best) << vocab;
      EXPECT_EQ(by_bfv, best) << vocab;
      Cost declared = cost(s, {k_pass, 1}) + retrieve_cost(Ring{16}) + index_cost() + reply_cost(true);
      EXPECT_EQ(real.run.measured(), declared);
    }
  }
}

// The level is uniform in the ring: often it makes the logits wrap between two of them.
TEST(Boxes, the_greatest_logit_is_chosen_whatever_the_level_is) {
  for (std::uint8_t seed = 1; seed < 60; seed = static_cast<std::uint8_t>(seed + 2)) {
    Real real({0, 1}, SIZE_MAX, seed);
    const Format in{Ring{32}, 20};
    SampleShape s{{.site = Site::logits,
                   .columns = 50,
                   .in = in.ring,
                   .reveal = {10, 22},
                   .level = true,
                   .answers = {{Site::logits, {Ring{16}, 0}}}}};
    const Words y = real.values(50, 300, in), m = real.words(50, in.ring);
    std::size_t best = 0;
    for (std::size_t j = 0; j < 50; ++j) best = centre(y[j], in.ring) > centre(y[best], in.ring) ? j : best;
    std::uint32_t id = 0;
    const auto greatest = [](std::span<const std::int64_t> logits) {
      return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    };
    real.run.offline([&](Helper& p) { sample(p, s, Mask{in, 50, m}, greatest); });
    real.run.online(
        [&](Provider& p) {
          retrieve(p, sample(p, s, Masked{in, 50, minus(y, m)}, greatest));
        },
        [&](User& u) {
          id = retrieve(u, sample(u, s, Mask{in, 50, m}, greatest))[0];
        });
    EXPECT_EQ(id, best) << static_cast<int>(seed);
  }
}

TEST(Boxes, remask_and_one_hots_cost_what_they_declare) {
  for (const Batch batch : k_batches) {
    Real real(batch);
    const RemaskShape s{Use::last_row, Site::final_norm, 33, {Ring{48}, 26}};
    const Words y = real.words(batch.count * 33, Ring{48}), m = real.words(y.size(), Ring{48});
    Masked moved;
    Mask r;
    real.run.online(
        [&](Provider& p) {
          moved = remask(p, s, Masked{s.format, 33, minus(y, m)});
        },
        [&](User& u) {
          r = remask(u, s, Mask{s.format, 33, m});
        });
    EXPECT_EQ(sum(moved.words, r.words, Ring{48}), y);
    EXPECT_EQ(real.run.measured(), cost(s, batch));

    Real other(batch);
    const OneHotShape h{Site::prompt_one_hot, 300, Ring{16}};
    std::vector<std::uint32_t> ids(batch.count, 299);
    Masked e0;
    Mask e1;
    other.run.online([&](Provider& p) { e0 = prompt_one_hots(p, h); },
                     [&](User& u) { e1 = prompt_one_hots(u, h, ids); });
    const Words e = sum(e0.words, e1.words, Ring{16});
    for (std::size_t i = 0; i < e.size(); ++i) EXPECT_EQ(e[i], i % 300 == 299 ? 1u : 0u);
    EXPECT_EQ(other.run.measured(), cost(h, batch));
  }
}

// Radians a position, of each pair of a head: base 10000 (RoPE, arXiv 2104.09864).
std::vector<double> rope(std::size_t dim) {
  std::vector<double> frequencies;
  for (std::size_t i = 0; i < dim; i += 2)
    frequencies.push_back(std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(dim)));
  return frequencies;
}

// A whole conversation of the attention box: a prompt of five slots, then three single ones, one of them after a skipped slot.
// Returns what the user can tell of the last query's level: the skipped key's score less the first key's (fast, head 0).
std::int64_t check_attention(bool fast, Ring mixed_ring, Ring out_ring, int provider_seed = 2) {
  std::int64_t told = 0;
  constexpr std::size_t k_heads = 4, k_kv = 2, k_dim = 8, k_q = k_heads * k_dim, k_v = k_kv * k_dim, k_slots = 9,
                        k_skipped = 6;
  AttentionShape s;
  const int qkv_frac = 10 + 10, qk_cut = 10 + 10 + 10 - 12, v_cut = 10 + 10 - 12;
  s.values.head = {.layer = 0,
                   .heads = k_heads,
                   .kv_heads = k_kv,
                   .head_dim = k_dim,
                   .rope = rope(k_dim),
                   .rope_frac = 10,
                   .qk_cut = qk_cut,
                   .qk = {Ring{64 - qk_cut}, 12},
                   .v_cut = v_cut,
                   .v = {Ring{64 - v_cut}, 12},
                   .dead_bits = 14 + 32 - 2,
                   .shown = {14, 32}};
  s.fast = fast;
  s.values.mixed = mixed_ring;
  s.values.cut = 18;
  s.values.out = {out_ring, 10};
  s.softmax = {.site = Site::scores,
               .layer = 0,
               .rows = k_heads,
               .in = Ring{64 - qk_cut},
               .reveal = {14, 32},
               .level = true,
               .answers = {{Site::scores, {mixed_ring, 16}}}};
  s.unit = std::ldexp(1.0, -10) / std::sqrt(static_cast<double>(k_dim));
  s.weight_frac = 16;
  const Format in{Ring{64}, qkv_frac};

  Real source({0, 1});
  const Words qkv = source.values(k_slots * (k_q + 2 * k_v), 1.5, in);
  const auto at = [&](std::size_t slot, std::size_t i) { return decode(qkv[slot * (k_q + 2 * k_v) + i], in); };
  // Clear arithmetic: positions skip the slot that was given up.
  const auto position = [](std::size_t slot) { return static_cast<double>(slot > k_skipped ? slot - 1 : slot); };
  const auto rotated_at = [&](std::size_t slot, std::size_t base, std::size_t d) {
    const double angle = position(slot) * std::pow(10000.0, -2.0 * static_cast<double>(d / 2) / k_dim);
    const double a = at(slot, base + d / 2 * 2), b = at(slot, base + d / 2 * 2 + 1);
    return d % 2 == 0 ? a * std::cos(angle) - b * std::sin(angle) : a * std::sin(angle) + b * std::cos(angle);
  };
  const auto expected = [&](std::size_t slot, std::size_t head, std::size_t d) {
    std::vector<double> score(slot + 1);
    double total = 0, mixed = 0;
    const std::size_t kv = head / 2;
    for (std::size_t t = 0; t <= slot; ++t) {
      double q_k = 0;
      for (std::size_t i = 0; i < k_dim; ++i)
        q_k += rotated_at(slot, head * k_dim, i) * rotated_at(t, k_q + kv * k_dim, i);
      score[t] = t == k_skipped ? 0 : std::exp(q_k / std::sqrt(8.0));
      total += score[t];
    }
    for (std::size_t t = 0; t <= slot; ++t) mixed += score[t] / total * at(t, k_q + k_v + kv * k_dim + d);
    return mixed;
  };

  AesCoins user(Real::seed_of(1)), helper_user(Real::seed_of(1)), helper_provider(Real::seed_of(provider_seed)),
      provider(Real::seed_of(provider_seed));
  Fibers fibers;
  std::vector<ProviderKeys> provider_keys(1);
  std::vector<UserKeys> user_keys(1);
  for (const Batch batch : {Batch{0, 5}, Batch{5, 1}, Batch{6, 1}, Batch{7, 1}, Batch{8, 1}}) {
    BoxRun run(user, helper_user, helper_provider, provider, batch, fibers,
               batch.first > k_skipped ? k_skipped : SIZE_MAX);
    run.provider_keys() = provider_keys;
    run.user_keys() = user_keys;
    const std::size_t rows = k_q + 2 * k_v;
    const Words x(qkv.begin() + static_cast<std::ptrdiff_t>(batch.first * rows),
                  qkv.begin() + static_cast<std::ptrdiff_t>((batch.first + batch.count) * rows));
    const Words m = source.words(x.size(), Ring{64});
    Masked out;
    Mask r;
    run.offline([&](Helper& h) { attention(h, s, Mask{in, rows, m}); });
    run.online(
        [&](Provider& p) {
          out = attention(p, s, Masked{in, rows, minus(x, m)});
          if (batch.first == k_skipped) skip_slot(p, s, k_skipped);
        },
        [&](User& u) {
          u.observe = [&](const Seen& seen) {
            if (seen.row == 0 && seen.index == k_slots - 1)
              told = centre(static_cast<Word>(seen.values[k_skipped] - seen.values[0]), Ring{32});
          };
          r = attention(u, s, Mask{in, rows, m});
          if (batch.first == k_skipped) skip_slot(u, s, k_skipped);
        });
    EXPECT_EQ(run.measured(), cost(s, batch));
    for (std::size_t i = 0; i < batch.count && batch.first != k_skipped; ++i) {
      for (std::size_t j = 0; j < k_q; ++j) {
        EXPECT_NEAR(decode(out.token(i)[j] + r.token(i)[j], s.values.out),
                    expected(batch.first + i, j / k_dim, j % k_dim), 0.012);
      }
    }
    provider_keys = run.provider_keys();
    user_keys = run.user_keys();
  }
  return told;
}
TEST(Boxes, attention_is_softmax_of_scores_times_values) {
  for (const bool fast : {false, true}) {
    check_attention(fast, Ring{61}, Ring{43});
    check_attention(fast, Ring{74}, Ring{56});  // words of 128 bits
  }
}

// A skipped key lies below all others, but by an amount that only provider and helper know.
TEST(Boxes, a_skipped_key_does_not_tell_the_level) {
  const std::int64_t one = check_attention(true, Ring{61}, Ring{43}, 2),
                     other = check_attention(true, Ring{61}, Ring{43}, 4);
  for (const std::int64_t told : {one, other}) {
    EXPECT_LT(told, -(std::int64_t{1} << 28));
    EXPECT_GT(told, -(std::int64_t{1} << 31));
  }
  EXPECT_GT(std::abs(one - other), 1 << 20);
}

// A batch of more queries than one block: the same values and the declared cost, whatever the blocks. With a window, keys
// beyond it take no part, and all of a row's look alike, so that many tell no more of the level than one.
void check_long_batch(bool fast, std::size_t window) {
  constexpr std::size_t k_dim = 4, k_rows = 3 * k_dim, k_count = k_query_block + 3;
  Real real({0, k_count});
  AttentionShape s;
  s.values.head = {.layer = 0,
                   .heads = 1,
                   .kv_heads = 1,
                   .head_dim = k_dim,
                   .rope = rope(k_dim),
                   .rope_frac = 10,
                   .qk_cut = 18,
                   .qk = {Ring{46}, 12},
                   .v_cut = 8,
                   .v = {Ring{56}, 12},
                   .dead_bits = 44,
                   .shown = {14, 32}};
  s.fast = fast;
  s.values.head.window = window;
  s.values.mixed = Ring{61};
  s.values.cut = 18;
  s.values.out = {Ring{43}, 10};
  s.softmax = {.site = Site::scores,
               .layer = 0,
               .rows = 1,
               .in = Ring{46},
               .reveal = {14, 32},
               .level = true,
               .answers = {{Site::scores, {Ring{61}, 16}}}};
  s.unit = std::ldexp(1.0, -10) / std::sqrt(static_cast<double>(k_dim));
  s.weight_frac = 16;
  const Format in{Ring{64}, 20};
  Words qkv = real.values(k_count * k_rows, 1, in);
  // Queries of 0: each output is the mean of the values so far.
  for (std::size_t i = 0; i < k_count; ++i)
    std::fill_n(qkv.begin() + static_cast<std::ptrdiff_t>(i * k_rows), k_dim, Word{0});
  const Words m = real.words(qkv.size(), in.ring);
  Masked out;
  Mask r;
  real.run.offline([&](Helper& h) { attention(h, s, Mask{in, k_rows, m}); });
  real.run.online(
      [&](Provider& p) {
        out = attention(p, s, Masked{in, k_rows, minus(qkv, m)});
      },
      [&](User& u) {
        u.observe = [&](const Seen& seen) {
          std::vector<std::int64_t> row(seen.values.begin(), seen.values.end());
          for (std::int64_t& v : row) v = centre(static_cast<Word>(v - seen.values.back()), Ring{32});
          std::sort(row.begin(), row.end());
          const std::int64_t greatest = row.back();
          for (std::int64_t& v : row) v -= greatest;
          const std::size_t unseen = window != 0 && row.size() > window ? row.size() - window : 0;
          if (unseen == 0) return;
          EXPECT_LE(row[unseen - 1] - row[0], 1);
          EXPECT_LT(row[unseen - 1], -(std::int64_t{1} << 28));
          EXPECT_GT(row[unseen], -(std::int64_t{1} << 20));
        };
        r = attention(u, s, Mask{in, k_rows, m});
      });
  EXPECT_EQ(real.run.measured(), cost(s, {0, k_count}));
  std::vector<double> sum(k_dim);
  for (std::size_t i = 0; i < k_count; ++i) {
    for (std::size_t d = 0; d < k_dim; ++d) {
      sum[d] += decode(qkv[i * k_rows + 2 * k_dim + d], in);
      if (window != 0 && i >= window) sum[d] -= decode(qkv[(i - window) * k_rows + 2 * k_dim + d], in);
      const std::size_t keys = window != 0 ? std::min(i + 1, window) : i + 1;
      EXPECT_NEAR(decode(out.token(i)[d] + r.token(i)[d], s.values.out), sum[d] / static_cast<double>(keys), 0.005)
          << i;
    }
  }
}
TEST(Boxes, a_long_batch_of_queries_goes_in_blocks) {
  for (const bool fast : {false, true}) check_long_batch(fast, 0);
}
TEST(Boxes, keys_beyond_a_window_take_no_part_and_do_not_tell_the_level) {
  for (const bool fast : {false, true}) check_long_batch(fast, 16);
}

TEST(Boxes, mlp_without_a_gate_is_gelu_and_divides_fused_rows) {
  for (const bool fused : {false, true}) {
    Real real({0, 3});
    MlpShape s{{.site = Site::mlp,
                .layer = 0,
                .groups = 1,
                .columns = 50,
                .in = Ring{40},
                .reveal = {5, 32},
                .answers = {{Site::mlp, {Ring{43}, 10}}}}};
    const Format in{Ring{40}, 21};
    const RowScales scales = fused ? RowScales{2, 0.5, 1} : RowScales{};
    const Words y = real.values(150, 3, in), m = real.words(y.size(), in.ring);
    Masked a;
    Mask r;
    real.run.offline([&](Helper& p) { mlp(p, s, Mask{in, 50, m}, {}); });
    real.run.online(
        [&](Provider& p) {
          a = mlp(p, s, Masked{in, 50, minus(y, m)}, {});
        },
        [&](User& u) {
          r = mlp(u, s, Mask{in, 50, m}, scales);
        });
    for (std::size_t j = 0; j < y.size(); ++j) {
      EXPECT_NEAR(decode(a.words[j] + r.words[j], {Ring{43}, 10}),
                  gelu(decode(y[j], in) * (fused ? scales[j / 50] : 1.0)), 0.001);
    }
    EXPECT_EQ(real.run.measured(), cost(s, {0, 3}));
  }
}

// Rows from quiet ones to attention sinks, in one ring; nothing is answered and nobody waits.
TEST(Boxes, row_scales_are_known_to_the_user_at_every_size) {
  for (const Batch batch : k_batches) {
    for (const double size : {0.02, 0.08, 1.0, 7.0, 60.0, 1000.0, 6000.0}) {
      Real real(batch);
      const Format in{Ring{56}, 20};
      const NormShape s{
          {.site = Site::mlp_norm, .layer = 0, .columns = 576, .in = in.ring, .reveal = {4, 35}, .answers = {}}, 1e-5};
      Words x = real.values(batch.count * 576, size / 10, in);
      for (std::size_t i = 0; i < batch.count; ++i) x[i * 576 + 7] = encode(size * 23.8, in);  // one massive entry
      const Words m = real.words(x.size(), in.ring);
      RowScales scales;
      real.run.offline([&](Helper& p) { row_scales(p, s, Mask{in, 576, m}); });
      real.run.online(
          [&](Provider& p) {
            row_scales(p, s, Masked{in, 576, minus(x, m)});
          },
          [&](User& u) {
            scales = row_scales(u, s, Mask{in, 576, m});
          });
      for (std::size_t i = 0; i < batch.count; ++i) {
        double squares = 0;
        for (std::size_t j = 0; j < 576; ++j) squares += std::pow(decode(x[i * 576 + j], in), 2);
        EXPECT_NEAR(scales[i] * std::sqrt(squares / 576 + 1e-5), 1.0, 0.001) << size;
      }
      // No wait of its own: the user's first message of the box that follows answers it.
      Cost declared = cost(s, batch);
      EXPECT_EQ(declared.rounds, 0u);
      declared.rounds = real.run.measured().rounds;
      EXPECT_EQ(real.run.measured(), declared);
    }
  }
}

TEST(Boxes, handed_values_are_shown_after_a_product) {
  for (const Batch batch : k_batches) {
    Real real(batch);
    const HandShape h{Site::hand_row, 0, 34, {Ring{48}, 20}};
    const LinearShape l{Site::up, 0, 21, 34, {Ring{48}, 30}, true};
    const ShowShape s{Site::attention_norm, Site::up, 0, h.format, l.out, 34, 21, {4, 40}, {14, 32}};
    const TinyMatrix w{l.rows, l.cols, real.words(l.rows * l.cols, Ring{10})};
    const Words v = real.values(batch.count * 34, 0.5, h.format);
    ShownPair seen;
    real.run.offline([&](Helper& p) { linear(p, l, w, hand(p, h, {})); });
    real.run.online(
        [&](Provider& p) {
          const Masked x0 = hand(p, h, {});
          show(p, s, x0, linear(p, l, w, x0));
        },
        [&](User& u) {
          const Mask r = hand(u, h, v);
          seen = show(u, s, r, linear(u, l, NoMatrix{}, r));
        });
    Words want(batch.count * 21);
    Executor executor(1);
    product(w, v, want, executor);
    for (std::size_t j = 0; j < v.size(); ++j) EXPECT_NEAR(seen.x.values[j], decode(v[j], h.format), 2.0 / 65536);
    for (std::size_t j = 0; j < want.size(); ++j) EXPECT_NEAR(seen.y.values[j], decode(want[j], l.out), 2.0 / 65536);
    EXPECT_EQ(real.run.measured(), cost(h, batch) + cost(l, batch) + cost(s, batch));
  }
}

// --- Damaged frames ---------------------------------------------------------------------------------------------------

// Runs a map with every frame tampered in one way; both sides must end, at least one with an Error.
void expect_error(const std::function<void(int, Frame&)>& tamper, const std::string& text) {
  Real real({0, 1});
  MapShape s{.site = Site::mlp,
             .layer = 0,
             .columns = 5,
             .in = Ring{32},
             .reveal = {0, 32},
             .answers = {{Site::mlp, {Ring{32}, 0}}}};
  const Words m = real.words(5, s.in);
  real.run.offline([&](Helper& h) { permuted_map(h, s, Mask{{s.in, 0}, m.size(), m}); });
  real.fibers.tamper = tamper;
  try {
    real.run.online(
        [&](Provider& p) {
          permuted_map(p, s, Masked{{s.in, 0}, m.size(), m});
        },
        [&](User& u) { permuted_map(u, s, [](std::size_t, std::size_t, auto, auto&) {}); });
    ADD_FAILURE() << "a damaged frame was taken: " << text;
  } catch (const Error& error) {
    const bool named = std::string(error.what()).find(text) != std::string::npos || error.code() == Code::closed;
    EXPECT_TRUE(named) << error.what();
  }
}

TEST(Boxes, damaged_frames_give_an_error_that_names_them) {
  for (const int to : {0, 1}) {
    expect_error(
        [=](int side, Frame& f) {
          if (side == to) f.payload.pop_back();
        },
        "bytes are left, the plan says");
    expect_error(
        [=](int side, Frame& f) {
          if (side == to) f.payload.push_back(0);
        },
        "more than the plan says");
    expect_error(
        [=](int side, Frame& f) {
          if (side == to) f.payload.clear();
        },
        "bytes are left");
    expect_error(
        [=](int side, Frame& f) {
          if (side == to) f.tag = static_cast<std::uint16_t>(Tag::masked_mix);
        },
        "frame.tag");
    expect_error(
        [=](int side, Frame& f) {
          if (side == to) f.tag = 999;
        },
        "frame.tag");
    expect_error(
        [=](int side, Frame& f) {
          if (side == to) f.session += 1;
        },
        "frame.session");
  }
}

TEST(BoxesDeathTest, a_mask_that_was_spent_protects_no_second_message) {
  AesCoins coins(Real::seed_of(1));
  const Address first{Use::map_answer, Site::mlp, 0, 4}, second{Use::map_answer, Site::mlp, 0, 5};
  EXPECT_EQ(coins.words(first, 3, Ring{32}), coins.words(first, 3, Ring{32}));  // deriving is not using
  coins.spend(first, 3, Ring{32});
  coins.spend(second, 3, Ring{32});
  EXPECT_DEATH(coins.spend(second, 3, Ring{32}), "broken invariant");
  EXPECT_DEATH(coins.spend(first, 3, Ring{32}), "broken invariant");
}

}  // namespace
}  // namespace permllm::test
