// One box, all three roles in one thread: its result, its cost, and each party's view.
#pragma once

#include <map>

#include "page/deal.h"
#include "protocol/linear.h"
#include "protocol/roles.h"
#include "protocol/scores.h"
#include "support/enumerated_coins.h"
#include "support/fibers.h"

namespace permllm::test {

// A tiny matrix of any ring, for boxes that multiply.
struct TinyMatrix {
  std::size_t rows_, cols_;
  Words words;
};
inline void product(const TinyMatrix& w, std::span<const Word> x, std::span<Word> y, Executor&) {
  for (std::size_t i = 0; i < x.size() / w.cols_; ++i) {
    for (std::size_t r = 0; r < w.rows_; ++r) {
      y[i * w.rows_ + r] = dot(&w.words[r * w.cols_], &x[i * w.cols_], w.cols_);
    }
  }
}
inline void product(const TinyMatrix& w, Ring, std::span<const Word> x, std::span<Word> y, Executor& executor) {
  product(w, x, y, executor);
}

// A run of one box (or several in a row) for a batch of indices.
class BoxRun {
 public:
  BoxRun(Coins& user, Coins& helper_user, Coins& helper_provider, Coins& provider, Batch batch, Fibers& fibers,
         std::size_t skip_slot = SIZE_MAX)
      : fibers_(fibers),
        user_coins_(user),
        helper_user_(helper_user),
        helper_provider_(helper_provider),
        provider_coins_(provider),
        batch_(batch),
        executor_(1),
        provider_keys_(1),
        user_keys_(1) {
    for (std::size_t s = 0; s < batch.first + batch.count; ++s) timeline_.append(true);
    if (skip_slot < timeline_.slots()) timeline_.skip(skip_slot);
    fibers_.clear();
  }

  // offline: deal(helper) and prepare(dealer) fill the packs.
  void offline(const std::function<void(Helper&)>& deal, const std::function<void(UserDealer&)>& prepare = nullptr) {
    Helper helper{helper_user_, helper_provider_, executor_, batch_, std::vector<Writer>(batch_.count)};
    UserDealer dealer{user_coins_, executor_, batch_, std::vector<Writer>(batch_.count)};
    deal(helper);
    if (prepare) prepare(dealer);
    for (std::size_t i = 0; i < batch_.count; ++i) {
      from_helper_.push_back(std::make_shared<const Bytes>(helper.packs[i].take()));
      from_user_.push_back(std::make_shared<const Bytes>(dealer.packs[i].take()));
      offline_helper_ += from_helper_.back()->size();
      offline_user_ += from_user_.back()->size();
    }
  }
  void online(const std::function<void(Provider&)>& provide, const std::function<void(User&)>& use) {
    fibers_.run(
        [&](Link& link) {
          Channel channel(link, 7, std::chrono::seconds(5));
          Provider provider{channel, provider_coins_, executor_, timeline_, provider_keys_, batch_, {}, 0};
          for (std::size_t i = 0; i < from_helper_.size(); ++i) {
            provider.packs.push_back(
                {Reader("helper", *from_helper_[i]), Reader("user", *from_user_[i]), from_helper_[i], from_user_[i]});
          }
          provide(provider);
          for (const Pack& pack : provider.packs) PERMLLM_ASSERT(pack.helper.left() == 0 && pack.user.left() == 0);
        },
        [&](Link& link) {
          Channel channel(link, 7, std::chrono::seconds(5));
          User user{channel, user_coins_, timeline_, user_keys_, executor_, batch_, nullptr, 0};
          use(user);
        });
  }

  Cost measured() const {
    Cost cost{.rounds = fibers_.turns(), .online = {}, .offline = {offline_user_, offline_helper_}};
    for (const Frame& frame : fibers_.received(0)) cost.online.user_to_provider += frame.payload.size();
    for (const Frame& frame : fibers_.received(1)) cost.online.provider_to_user += frame.payload.size();
    return cost;
  }
  // Every byte that a party received.
  Bytes provider_received() const {
    Bytes all;
    for (std::size_t i = 0; i < from_helper_.size(); ++i) {
      all.insert(all.end(), from_helper_[i]->begin(), from_helper_[i]->end());
      all.insert(all.end(), from_user_[i]->begin(), from_user_[i]->end());
    }
    for (const Frame& frame : fibers_.received(0)) all.insert(all.end(), frame.payload.begin(), frame.payload.end());
    return all;
  }
  Bytes user_received() const {
    Bytes all;
    for (const Frame& frame : fibers_.received(1)) all.insert(all.end(), frame.payload.begin(), frame.payload.end());
    return all;
  }
  std::vector<ProviderKeys>& provider_keys() { return provider_keys_; }
  std::vector<UserKeys>& user_keys() { return user_keys_; }

 private:
  Fibers& fibers_;
  Coins &user_coins_, &helper_user_, &helper_provider_, &provider_coins_;
  Batch batch_;
  Executor executor_;
  Timeline timeline_;
  std::vector<ProviderKeys> provider_keys_;
  std::vector<UserKeys> user_keys_;
  std::vector<std::shared_ptr<const Bytes>> from_helper_, from_user_;
  std::size_t offline_helper_ = 0, offline_user_ = 0;
};

// How often each view occurs over all coins.
using Histogram = std::map<std::vector<std::uint8_t>, std::size_t>;

struct Views {
  Histogram provider, user;
  std::map<std::vector<std::uint8_t>, Histogram> learnt;  // what the user learns of what came out, by its coins
  std::size_t runs = 0;
};

// What a box under enumeration gets: its run, and the coins that stand for masks made before the box.
struct Enumeration {
  BoxRun& run;
  Coins& before;  // common to user and helper
  // Words that the provider holds from the start (its share of the input): part of its view.
  std::vector<std::uint8_t> provider_holds = {};
  // What the user learns of what came out, later.
  std::vector<std::uint8_t> user_learns = {};
  // n words of a mask that came before the box.
  Words mask(std::size_t n, Ring ring, std::uint32_t index = 0) {
    return before.words({Use::last_row, Site::qkv, 0, index}, n, ring);
  }
  Words provider_share(const Words& value, const Words& mask_words, Ring ring) {
    Words share(value.size());
    for (std::size_t i = 0; i < value.size(); ++i) {
      share[i] = (value[i] - mask_words[i]) & ring.mask();
      provider_holds.push_back(static_cast<std::uint8_t>(share[i]));
    }
    return share;
  }
};

using Rewrite = std::function<std::optional<Address>(Address)>;

// Runs `box` for every value of all coins. user_rewrite and provider_rewrite sabotage the coins that helper and user, or helper
// and provider, share.
inline Views enumerate(const std::function<void(Enumeration&)>& box, Batch batch = {0, 1},
                       const Rewrite& user_rewrite = nullptr, const Rewrite& provider_rewrite = nullptr) {
  Views views;
  Odometer odometer;
  Fibers fibers;
  do {
    PairCoins with_user{odometer, user_rewrite}, with_provider{odometer, provider_rewrite};
    EnumeratedCoins user(with_user), helper_user(with_user), helper_provider(with_provider), provider(with_provider);
    BoxRun run(user, helper_user, helper_provider, provider, batch, fibers);
    Enumeration enumeration{run, user};
    box(enumeration);
    const auto join = [](std::vector<std::uint8_t> a, const std::vector<std::uint8_t>& b) {
      a.insert(a.end(), b.begin(), b.end());
      return a;
    };
    ++views.provider[join(join(with_provider.view(), enumeration.provider_holds), run.provider_received())];
    ++views.user[join(with_user.view(), run.user_received())];
    ++views.learnt[with_user.view()][enumeration.user_learns];
    ++views.runs;
  } while (odometer.next());
  return views;
}

// Uniform: every view that occurs, occurs equally often, and all 2^bits of them occur.
inline bool is_uniform(const Histogram& histogram, std::size_t distinct) {
  if (histogram.size() != distinct) return false;
  for (const auto& [view, count] : histogram) {
    if (count != histogram.begin()->second) return false;
  }
  return true;
}

inline Rewrite without(Use use) {
  return [use](Address a) { return a.use == use ? std::nullopt : std::optional(a); };
}

// The provider's views for all inputs are one uniform distribution.
template <class Box>
bool provider_learns_nothing(const Box& box, const std::vector<Words>& inputs, std::size_t distinct,
                             const Rewrite& user = nullptr, const Rewrite& provider = nullptr) {
  bool good = true;
  std::optional<Histogram> first;
  for (const Words& input : inputs) {
    const Views views = enumerate([&](Enumeration& e) { box(e, input); }, {0, 1}, user, provider);
    good = good && is_uniform(views.provider, distinct);
    if (!first) first = views.provider;
    good = good && views.provider == *first;
  }
  return good;
}

// One head of one entry, which does not turn; q and k in `qk` once `qk_cut` bits are cut, v in `v` once `v_cut` are.
inline HeadShape one_entry_head(int qk_cut, Ring qk, int v_cut, Ring v) {
  return {.layer = 0,
          .heads = 1,
          .kv_heads = 1,
          .head_dim = 1,
          .rope = {},
          .rope_frac = 0,
          .qk_cut = qk_cut,
          .qk = {qk, 0},
          .v_cut = v_cut,
          .v = {v, 0},
          .dead_bits = 0,
          .shown = {0, qk.bits}};
}
}  // namespace permllm::test
