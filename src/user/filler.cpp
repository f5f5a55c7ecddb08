#include "user/filler.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/reason.h"
#include "page/deal.h"
#include "session/pairing.h"
#include "wire/plain.h"

namespace permllm {
namespace {

// What a piece weighs in progress, by what it costs to make: a slot one, an entry or a pass about a fifth.
double worth(std::uint8_t kind) { return kind == k_slot_kind ? 1.0 : 0.2; }

// The provider may have said why it closed the connection: its error in place of the lost connection's, if it can still be read.
template <class Filling>
std::exception_ptr cause_of(std::exception_ptr failure, Filling& filling) {
  try {
    filling.offline->send(PackEnd{});
    filling.offline->flush();
  } catch (const std::exception&) {
    // Nothing can be sent any more, but what it said before it closed may be there to read.
  }
  try {
    for (;;) filling.offline->receive(Accepted{});
  } catch (const Error& error) {
    if (error.by_peer()) return std::current_exception();
  } catch (const std::exception&) {
  }
  return failure;
}

bool wants_room(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    return error.code() == Code::resource;
  } catch (const std::exception&) {
    return false;
  }
}

constexpr auto k_look = std::chrono::milliseconds(100);  // between two questions whether a wait is given up

// How long the connections of a filling stay open when nothing is wanted; less than the provider waits.
Clock::duration linger(Clock::duration patience) {
  return std::min<Clock::duration>(std::chrono::seconds(2), patience / 4);
}

}  // namespace

Marks target_of(const Plan& plan, const Marks& begin, std::size_t prompt_tokens, std::size_t max_tokens,
                bool in_blocks) {
  PERMLLM_ASSERT(prompt_tokens > 0 && max_tokens > 0);
  prompt_tokens = plan.prompt_rows(prompt_tokens);
  Marks target = begin;
  const auto add = [&](std::uint8_t kind, std::size_t count) {
    target[kind] = static_cast<std::uint32_t>(std::min<std::size_t>(plan.slots, target[kind] + count));
  };
  if (!plan.open()) add(k_entry_kind, prompt_tokens + (in_blocks ? max_tokens - 1 : 0));
  add(k_slot_kind, prompt_tokens + max_tokens - 1);
  add(k_pass_kind, max_tokens);
  if (plan.bfv()) add(k_users_kind, max_tokens);
  return target;
}

Filler::Filler(Links links, std::uint64_t session, const Card& card, const Weights<StreamedMatrix>& u,
               ChainRecord& record, Ledger& ledger, const BfvUser* bfv, const Marks& made, Executor& executor,
               Clock::duration patience)
    : links_(std::move(links)),
      session_(session),
      card_(card),
      u_(u),
      record_(record),
      ledger_(ledger),
      bfv_(bfv),
      executor_(executor),
      patience_(patience),
      begin_(made) {
  state_.made = state_.target = made;
}

Filler::~Filler() {
  {
    const Lock lock(mutex_);
    state_.phase = FillingState::Phase::stopped;
    if (filling_) {  // unblocks the thread, whatever it waits for
      filling_->offline_link->close();
      filling_->helper_link->close();
    }
  }
  changed_.notify_all();
}

std::shared_ptr<Filler::Filling> Filler::begin() {
  const auto filling = std::make_shared<Filling>();
  filling->offline_link = links_.offline();
  filling->offline = std::make_unique<Channel>(*filling->offline_link, 0, patience_);
  filling->offline->send(Hello{Hello::offline, session_});
  filling->offline->flush();
  filling->helper_link = links_.helper();
  filling->helper = std::make_unique<Channel>(*filling->helper_link, 0, patience_);
  {
    const Lock lock(mutex_);
    filling_ = filling;  // from here on it can be closed
    enter(FillingState::Phase::connected);
  }
  const PairHello hello{session_,
                        "",
                        card_.model_id,
                        record_.plan_hash,
                        record_.chain,
                        record_.paired,
                        record_.paired ? record_.seed : random_seed()};
  filling->helper->send(hello);
  const Accepted accepted = receive_accepted(*filling->offline, card_.plan);
  filling->offline->set_session(session_);
  const auto of_helper = [](auto ask) { return reach(Reason::helper_unreachable, ask); };
  const Seed common =
      common_seed(of_helper([&] { return filling->helper->receive(PairAccepted{}).half; }), domain::user_helper, hello);
  filling->helper->set_session(session_);
  const Digest other = of_helper([&] { return filling->helper->receive(Paired{}).other; });
  if (accepted.paired != record_.paired)
    throw Error(Code::mismatch, "Accepted.paired",
                "the provider and this side differ about the chain's seeds; begin another chain");
  if (record_.paired && other != record_.other) {
    throw Error(Code::mismatch, "Paired.other",
                "the provider's seed of this chain is another than when it was begun; begin another chain");
  }
  if (!record_.paired) {
    ChainRecord paired = record_;
    paired.seed = common;
    paired.other = other;
    paired.paired = true;
    ledger_.change(record_, paired);
    record_ = paired;
  }
  filling->coins = std::make_unique<AesCoins>(record_.seed);
  const Lock lock(mutex_);
  state_.made = accepted.made;
  return filling;
}

void Filler::finish(Filling& filling) {
  filling.offline->send(PackEnd{});
  filling.offline->flush();
  filling.helper->send(PackEnd{});
  const auto report = filling.helper->receive(PartyReport{});
  const Accepted accepted = receive_accepted(*filling.offline, card_.plan);  // it is all on the provider's disk
  const Lock lock(mutex_);
  state_.made = accepted.made;
  report_ = report;
  filling_ = nullptr;
  enter(FillingState::Phase::apart);
}

void Filler::pair(const std::function<void(Channel&)>& with_helper) {
  const std::shared_ptr<Filling> filling = begin();
  if (with_helper) reach(Reason::helper_unreachable, [&] { with_helper(*filling->helper); });
}

void Filler::want(const Marks& target, std::size_t ahead, std::size_t order) {
  {
    const Lock lock(mutex_);
    begin_ = state_.made;
    state_.target = target;
    state_.ahead = ahead;
    state_.order = order;
    state_.ending = false;
    try_anew();
  }
  changed_.notify_all();
  if (!thread_.joinable()) thread_ = std::jthread([this] { produce(); });
}

void Filler::enter(FillingState::Phase phase) {
  if (state_.phase != FillingState::Phase::stopped) state_.phase = phase;
}

void Filler::try_anew() {
  failure_ = nullptr;
  if (state_.phase == FillingState::Phase::failed) enter(FillingState::Phase::apart);
}

void Filler::produce() {
  using Step = FillingState::Step;
  Lock lock(mutex_);
  for (;;) {
    Step step;
    const auto decided = [&]() REQUIRES(mutex_) { return (step = state_.step(card_.plan)) != Step::wait; };
    if (state_.phase == FillingState::Phase::connected) {
      if (!changed_.wait_for(lock, linger(patience_), decided)) step = {Step::finish};  // nobody asked for a while
    } else {
      changed_.wait(lock, decided);
    }
    if (step == Step::leave) return;
    std::shared_ptr<Filling> filling = filling_;
    const Marks from = state_.made;
    const std::optional<PackOrder>& order = step.order;
    lock.unlock();
    try {
      if (!order) {
        finish(*filling);
      } else {
        const Clock::time_point start = Clock::now();
        if (!filling) filling = begin();
        make(*filling, *order, from);
        const Lock again(mutex_);
        seconds_ += seconds_since(start);
      }
      lock.lock();
    } catch (const std::exception& error) {
      const auto* known = dynamic_cast<const Error*>(&error);
      std::exception_ptr failure = std::current_exception();
      if (known != nullptr && known->code() == Code::closed && filling) failure = cause_of(failure, *filling);
      lock.lock();
      fail(failure, order);
    }
    changed_.notify_all();
  }
}

void Filler::fail(const std::exception_ptr& failure, const std::optional<PackOrder>& order) {
  if (order && wants_room(failure) && order->count > k_smallest_order) {
    state_.order = order->count / 2;  // less may find room
    enter(FillingState::Phase::apart);
  } else {
    failure_ = failure;
    failed_at_ = state_.used;
    enter(FillingState::Phase::failed);
  }
  if (filling_) {
    filling_->offline_link->close();
    filling_->helper_link->close();
  }
  filling_ = nullptr;
  dealt_ = 0;
}

void Filler::make(Filling& filling, const PackOrder& order, const Marks& from) {
  const double parts = order.kind == k_slot_kind ? static_cast<double>(card_.plan.config.layers) : 1.0;
  {
    const Lock lock(mutex_);
    if (state_.made != from) return;  // the provider has another count: order anew
    order_ = order;
    dealt_ = 0;
  }
  const auto on_part = [&] {
    {
      const Lock lock(mutex_);
      dealt_ += 1 / parts;
    }
    changed_.notify_all();
  };
  if (order.kind == k_users_kind) {
    deal_queries(*bfv_, order, *filling.offline, executor_);
    on_part();
  } else {
    reach(Reason::helper_unreachable, [&] {
      filling.helper->send(order);
      filling.helper->flush();
    });
    UserDealer dealer{*filling.coins, executor_};
    if (!card_.plan.open()) deal(dealer, card_.plan, u_, order, *filling.offline, on_part);
    reach(Reason::helper_unreachable, [&] { filling.helper->receive(PackDealt{}); });
    if (card_.plan.open()) on_part();
  }
  const Lock lock(mutex_);
  state_.made[order.kind] += order.count;
  dealt_ = 0;
}

void Filler::used(const Marks& marks) {
  {
    const Lock lock(mutex_);
    state_.used = marks;
  }
  changed_.notify_all();
}

double Filler::fraction_of(const Marks& needed) const {
  const Marks wanted = between(begin_, needed), made = between(begin_, state_.made);
  double all = 0, there = 0;
  for (std::uint8_t kind = 1; kind <= 4; ++kind) {
    const std::uint32_t whole = std::min(wanted[kind], made[kind]);
    const std::uint32_t at_hand = kind == order_.kind ? std::min(wanted[kind] - whole, order_.count) : 0;
    all += worth(kind) * wanted[kind];
    there += worth(kind) * (whole + dealt_ * at_hand);
  }
  return all > 0 ? std::min(1.0, there / all) : 1;
}

bool Filler::wait_for(const Marks& needed, const OnOffline& on_progress, const std::function<bool()>& given_up) {
  const Clock::time_point begin = Clock::now();
  Lock lock(mutex_);
  state_.needed = needed;
  // What was used since the failure has made room at the provider, so it is worth another try.
  if (failure_ && !within(needed, state_.made) && wants_room(failure_) && failed_at_ != state_.used) try_anew();
  changed_.notify_all();
  const auto over = [&]() REQUIRES(mutex_) {
    return within(needed, state_.made) || failure_ || within(state_.target, state_.made);
  };
  double told = over() ? 1 : 0;
  Clock::time_point next_look = begin + k_look;
  for (bool ended = false; !ended;) {
    changed_.wait_until(lock, next_look, [&]() REQUIRES(mutex_) { return over() || fraction_of(needed) > told; });
    ended = over();
    const double now = fraction_of(needed);
    const bool tells = now > told && on_progress, looks = !ended && Clock::now() >= next_look;
    told = std::max(told, now);
    if (!tells && !looks) continue;
    lock.unlock();
    if (tells) on_progress({now, seconds_since(begin)});
    if (looks && given_up && given_up()) return false;
    if (looks) next_look = Clock::now() + k_look;
    lock.lock();
  }
  if (within(needed, state_.made)) return true;
  if (!failure_) {
    const auto count = [](const Marks& marks) {
      return fmt::format("{} slots, {} passes and {} prompt tokens", marks[k_slot_kind], marks[k_pass_kind],
                         marks[k_entry_kind]);
    };
    throw Error(Code::usage, Reason::out_of_stock, "stock",
                fmt::format("{} of the chain are made, {} are needed", count(state_.made), count(needed)));
  }
  try {
    std::rethrow_exception(failure_);
  } catch (const Error& error) {
    throw Error(error.code(), error.reason(), "stock",
                fmt::format("no more offline material can be made: {}", plain_words(error)));
  }
}

void Filler::check() const {
  const Lock lock(mutex_);
  if (failure_) std::rethrow_exception(failure_);
}

Marks Filler::made() const {
  const Lock lock(mutex_);
  return state_.made;
}

double Filler::seconds() const {
  const Lock lock(mutex_);
  return seconds_;
}

std::optional<PartyReport> Filler::end() {
  Lock lock(mutex_);
  state_.ending = true;
  changed_.notify_all();
  if (thread_.joinable()) {
    changed_.wait(lock, [&]() REQUIRES(mutex_) { return state_.phase != FillingState::Phase::connected; });
  } else if (filling_) {
    const auto filling = filling_;
    lock.unlock();
    finish(*filling);
    lock.lock();
  }
  return report_;
}

}  // namespace permllm
