// Each box of the protocol by itself at the shapes of real models: what the helper computes to deal one call (`deal`; for
// Linear also the user's part, `prepare`), and what provider and user compute online together (`online`), in one thread.
// Products of matrices cost nothing here: ring_bench, int_bench and offline_bench measure those.
//
// Times are processor time of that thread, so that other programs disturb them less; the counters come of their median.
// Elements are words that the box puts out or shows; in attention they are pairs (head, key). `nothing` is the harness alone.
// Values are `narrow` where p.v fits 64 bits and `wide` where it does not.
#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <functional>
#include <string>

#include "model/synthetic.h"
#include "page/deal.h"
#include "plan/shapes.h"
#include "support/protocol_check.h"

namespace permllm {
namespace {

// --- One call of a box, by party --------------------------------------------------------------------------------------

// What the parties remember of earlier slots, in one layer.
struct Caches {
  std::vector<ProviderKeys> provider{1};
  std::vector<UserKeys> user{1};

  template <class F>
  void each(const F& f) {
    for (Words* words : {&provider[0].key, &provider[0].lift, &user[0].mask, &user[0].shown, &user[0].lift,
                         &provider[0].reshare.narrow}) {
      f(*words);
    }
    f(provider[0].reshare.wide);
  }
  // Moves them into a run, or back out of it.
  void exchange(test::BoxRun& run) {
    provider.swap(run.provider_keys());
    user.swap(run.user_keys());
  }
};

struct Box {
  Batch batch;
  Cost cost;
  std::size_t elements = 0;
  std::function<void(Helper&)> deal;
  std::function<void(UserDealer&)> prepare;
  std::function<void(Provider&)> provide;
  std::function<void(User&)> use;
  Caches caches = {};
  std::size_t cached = 0;  // words of each cache before the call
};

template <class... F>
struct Parties : F... {
  using F::operator()...;
};
template <class... F>
Parties(F...) -> Parties<F...>;

// Any words do: no party's steps depend on values.
template <class W = Word>
std::vector<W> words(std::size_t n, Ring ring) {
  std::vector<W> out(n);
  for (std::size_t j = 0; j < n; ++j) out[j] = static_cast<W>(j * 0x9e3779b97f4a7c15u) & ring.mask<W>();
  return out;
}

// call(party, value): the box over `size` words a token.
template <class Call>
Box box(Batch batch, const Cost& cost, std::size_t elements, Format in, std::size_t size, const Call& call) {
  const Mask r{in, size, words(batch.count * size, in.ring)};
  const Masked x0{in, size, r.words};
  return {batch,
          cost,
          elements,
          [=](Helper& p) { call(p, r); },
          [=](UserDealer& p) { call(p, r); },
          [=](Provider& p) { call(p, x0); },
          [=](User& p) { call(p, r); }};
}

// --- Measuring --------------------------------------------------------------------------------------------------------

enum class Phase { deal, prepare, online };

template <class F>
double seconds(const F& run) {
  const auto now = [] {
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  const double begin = now();
  run();
  return now() - begin;
}

Seed seed_of(std::uint8_t number) {
  std::array<std::uint8_t, Seed::k_bytes> bytes{};
  bytes[0] = number;
  return Seed{bytes};
}

void measure(benchmark::State& state, Phase phase, const std::function<Box()>& make) {
  Box box = make();
  test::Fibers fibers;
  fibers.keep_received = false;
  const auto call = [&] {
    // Coins protect one message each, so every call has its own; seeds are the same.
    AesCoins user(seed_of(1)), helper_user(seed_of(1)), helper_provider(seed_of(2)), provider(seed_of(2));
    test::BoxRun run(user, helper_user, helper_provider, provider, box.batch, fibers);
    box.caches.exchange(run);
    double deal = 0, prepare = 0, online = 0;
    run.offline([&](Helper& p) { deal = seconds([&] { box.deal(p); }); },
                [&](UserDealer& p) { prepare = seconds([&] { box.prepare(p); }); });
    if (phase == Phase::online) online = seconds([&] { run.online(box.provide, box.use); });
    box.caches.exchange(run);
    box.caches.each([&](auto& cache) { cache.resize(std::min(cache.size(), box.cached)); });
    return phase == Phase::deal ? deal : phase == Phase::prepare ? prepare : online;
  };
  call();  // caches grow by doubling: this one pays for it
  std::vector<double> times;
  for (auto _ : state) {
    times.push_back(call());
    state.SetIterationTime(times.back());
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  const double median = times[times.size() / 2];
  const std::size_t payload = phase == Phase::deal ? box.cost.offline.helper_to_provider
                              : phase == Phase::prepare
                                  ? box.cost.offline.user_to_provider
                                  : box.cost.online.provider_to_user + box.cost.online.user_to_provider;
  state.counters["bytes/s"] = static_cast<double>(payload) / median;
  state.counters["ns/element"] = median * 1e9 / static_cast<double>(std::max<std::size_t>(box.elements, 1));
}

void add(const std::string& name, const std::function<Box()>& make,
         const std::vector<Phase>& phases = {Phase::deal, Phase::online}) {
  for (const Phase phase : phases) {
    const char* suffix = phase == Phase::deal ? "/deal" : phase == Phase::prepare ? "/prepare" : "/online";
    benchmark::RegisterBenchmark((name + suffix).c_str(), [=](benchmark::State& state) { measure(state, phase, make); })
        ->UseManualTime()
        ->MinTime(0.1)
        ->Unit(benchmark::kMicrosecond);
  }
}

// --- Shapes -----------------------------------------------------------------------------------------------------------

// A model of one layer with the ranges of SmolLM2-135M. Fused, its residual is wide, and so p.v is.
Plan plan_of(const std::string& model, Profile profile, bool fused) {
  Plan p;
  p.config = synthetic_config(model);
  p.config.layers = 1;
  p.profile = profile;
  p.fused = fused;
  p.layers = {{.qkv = 11, .o = 11, .up = 11, .down = 11}};
  p.embed_frac = p.head_frac = 11;
  p.residual_frac = 21;
  p.ranges = {.residual = 22778,
              .logit = 25,
              .logit_raw = 4096,
              .layers = {{.qk = 21,
                          .v = 13.3,
                          .score = 379,
                          .activation = 2843,
                          .gate_up = 75.5,
                          .gate_up_raw = 20000,
                          .qkv_raw = 4096,
                          .least_rms = 4}}};
  p.slots = k_long_chain / 2;
  p.residual = Ring{fused || p.open() ? 56 : 48};
  if (p.open()) p.head = p.residual;
  p.check();
  return p;
}

// --- Boxes over rows --------------------------------------------------------------------------------------------------

// Its product costs nothing.
struct FreeMatrix : NoMatrix {};
void product(const FreeMatrix&, std::span<const Word>, std::span<Word>, Executor&) {}
void product(const FreeMatrix&, Ring, std::span<const Word>, std::span<Word>, Executor&) {}

constexpr Batch k_one{0, 1};
constexpr auto k_choose_first = [](std::span<const std::int64_t>) { return std::size_t{0}; };

void add_rows(const std::string& model) {
  const std::string name = model + "/";
  const Plan plan = plan_of(model, Profile::paper, false), fused = plan_of(model, Profile::paper, true),
             open = plan_of(model, Profile::open, false);
  const Config& c = plan.config;
  const Format residual{plan.residual, plan.residual_frac};

  add(name + "nothing", [=] { return box(k_one, {}, 1, residual, 1, [](auto&, const auto&) {}); }, {Phase::online});
  add(name + "linear",
      [s = qkv_shape(plan, 0)] {
        return box(k_one, cost(s, k_one), s.rows, s.out, s.cols,
                   [=](auto& p, const auto& x) { linear(p, s, FreeMatrix{}, x); });
      },
      {Phase::deal, Phase::prepare, Phase::online});
  add(name + "permuted_map", [s = norm_shape(plan, Site::mlp_norm, 0, {Ring{32}, frac::norm}).map, residual] {
    const auto copy = [](std::size_t, std::size_t, auto row, auto& answers) {
      std::copy(row.begin(), row.end(), answers[0].begin());
    };
    return box(k_one, cost(s, k_one), s.columns, residual, s.columns,
               Parties{[=](Helper& p, const Mask& y) { permuted_map(p, s, y); },
                       [=](UserDealer& p, const Mask&) { permuted_map(p, s); },
                       [=](Provider& p, const Masked& y) { permuted_map(p, s, y); },
                       [=](User& p, const Mask&) { permuted_map(p, s, copy); }});
  });
  add(name + "norm", [s = mlp_norm_shape(plan, 0), residual] {
    return box(k_one, cost(s.map, k_one), s.map.columns, residual, s.map.columns,
               [=](auto& p, const auto& x) { norm(p, s, x); });
  });
  for (const bool is_fused : {false, true}) {
    const Plan& of = is_fused ? fused : plan;
    add(name + (c.gated ? "mlp:gated" : "mlp:ungated") + (is_fused ? ",fused" : ""),
        [s = mlp_shape(of, 0), in = up_shape(of, 0).out, scales = is_fused ? RowScales{0.5} : RowScales{}] {
          return box(k_one, cost(s, k_one), s.map.columns, in, s.map.groups * s.map.columns,
                     [=](auto& p, const auto& x) { mlp(p, s, x, scales); });
        });
  }
  add(name + "row_scales", [s = mlp_scale_shape(fused, 0), x = Format{fused.residual, fused.residual_frac}] {
    return box(k_one, cost(s, k_one), s.map.columns, x, s.map.columns,
               [=](auto& p, const auto& value) { row_scales(p, s, value); });
  });
  add(name + "prompt_one_hots",
      [s = one_hot_shape(plan)] {
        return box(k_one, cost(s, k_one), s.vocab, {s.ring, 0}, 1,
                   Parties{[](Helper&, const Mask&) {}, [](UserDealer&, const Mask&) {},
                           [=](Provider& p, const Masked&) { prompt_one_hots(p, s); },
                           [=](User& p, const Mask&) { prompt_one_hots(p, s, std::vector<std::uint32_t>{7}); }});
      },
      {Phase::online});
  add(name + "remask", [s = embed_remask_shape(plan)] {
    return box(k_one, cost(s, k_one), s.size, s.format, s.size, [=](auto& p, const auto& x) { remask(p, s, x); });
  });
  add(name + "embed", [s = embed_shape(plan), in = embed_remask_shape(plan).format] {
    return box(k_one, cost(s, k_one), s.map.columns, in, s.map.columns,
               [=](auto& p, const auto& x) { embed(p, s, x); });
  });
  add(name + "sample+retrieve", [s = sample_shape(plan), in = head_shape(plan).out] {
    return box(k_one, cost(s, k_one) + retrieve_cost(s.map.answers[0].out.ring), s.map.columns, in, s.map.columns,
               [=](auto& p, const auto& logits) {
                 const auto one_hot = sample(p, s, logits, k_choose_first);
                 if constexpr (requires { retrieve(p, one_hot); }) retrieve(p, one_hot);
               });
  });
  add(name + "hand+show",
      [h = hand_row_shape(open), s = show_shape(open, Site::attention_norm, qkv_shape(open, 0), open.qkv_reveal(0))] {
        return box(k_one, cost(h, k_one) + cost(s, k_one), s.x_size + s.y_size, s.y, s.y_size,
                   [=, v = words(h.size, h.format.ring)](auto& p, const auto& y) { show(p, s, hand(p, h, v), y); });
      });
}

// --- Boxes over pairs of queries and keys -----------------------------------------------------------------------------

template <class W>
Box with_caches(Box box, const AttentionShape& s) {
  box.cached = box.batch.first * s.head().kv_rows();
  box.caches.each([&]<class T>(std::vector<T>& cache) {
    if (std::is_same_v<T, W> || std::is_same_v<T, Word>) cache = words<T>(box.cached, Ring{40});
  });
  return box;
}

// The last part of attention: v lifted and re-shared, then p.v.
template <class W>
Box values_box(const AttentionShape& shape, Batch batch, Format in, std::size_t rows) {
  const ValuesShape& s = shape.values;
  const auto p = words<W>(s.head.pairs(batch), s.mixed);
  return box(
      batch, lift_cost(s, batch) + reshare_cost(s, batch) + cost(s, batch), s.head.pairs(batch), in, rows,
      Parties{[=](Helper& helper, const Mask& qkv) {
                values_lift(helper, s, qkv);
                values(helper, s, MaskOf<W>{{}, 0, p});
              },
              [](UserDealer&, const Mask&) {}, [=]<Role R>(auto& party, const Share<R>& qkv) {  // provider and user
                if constexpr (R == Role::provider) {
                  values_lift(party, s, qkv);
                } else {
                  values_lift(party, s);
                }
                values_reshare<W>(party, s);
                values(party, s, Share<R, W>{{}, 0, p});
              }});
}

Box scores_box(const HeadShape& s, Batch batch, Format in, std::size_t rows) {
  return box(batch, scores_cost(s, batch) + masked_scores_cost(s, batch), s.pairs(batch), in, rows,
             Parties{[=](Helper& p, const Mask&) {
                       scores_send(p, s);
                       scores(p, s);
                     },
                     [](UserDealer&, const Mask&) {},
                     [=](Provider& p, const Masked& qkv) { masked_scores(p, s, scores_send(p, s, qkv), 0); },
                     [=](User& p, const Mask& qkv) {
                       scores_send(p, s, qkv);
                       masked_scores(p, s, scores_receive(p, s), 0);
                     }});
}

template <class W>
void add_pairs_of(const std::string& model, const std::string& of, Batch batch) {
  const bool wide = std::is_same_v<W, Wide>;
  const Plan plan = plan_of(model, Profile::paper, wide);
  const LinearShape qkv = qkv_shape(plan, 0);
  AttentionShape s = attention_shape(plan, 0);
  const std::string name = model + "/", kind = wide ? "wide," : "narrow,";
  if (!wide)
    add(name + "scores:" + of, [=] { return with_caches<W>(scores_box(s.head(), batch, qkv.out, qkv.rows), s); });
  add(name + "values:" + kind + of, [=] { return with_caches<W>(values_box<W>(s, batch, qkv.out, qkv.rows), s); });
  for (const bool fast : {false, true}) {
    s.fast = fast;
    add(name + (fast ? "attention:fast," : "attention:paper,") + kind + of, [=] {
      return with_caches<W>(box(batch, cost(s, batch), s.head().pairs(batch), qkv.out, qkv.rows,
                                [=](auto& p, const auto& x) { attention(p, s, x); }),
                            s);
    });
  }
}

const bool k_added = [] {
  for (const std::string model : {"smollm2-135m", "chatglm-6b"}) {
    add_rows(model);
    for (const std::uint32_t context : {32u, 512u, 2048u, 0u}) {
      const Batch batch = context == 0 ? Batch{0, 64} : Batch{context - 1, 1};
      const std::string of = context == 0 ? "prefill_64" : "context_" + std::to_string(context);
      add_pairs_of<Word>(model, of, batch);
      add_pairs_of<Wide>(model, of, batch);
    }
  }
  return true;
}();

}  // namespace
}  // namespace permllm
