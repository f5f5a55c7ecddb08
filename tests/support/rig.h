// All three parties in one process, over memory links, with seeds that the test knows. The code of the parties is the
// release's own.
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>
#include <thread>

#include "net/memory_link.h"
#include "net/meter.h"
#include "page/deal.h"
#include "page/pack.h"
#include "provider/service.h"
#include "provider/session.h"
#include "session/model_mask.h"
#include "session/product_keys.h"
#include "user/session.h"
#include "user/user_client.h"

namespace permllm::test {

inline Seed seed_of(std::uint8_t number) {
  std::array<std::uint8_t, Seed::k_bytes> bytes{};
  bytes[0] = number;
  return Seed{bytes};
}

// V = W - U, as the helper holds it; nothing where the weights are public.
inline Weights<RingMatrix> masked_weights(const IntWeights& weights, const Plan& plan, const ReadableStream& stream) {
  Weights<RingMatrix> v;
  v.config = plan.config;
  v.layers.resize(plan.config.stored_layers());
  if (plan.open()) return v;
  std::vector<const IntMatrix*> w;
  std::vector<const Gain*> gains;
  for_each_matrix(weights, plan, [&](std::uint32_t, const LinearShape&, const IntMatrix& m) { w.push_back(&m); });
  for_each_matrix(v, plan, [&](std::uint32_t id, const LinearShape& s, RingMatrix& m) {
    m = RingMatrix(s.rows, s.cols, s.out.ring);
    stream.fill(id, 0, m.bytes());
    const std::size_t size = s.out.ring.bytes();
    std::vector<std::int32_t> row(s.cols);
    for (std::size_t r = 0; r < s.rows; ++r) {
      w[id]->row(r, row);
      for (std::size_t c = 0; c < s.cols; ++c) {
        std::uint8_t* at = m.bytes().data() + (r * s.cols + c) * size;
        Word word = 0;
        std::memcpy(&word, at, size);
        word = (static_cast<Word>(std::int64_t{row[c]}) - word) & s.out.ring.mask();
        std::memcpy(at, &word, size);
      }
    }
  });
  for_each_gain(weights, plan, [&](std::uint32_t, const LinearShape&, const Gain& gain) { gains.push_back(&gain); });
  for_each_gain(v, plan, [&, next = std::size_t{0}](std::uint32_t id, const LinearShape& s, Gain& gain) mutable {
    gain.words = gain_mask(stream, id, s);
    for (std::size_t j = 0; j < s.rows; ++j) gain.words[j] = gains[next]->words[j] - gain.words[j];
    ++next;
  });
  return v;
}

// The release's coins of user and helper, of which some uses may be left out (zeros): what a build that forgets a mask does.
class LeakyCoins : public AesCoins {
 public:
  using LeftOut = std::function<bool(Address)>;
  LeakyCoins(const Seed& seed, LeftOut left_out) : AesCoins(seed), left_out_(std::move(left_out)) {}

 protected:
  void fill(Address address, Ring ring, std::span<Word> out) const override {
    if (left_out_ && left_out_(address)) {
      std::fill(out.begin(), out.end(), Word{0});
    } else {
      AesCoins::fill(address, ring, out);
    }
  }
  void fill(Address address, Ring ring, std::span<Wide> out) const override {
    if (left_out_ && left_out_(address)) {
      std::fill(out.begin(), out.end(), Wide{0});
    } else {
      AesCoins::fill(address, ring, out);
    }
  }

 private:
  LeftOut left_out_;
};

// As a helper makes them and a user reads them.
inline ProductKeys product_keys_of(const IntWeights& weights, const Plan& plan, const Seed& seed, Executor& executor) {
  std::vector<ProductKeyWords> all;
  make_product_keys(weights, plan, seed, executor, [&](ProductKeyWords words) { all.push_back(std::move(words)); });
  return read_product_keys(plan, seed, [&, next = all.begin()](const ProductKeyWords&) mutable { return *next++; });
}

class Rig {
 public:
  // wrap_user and wrap_provider may decorate the ends of the online link; left_out names coins to forget;
  // of_provider: the provider's weights, where they are others than the helper's.
  using Wrap = std::function<std::unique_ptr<Link>(std::unique_ptr<Link>)>;
  Rig(const IntWeights& weights, const Plan& plan, Executor& executor, std::uint8_t seed = 1,
      const Wrap& wrap_user = nullptr, const Wrap& wrap_provider = nullptr,
      const LeakyCoins::LeftOut& left_out = nullptr, const IntWeights* of_provider = nullptr)
      : weights_(weights),
        of_provider_(of_provider != nullptr ? *of_provider : weights),
        plan_(plan),
        executor_(executor),
        stream_(seed_of(100)),
        u_(expansion_of(stream_, plan)),
        v_(masked_weights(weights, plan, stream_)),
        user_coins_(seed_of(seed), left_out),
        helper_user_coins_(seed_of(seed), left_out),
        helper_provider_coins_(seed_of(static_cast<std::uint8_t>(seed + 1)), left_out),
        provider_coins_(seed_of(static_cast<std::uint8_t>(seed + 1)), left_out) {
    auto [provider_end, user_end] = memory_links();
    provider_link_ = wrap_provider ? wrap_provider(std::move(provider_end)) : std::move(provider_end);
    if (wrap_user) user_end = wrap_user(std::move(user_end));
    user_link_ = std::make_unique<Meter>(std::move(user_end), traffic_);
    provider_channel_ = std::make_unique<Channel>(*provider_link_, 7, patience());
    user_channel_ = std::make_unique<Channel>(*user_link_, 7, patience());
    if (plan.open()) public_ = public_part(weights);
    if (plan.bfv()) {
      bfv_user_.emplace(bfv_shape(plan), seed_of(static_cast<std::uint8_t>(seed + 2)));
      bfv_provider_.emplace(bfv_shape(plan), bfv_user_->key(7), 7);
    }
    if (plan.checked) keys_ = product_keys_of(weights, plan, seed_of(static_cast<std::uint8_t>(seed + 3)), executor);
    user_ =
        std::make_unique<UserSession>(plan, *user_channel_, user_coins_, executor, &public_,
                                      bfv_user_ ? &*bfv_user_ : nullptr, Marks{}, nullptr, keys_ ? &*keys_ : nullptr);
    provider_thread_ = std::jthread([this] {
      try {
        ProviderSession session(plan_, of_provider_, *provider_channel_, provider_coins_, stock_, executor_, patience(),
                                bfv_provider_ ? &*bfv_provider_ : nullptr);
        SessionActivity activity;
        session.serve(activity);
      } catch (const Error& error) {
        provider_error_ = error.what();
        provider_link_->close();
      }
    });
  }
  ~Rig() { provider_link_->close(); }

  static Clock::duration patience() { return std::chrono::seconds(60); }

  std::size_t most_dealt_together = k_deal_batch;
  // Deals the next `count` pieces of a kind and puts both halves into the provider's stock.
  void deal(Part::Kind kind, std::size_t count) {
    while (count > 0) {
      const auto now = static_cast<std::uint32_t>(std::min(count, most_dealt_together));
      std::uint32_t& next = next_[static_cast<std::size_t>(kind)];
      const PackOrder order{static_cast<std::uint8_t>(kind), next, now};
      Helper helper{helper_user_coins_, helper_provider_coins_, executor_};
      UserDealer dealer{user_coins_, executor_};
      if (kind == Part::Kind::query) {
        transfer(Stock::Source::user, [&](Channel& channel) { deal_queries(*bfv_user_, order, channel, executor_); });
      } else {
        transfer(Stock::Source::helper, [&](Channel& channel) {
          plan_.open() ? permllm::deal(helper, plan_, weights_, order, channel)
                       : permllm::deal(helper, plan_, v_, order, channel);
        });
        if (!plan_.open())
          transfer(Stock::Source::user, [&](Channel& channel) { permllm::deal(dealer, plan_, u_, order, channel); });
      }
      next += now;
      count -= now;
    }
  }
  void deal_for_pass(std::size_t tokens, bool prompt) {
    if (prompt) tokens = plan_.prompt_rows(tokens);
    if (prompt && !plan_.open()) deal(Part::Kind::entry, tokens);
    deal(Part::Kind::slot, tokens);
    deal(Part::Kind::pass, 1);
    if (plan_.bfv()) deal(Part::Kind::query, 1);
  }
  // What a request of a prompt and an answer needs, as a real user orders it.
  void deal_for_request(std::size_t prompt_tokens, std::size_t max_tokens, bool in_blocks = false) {
    for (const PackOrder& order : orders_for(plan_, prompt_tokens, max_tokens, in_blocks))
      deal(static_cast<Part::Kind>(order.kind), order.count);
  }

  // For tests that walk the page themselves.
  Stock& stock() { return stock_; }
  Coins& user_coins() { return user_coins_; }
  Coins& mutable_provider_coins() { return provider_coins_; }

  UserSession& user() { return *user_; }
  Channel& user_channel() { return *user_channel_; }
  const Traffic& traffic() const { return traffic_; }
  const std::string& provider_error() const { return provider_error_; }
  const Coins& provider_coins() const { return provider_coins_; }
  // Every offline byte that the provider received, by source, in order.
  const Bytes& offline(Stock::Source source) const { return received_[source == Stock::Source::helper ? 0 : 1]; }

 private:
  template <class Deal>
  void transfer(Stock::Source source, Deal deal_to) {
    auto [to, from] = memory_links();
    Channel sender(*to, 7, patience()), receiver(*from, 7, patience());
    deal_to(sender);
    to->close();
    try {
      for (;;) {
        auto material = receiver.receive(PackMaterial{});
        Bytes& all = received_[source == Stock::Source::helper ? 0 : 1];
        all.insert(all.end(), material.material.begin(), material.material.end());
        put_in_stock(stock_, source, plan_, std::move(material));
      }
    } catch (const Error& error) {
      if (error.code() != Code::closed) throw;
    }
  }

  const IntWeights &weights_, &of_provider_;
  const Plan& plan_;
  Executor& executor_;
  ReadableStream stream_;
  Weights<StreamedMatrix> u_;
  Weights<RingMatrix> v_;
  LeakyCoins user_coins_, helper_user_coins_;
  LeakyCoins helper_provider_coins_, provider_coins_;
  std::uint32_t next_[5] = {};
  Stock stock_{plan_.config.layers, !plan_.open()};
  PublicPart public_;
  std::optional<ProductKeys> keys_;
  std::optional<BfvUser> bfv_user_;
  std::optional<BfvProvider> bfv_provider_;
  Bytes received_[2];
  Traffic traffic_;
  std::unique_ptr<Link> provider_link_, user_link_;
  std::unique_ptr<Channel> provider_channel_, user_channel_;
  std::unique_ptr<UserSession> user_;
  std::string provider_error_;
  std::jthread provider_thread_;
};

// Position of the greatest logit.
inline std::size_t greedy(std::span<const std::int64_t> logits) {
  return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace permllm::test
