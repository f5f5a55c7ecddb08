#include "engine/user_client.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "engine/provider_service.h"

namespace permllm {
namespace {

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

}  // namespace

std::vector<PackOrder> orders_for(const Plan& plan, std::size_t prompt_tokens, std::size_t max_tokens) {
  struct Kind {
    Part::Kind kind{};
    std::size_t next = 0, end = 0, most = 0;
    PackOrder batch() {
      const std::size_t count = std::min(most, end - next);
      const PackOrder order{static_cast<std::uint8_t>(kind), static_cast<std::uint32_t>(next), static_cast<std::uint32_t>(count)};
      next += count;
      return order;
    }
  };
  PERMLLM_ASSERT(prompt_tokens > 0 && max_tokens > 0);
  prompt_tokens = plan.prompt_rows(prompt_tokens);
  const auto of = [&](Part::Kind kind, std::size_t end) { return Kind{kind, 0, end, deal_batch(plan, kind)}; };
  Kind entries = plan.open() ? Kind{} : of(Part::Kind::entry, prompt_tokens), slots = of(Part::Kind::slot, prompt_tokens + max_tokens - 1),
       passes = of(Part::Kind::pass, max_tokens), queries = plan.bfv() ? of(Part::Kind::query, max_tokens) : Kind{};
  std::vector<PackOrder> orders;
  while (entries.next < entries.end) orders.push_back(entries.batch());
  while (slots.next < slots.end || passes.next < passes.end) {
    // A pass of the answer comes when its slot does.
    if (slots.next < slots.end) orders.push_back(slots.batch());
    while (passes.next < passes.end && (slots.next == slots.end || prompt_tokens + passes.next <= slots.next)) {
      orders.push_back(passes.batch());
    }
    while (queries.next < std::min(queries.end, passes.next)) orders.push_back(queries.batch());
  }
  return orders;
}

UserClient::UserClient(const UserLinks& links, Executor& executor, Clock::duration patience)
    : executor_(executor), patience_(patience) {
  online_link_ = std::make_unique<ResumableLink>(links.online(), ResumeLimits{.grace = links.grace, .patience = patience}, links.online);
  online_ = std::make_unique<Channel>(*online_link_, 0, patience);
  online_->send(Hello{Hello::online, 0});
  card_ = online_->receive(Card{});
  const std::string plan_hash = card_.plan.hash();
  online_->send(Agreement{plan_hash});
  online_->receive(Accepted{});
  online_->set_session(card_.session);
  online_link_->begin(card_.session);
  if (card_.plan.open()) receive_public_part();
  if (card_.plan.bfv()) {
    bfv_.emplace(bfv_shape(card_.plan), random_seed());
    online_->send(bfv_->key(card_.session));
    online_->flush();
  }

  offline_link_ = links.offline();
  offline_ = std::make_unique<Channel>(*offline_link_, 0, patience);
  offline_->send(Hello{Hello::offline, card_.session});
  offline_->receive(Accepted{});
  offline_->set_session(card_.session);

  helper_link_ = links.helper();
  helper_ = std::make_unique<Channel>(*helper_link_, 0, patience);
  const PairHello hello{card_.session, card_.model_id, plan_hash, random_seed()};
  helper_->send(hello);
  const Seed half = helper_->receive(PairAccepted{}).half;
  helper_->set_session(card_.session);

  coins_ = std::make_unique<AesCoins>(common_seed(hello.half, half, domain::user_helper, hello));
  mask_stream_ = std::make_unique<ReadableStream>(card_.model_mask);
  u_ = expansion_of(*mask_stream_, card_.plan);
  session_ = std::make_unique<UserSession>(card_.plan, *online_, *coins_, executor, &public_, bfv_ ? &*bfv_ : nullptr);
}

void UserClient::receive_public_part() {
  const std::size_t row_bytes = card_.plan.config.width * sizeof(std::int16_t);
  for (std::size_t left = card_.plan.config.vocab * row_bytes; left > 0;) {
    const Bytes rows = online_->receive(EmbeddingRows{}).rows;
    if (rows.empty() || rows.size() % row_bytes != 0 || rows.size() > left) {
      throw Error(Code::malformed, "EmbeddingRows.rows", fmt::format("{} bytes, expected rows of {} and at most {}", rows.size(), row_bytes, left));
    }
    const std::size_t begin = public_.table.size();
    public_.table.resize(begin + rows.size() / sizeof(std::int16_t));
    std::memcpy(public_.table.data() + begin, rows.data(), rows.size());
    left -= rows.size();
  }
  public_.vectors = weights_of(online_->receive(PublicVectors{}), card_.plan);
}

UserClient::~UserClient() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  // Unblocks the producer, whatever it waits for.
  if (producer_.joinable()) {
    if (offline_link_) offline_link_->close();
    if (helper_link_) helper_link_->close();
  }
}

void UserClient::make_material(std::size_t prompt_tokens, std::size_t max_tokens, std::size_t ahead,
                               std::function<void(const OfflineProgress&)> on_progress) {
  PERMLLM_ASSERT(orders_.empty());
  orders_ = orders_for(card_.plan, prompt_tokens, max_tokens);
  ahead_ = std::max(ahead, card_.plan.prompt_rows(prompt_tokens) + k_deal_batch);
  on_progress_ = std::move(on_progress);
  producer_ = std::jthread([this] { produce(); });
}

void UserClient::produce() {
  try {
    for (const PackOrder& order : orders_) {
      {
        std::unique_lock lock(mutex_);
        // Back-pressure: the stock never grows beyond `ahead`.
        changed_.wait(lock, [&] {
          return stopping_ || order.first + std::size_t{order.count} <= used_slots_ + ahead_;
        });
        if (stopping_) return;
      }
      deal_order(order);
      {
        const std::lock_guard lock(mutex_);
        ++done_orders_;
      }
      changed_.notify_all();
    }
    offline_->send(PackEnd{});
    offline_->flush();
    helper_->send(PackEnd{});
    helper_->flush();
  } catch (const std::exception&) {
    const std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
  }
  changed_.notify_all();
}

void UserClient::deal_order(const PackOrder& order) {
  const Clock::time_point begin = Clock::now();
  double total = 0, before = 0;
  for (std::size_t i = 0; i < orders_.size(); ++i) {
    // By cost: a slot is worth one, an entry or pass about a fifth.
    const double worth = static_cast<double>(orders_[i].count) * (orders_[i].kind == 1 ? 1.0 : 0.2);
    total += worth;
    if (i < done_orders_) before += worth;
  }
  const double own = static_cast<double>(order.count) * (order.kind == 1 ? 1.0 : 0.2);
  const double parts = order.kind == 1 ? static_cast<double>(card_.plan.config.layers) : 1.0;
  double done = 0;
  const auto on_part = [&] {
    done += own / parts;
    if (on_progress_) on_progress_({(before + done) / total, seconds_ + seconds_since(begin)});
  };
  if (order.kind == k_users_kind) {
    deal_queries(*bfv_, order, *offline_, executor_);
    on_part();
  } else {
    helper_->send(order);
    helper_->flush();
    UserDealer dealer{*coins_, executor_};
    if (!card_.plan.open()) deal(dealer, card_.plan, u_, order, *offline_, on_part);
    helper_->receive(PackDealt{});
  }
  const std::lock_guard lock(mutex_);
  seconds_ += seconds_since(begin);
}

void UserClient::wait_for_material(std::size_t tokens) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] {
    if (failure_ || done_orders_ == orders_.size()) return true;
    for (std::size_t i = done_orders_; i < orders_.size(); ++i) {
      const auto kind = static_cast<Part::Kind>(orders_[i].kind);
      const bool by_pass = kind == Part::Kind::pass || kind == Part::Kind::query;
      if (orders_[i].first < (by_pass ? 1 : tokens)) return false;
    }
    return true;
  });
  if (failure_) std::rethrow_exception(failure_);
}

void UserClient::material_used() {
  {
    const std::lock_guard lock(mutex_);
    used_slots_ = session_->slots();
    if (failure_) std::rethrow_exception(failure_);
  }
  changed_.notify_all();
}

double UserClient::offline_seconds() const {
  const std::lock_guard lock(mutex_);
  return seconds_;
}

UserClient::Reports UserClient::end() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;  // orders that were not begun are not needed any more
  }
  changed_.notify_all();
  if (producer_.joinable()) producer_.join();
  if (failure_) std::rethrow_exception(failure_);
  Reports reports;
  if (done_orders_ < orders_.size() || orders_.empty()) helper_->send(PackEnd{});
  reports.helper = helper_->receive(PartyReport{});
  online_->send(SessionEnd{});
  reports.provider = online_->receive(PartyReport{});
  online_link_->leave();
  return reports;
}

}  // namespace permllm
