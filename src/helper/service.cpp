#include "helper/service.h"

#include <fmt/format.h>

#include <array>
#include <optional>
#include <thread>
#include <utility>

#include "page/deal.h"
#include "page/pack.h"
#include "session/report.h"

namespace permllm {
namespace {

// Of a pool: how long a provider's side of a session waits for the user's, who is on its way by then.
constexpr Clock::duration k_pairing = std::chrono::seconds(10);
constexpr auto k_look_at_parked = std::chrono::milliseconds(100);  // whether their provider has left

std::size_t most_of_chunk() {
  ModelChunk any;
  return bound_of(any).bytes();
}
bool is(const Frame& frame, Tag tag) { return frame.tag == static_cast<std::uint16_t>(tag); }

// Reads what a provider had under way when it was refused: a connection that is closed over unread bytes loses the refusal.
void pass_over_chunks(Channel& provider) {
  try {
    for (std::size_t i = 0; i <= ModelTaken::k_window; ++i)
      provider.receive_any("the end of a connection that was refused", most_of_chunk());
  } catch (const Error&) {
    // The provider closed it.
  }
}

}  // namespace

HelperService::HelperService(Executor& executor, Clock::duration patience, OnEvent on_event,
                             std::filesystem::path store, std::optional<HelperPool> pool)
    : executor_(executor),
      patience_(patience),
      on_event_(std::move(on_event)),
      pool_(std::move(pool)),
      store_(std::move(store), executor, on_event_, pool_.has_value()) {}

std::size_t HelperService::room() { return 2 * most_of_chunk(); }

void HelperService::serve(std::unique_ptr<Link> link, const Peer& peer) {
  Channel channel(*link, 0, patience_);
  SessionEvents events(on_event_, peer.key);
  try {
    const Frame first = channel.receive_any("the first message of a connection",
                                            peer.role == Role::provider ? ModelOffer::k_most : k_first_payload);
    if (is_probe(first)) {
      serve_probe(
          *link, first, [&](const std::vector<std::string>& ids) { return facts(ids, peer); }, *answers_.of(peer.key));
      link->close();
      return;
    }
    if (peer.role == Role::provider) admit_();
    if (is(first, Tag::model_offer) && peer.role == Role::provider) {
      store_model(channel, first, peer);
    } else if (is(first, Tag::pair_hello) && peer.role == Role::provider) {
      park(link, channel, message_of<PairHello>(first), peer);
    } else if (is(first, Tag::pair_hello) && peer.role == Role::user) {
      Executor executor(executor_, std::hash<std::string>()(peer.key));
      serve_user(channel, message_of<PairHello>(first), peer, executor, events);
    } else if (is(first, Tag::forwarded) && peer.role == Role::helper && pool_) {
      serve_forwarded(channel, first);
    } else {
      throw Error(Code::malformed, "frame.tag",
                  fmt::format("a {} may not begin with message {}", name_of(peer.role), first.tag));
    }
  } catch (const Error& error) {
    events.fail(error, channel.session());
    if (link) channel.refuse(error);
    if (link && peer.role == Role::provider && error.code() != Code::closed && error.code() != Code::timeout)
      pass_over_chunks(channel);
  } catch (const std::exception& error) {
    events.fail(Error(Code::resource, "", error.what()), channel.session());
    if (link) channel.refuse(Error(Code::resource, Reason::busy, "memory", "the helper has too little for this"));
  }
  if (link) link->close();
}

// A helper may serve several providers: it tells of a model to those alone who name its id.
ProbeFacts HelperService::facts(const std::vector<std::string>& ids, const Peer& peer) {
  ProbeFacts facts;
  for (const std::string& id : ids) {
    if (const auto model = store_.find(id); model && model->stored.owner == peer.provider)
      facts.models.push_back({id, model->plan()});
  }
  return facts;
}

void HelperService::store_model(Channel& provider, const Frame& frame, const Peer& peer) {
  const std::unique_ptr<ModelStore::Arrival> arrival = store_.begin(message_of<ModelOffer>(frame), peer.provider);
  for (std::vector<Digest> held = arrival->next_held(); !held.empty(); held = arrival->next_held()) {
    provider.send(ModelHeld{std::move(held)});
    provider.flush();
  }
  for (;;) {
    const Frame next = provider.receive_any("a chunk of the model", most_of_chunk());
    if (is(next, Tag::model_end)) {
      arrival->finish(message_of<ModelEnd>(next));
      break;
    }
    if (!is(next, Tag::model_chunk))
      throw Error(Code::malformed, "frame.tag", fmt::format("{}, expected ModelChunk or ModelEnd", next.tag));
    auto chunk = message_of<ModelChunk>(next);
    const std::uint32_t number = chunk.number;
    arrival->put(std::move(chunk));
    provider.send(ModelTaken{number});
    provider.flush();
  }
  provider.send(ModelStored{});
  provider.flush();
}

std::shared_ptr<const StoredModel> HelperService::find_model(const PairHello& hello, const Peer& peer) {
  auto model = store_.find(hello.model_id);
  // Another provider's users would learn its V from what is dealt for them.
  if (!model || model->stored.owner != peer.provider)
    throw Error(Code::mismatch, Reason::model_missing, "PairHello.model_id",
                fmt::format("the helper does not hold model {:.8}", hello.model_id));
  plan_of_pair(*model, hello);
  return model;
}

// V is the same for sessions that hide positions and those that do not; what is dealt for them is not.
Plan HelperService::plan_of_pair(const StoredModel& model, const PairHello& hello) {
  const Plan& told = model.plan();
  if (hello.plan_hash == told.hash()) return told;
  const Plan hidden = told.with_positions(true);
  if (told.why_not_hidden().empty() && hello.plan_hash == hidden.hash()) return hidden;
  throw Error(Code::mismatch, Reason::model_missing, "PairHello.plan_hash",
              fmt::format("plan {:.8} here, {:.8} at the peer", told.hash(), hello.plan_hash));
}

void HelperService::park(std::unique_ptr<Link>& link, Channel channel, const PairHello& hello, const Peer& peer) {
  const auto model = find_model(hello, peer);
  const Seed half = random_seed();
  channel.send(PairAccepted{half});
  channel.flush();
  channel.set_session(hello.session);
  auto parked = std::make_unique<Parked>(
      Parked{std::move(link), channel, common_seed(half, domain::provider_helper, hello), hello});
  const Place place{peer.provider, hello.user, hello.session};
  Parked* const own = parked.get();
  if (pool_) pool_->announce(name_of_place(place));  // first: whoever takes the provider's side withdraws it
  Lock lock(mutex_);
  parked_[place] = std::move(parked);
  parked_changed_.notify_all();
  const auto taken = [&]() REQUIRES(mutex_) {
    const auto found = parked_.find(place);
    return found == parked_.end() || found->second.get() != own;
  };
  // In a pool the user may have been with a helper that is gone, and nobody would tell the provider, who makes no other attempt before this one has
  // ended.
  const Clock::time_point until = Clock::now() + (pool_ ? std::min<Clock::duration>(patience_, k_pairing) : patience_);
  while (!parked_changed_.wait_for(lock, k_look_at_parked, taken)) {
    if (Clock::now() < until && !own->link->has_come()) continue;
    parked_.erase(place);
    lock.unlock();
    if (pool_) pool_->withdraw(name_of_place(place));
    return;
  }
}

bool HelperService::sent_product_keys(Channel& user, const Frame& frame, bool& keyed, const StoredModel& model,
                                      const Peer& peer, Executor& executor) {
  if (!is(frame, Tag::product_key_order)) return false;
  if (std::exchange(keyed, true))
    throw Error(Code::malformed, "frame.tag", "a second ProductKeyOrder, expected one of a filling at most");
  const auto order = message_of<ProductKeyOrder>(frame);
  const Plan& plan = model.plan();
  if (!plan.checked)
    throw Error(Code::malformed, "ProductKeyOrder", "the plan's products are not checked, expected none");
  make_product_keys(std::get<IntWeights>(model.weights), plan, order.seed, executor, [&](ProductKeyWords words) {
    const Room::Held room = answers_.of(peer.key)->take(words.words.count * sizeof(Word), Clock::now() + patience_,
                                                        "room for product keys");
    user.send(std::move(words));
    user.flush();
  });
  return true;
}

std::string HelperService::name_of_place(const Place& place) {
  Writer words;
  words.text("provider", place.provider, 64);
  words.text("user", place.user, 64);
  words.number("session", place.session);
  return hash_hex(domain::parked, words.take());
}

HelperService::Found HelperService::find_provider(const PairHello& hello, const Peer& peer, Clock::time_point until) {
  const Place place{peer.provider, peer.key, hello.session};
  // Files of a common store do not wake who waits for them.
  constexpr auto k_look = std::chrono::milliseconds(20);
  for (;;) {
    const Clock::time_point now = Clock::now();
    Lock lock(mutex_);
    if (parked_changed_.wait_until(lock, pool_ ? std::min(until, now + k_look) : until,
                                   [&]() REQUIRES(mutex_) { return parked_.contains(place); })) {
      auto provider = std::move(parked_.extract(place).mapped());
      lock.unlock();
      parked_changed_.notify_all();
      if (pool_) pool_->withdraw(name_of_place(place));
      // Material of one model for the provider of another would give that provider, with its user's masks, the other's V.
      if (provider->hello.model_id != hello.model_id) {
        throw Error(Code::mismatch, "PairHello.model_id",
                    fmt::format("model {:.8} at the provider of this session, {:.8} at the user",
                                provider->hello.model_id, hello.model_id));
      }
      // Halves of two plans would be words of other boxes under the coins of one chain.
      if (provider->hello.plan_hash != hello.plan_hash) {
        throw Error(Code::mismatch, "PairHello.plan_hash",
                    fmt::format("plan {:.8} at the provider of this session, {:.8} at the user",
                                provider->hello.plan_hash, hello.plan_hash));
      }
      if (provider->hello.chain != hello.chain)
        throw Error(Code::mismatch, "PairHello.chain",
                    "another chain at the provider of this session than at the user");
      return {std::move(provider), {}};
    }
    lock.unlock();
    if (now >= until)
      throw Error(Code::timeout, "session", "the provider did not open its side of the session for this user");
    if (!pool_) continue;
    if (std::string address = pool_->where(name_of_place(place)); !address.empty())
      return {nullptr, std::move(address)};
  }
}

void HelperService::serve_user(Channel& user, const PairHello& hello, const Peer& peer, Executor& executor,
                               SessionEvents& events) {
  if (!hello.user.empty())
    throw Error(Code::malformed, "PairHello.user", "a user names none, its certificate says who it is");
  const auto model = find_model(hello, peer);
  const Seed half = random_seed();
  user.send(PairAccepted{half});
  user.flush();
  user.set_session(hello.session);
  const Clock::time_point until = Clock::now() + patience_;
  for (;;) {
    const Found found = find_provider(hello, peer, until);
    if (found.here) return deal_session(user, hello, peer, half, *found.here, executor, events);
    if (forward(user, hello, peer, half, found.address, *model, executor)) return;
    // What the store says of that helper is old: somebody else was there first.
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

bool HelperService::forward(Channel& user, const PairHello& hello, const Peer& peer, const Seed& half,
                            const std::string& address, const StoredModel& model, Executor& executor) {
  std::unique_ptr<Link> link;
  std::optional<Channel> dealer;
  Paired paired;
  try {
    link = pool_->dial(address);
  } catch (const Error& error) {
    // It was killed, and the provider's connection with it: the user begins again, as if it had been with that helper.
    pool_->withdraw(name_of_place({peer.provider, peer.key, hello.session}), address);
    user.link().close();
    throw;
  }
  try {
    dealer.emplace(*link, 0, patience_);
    dealer->send(Forwarded{peer.key, peer.provider, hello, half});
    dealer->set_session(hello.session);
    paired = dealer->receive(Paired{});
  } catch (const Error& error) {
    if (error.code() == Code::timeout || error.code() == Code::closed) return false;
    throw;
  }
  user.send(paired);
  user.flush();
  // Where the dealer is gone the user's connection ends as the dealer's own would.
  const auto answer = [&](auto message) {
    try {
      message = dealer->receive(message);
    } catch (const Error& error) {
      if (!error.by_peer()) user.link().close();
      throw;
    }
    user.send(message);
    user.flush();
  };
  bool keyed = false;
  for (;;) {
    const Frame frame = user.receive_any("an order for material", k_least_payload);
    if (sent_product_keys(user, frame, keyed, model, peer, executor)) continue;  // this helper has the weights, too
    dealer->send_payload(static_cast<Tag>(frame.tag), frame.payload);
    dealer->flush();
    if (is(frame, Tag::pack_end)) break;
    answer(PackDealt{});  // or the refusal of what is no order
  }
  answer(PartyReport{});
  link->close();
  return true;
}

void HelperService::serve_forwarded(Channel& user, const Frame& first) {
  const auto forwarded = message_of<Forwarded>(first);
  const Peer peer{Role::user, "", forwarded.user, forwarded.provider};
  SessionEvents events(on_event_, peer.key);
  user.set_session(forwarded.hello.session);
  try {
    const Found found = find_provider(forwarded.hello, peer, Clock::now());
    if (!found.here) throw Error(Code::timeout, "session", "another helper of the pool has the provider's side");
    Executor executor(executor_, std::hash<std::string>()(peer.key));
    deal_session(user, forwarded.hello, peer, forwarded.half, *found.here, executor, events);
  } catch (const Error& error) {
    events.fail(error, user.session());
    user.refuse(error);
  }
}

void HelperService::deal_session(Channel& user, const PairHello& hello, const Peer& peer, const Seed& half,
                                 Parked& provider, Executor& executor, SessionEvents& events) {
  const auto model = find_model(hello, peer);
  const Seed common = common_seed(half, domain::user_helper, hello);
  events.begin(hello.session);
  model->touch();
  const Plan plan = plan_of_pair(*model, hello);
  AesCoins with_user(common);
  AesCoins with_provider(provider.common);
  std::array<std::optional<std::uint32_t>, 4>
      next;  // by kind: orders come in order, each place once; an old chain goes on anywhere
  if (!hello.whole) next.fill(0);
  bool keyed = false;
  Helper helper{with_user, with_provider, executor};
  try {
    user.send(Paired{seed_digest(provider.common, hello.chain)});
    user.flush();
    provider.channel.send(Paired{seed_digest(common, hello.chain)});
    provider.channel.flush();
    for (;;) {
      const Frame frame = user.receive_any("an order for material", k_least_payload);
      if (is(frame, Tag::pack_end)) break;
      if (sent_product_keys(user, frame, keyed, *model, peer, executor)) continue;
      if (!is(frame, Tag::pack_order)) {
        throw Error(Code::malformed, "frame.tag", fmt::format("{}, expected PackOrder or PackEnd", frame.tag));
      }
      const auto order = message_of<PackOrder>(frame);
      check_order(plan, order);
      std::optional<std::uint32_t>& expected = next[order.kind];
      if (expected && order.first != *expected) {
        throw Error(Code::malformed, "PackOrder.first", fmt::format("{}, expected {}", order.first, *expected));
      }
      expected = order.first + order.count;
      for (const PartOrder& part : parts_of(plan, order)) {
        const Room::Held room = answers_.of(peer.key)->take(part.bytes, Clock::now() + patience_, "room for material");
        std::visit([&](const auto& weights) { deal(helper, plan, weights, part.order, provider.channel); },
                   model->weights);
      }
      events.dealt();
      user.send(PackDealt{});
      user.flush();
    }
    provider.channel.send(PackEnd{});
    provider.channel.flush();
    events.end();  // before the user hears of it
    user.send(report_of_this_process());
    user.flush();
  } catch (const Error& error) {
    provider.channel.refuse(error);
    provider.link->close();
    throw;
  }
}

}  // namespace permllm
