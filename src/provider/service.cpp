#include "provider/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <thread>

#include "base/heap.h"
#include "base/reason.h"
#include "model/embedding.h"
#include "session/pairing.h"
#include "session/public_part.h"

namespace permllm {
namespace {

constexpr auto k_least_rest = std::chrono::seconds(1);  // between two looks at the helper
constexpr auto k_filling = std::chrono::hours(24);  // the longest that material is made before a session's first pass

// The bytes of a vocabulary on the wire, about; they are nearly all of a card.
std::size_t bytes_of(const Vocabulary& vocabulary) {
  std::size_t bytes = vocabulary.charsmap.size() + vocabulary.chat_template.size() + 8 * vocabulary.tokens.size();
  for (const auto* texts : {&vocabulary.tokens, &vocabulary.merges}) {
    for (const std::string& text : *texts) bytes += sizeof(std::uint32_t) + text.size();
  }
  return bytes;
}

}  // namespace

ProviderService::ProviderService(OfferedModel model, Executor& executor, Clock::duration patience,
                                 DialHelper dial_helper, OnEvent on_event, const std::filesystem::path& state,
                                 Clock::duration grace, Clock::duration idle)
    : model_(std::move(model)),
      plans_(plans_of_sessions(model_)),
      executor_(executor),
      patience_(patience),
      idle_(idle),
      dial_helper_(std::move(dial_helper)),
      on_event_(std::move(on_event)),
      resume_limits_{.grace = grace, .kept_bytes = k_kept_bytes, .patience = patience},
      most_material_(most_material(plans_.back())),  // with positions hidden a piece has more
      card_{0,
            model_.model_id,
            model_.plan,
            std::move(model_.vocabulary),
            model_.plan.open() ? Seed{} : model_.mask_seed,
            0,
            {},
            model_.hidden_positions},
      card_bytes_(bytes_of(card_.vocabulary)),
      chains_(state.empty() ? state : state / "stock", model_.model_id, plans_, on_event_),
      sessions_(chains_, resumable_, patience) {}

void ProviderService::register_model(const std::function<void(double)>& progress) {
  register_at_helper(model_, executor_, patience_, dial_helper_, on_event_, progress);
}

void ProviderService::watch_helper(DialHelper dial) {
  watch_ = std::make_unique<HelperWatch>(std::move(dial), ProbedModel{model_.model_id, model_.plan});
}

bool ProviderService::was_registered() const {
  if (!model_.record) return false;
  const std::vector<Digest>& sent = model_.record->sent();
  return std::find(sent.begin(), sent.end(), Digest{}) == sent.end();
}

void ProviderService::keep_registered(Clock::duration rest) {
  PERMLLM_ASSERT(watch_ != nullptr);
  keeper_ = std::jthread([this, rest](const std::stop_token& stop) { keep(stop, rest); });
}

void ProviderService::keep(const std::stop_token& stop, Clock::duration rest) {
  // Who ends the service does not wait for the helper.
  const std::stop_callback cut(stop, [this] {
    const Lock lock(keeper_mutex_);
    if (keeper_link_) keeper_link_->close();
  });
  const DialHelper dial = [&]() -> std::unique_ptr<Link> {
    std::shared_ptr<Link> link = dial_helper_();
    const Lock lock(keeper_mutex_);
    if (stop.stop_requested()) throw Error(Code::closed, "helper", "the provider ends");
    keeper_link_ = link;
    return std::make_unique<PassingLink>(std::move(link));
  };
  Executor executor(executor_, std::hash<std::string>()("registration"));
  std::string told;
  Clock::time_point looked_again{};  // at a user's word, which any of them may give often
  for (;;) {
    {
      Lock lock(keeper_mutex_);
      keeper_wakes_.wait_for(lock, stop, rest, [&]() REQUIRES(keeper_mutex_) { return model_missing_; });
      if (stop.stop_requested()) return;
      if (std::exchange(model_missing_, false) && Clock::now() - looked_again >= k_least_rest) {
        watch_->forget();
        looked_again = Clock::now();
      }
    }
    if (!watch_->lacks_model()) continue;
    try {
      register_at_helper(model_, executor, patience_, dial, on_event_, nullptr);
      told.clear();
      watch_->forget();
      on_event_("the helper was sent the model, and has it");
    } catch (const Error& error) {
      if (told != error.what())
        on_event_(fmt::format("the model cannot be registered at the helper: {}", error.what()));
      told = error.what();
    }
  }
}

void ProviderService::serve(std::unique_ptr<Link> connection, const Peer& peer, const UserLimits& limits) {
  ResumeLimits resume_limits = resume_limits_;
  resume_limits.room = kept_.of(peer.key);
  const auto link = std::make_shared<ResumableLink>(std::move(connection), resume_limits);
  Channel user(*link, 0, patience_);
  SessionEvents events(on_event_, peer.key);
  try {
    if (resumable_.resumed(*link, peer, Clock::now() + patience_)) return events.resumed();
    const Frame first = user.receive_any("the first message of a connection", k_first_payload);
    if (is_probe(first)) {
      return serve_probe(
          *link, first,
          [&](const auto&) {
            return ProbeFacts{{{model_.model_id, model_.plan}}, watch_ ? std::optional(watch_->look()) : std::nullopt};
          },
          *answers_.of(peer.key));
    }
    const auto hello = message_of<Hello>(first);
    if (hello.purpose == Hello::online) {
      sessions_.check_admission(peer.key);
      Executor executor(executor_, std::hash<std::string>()(peer.key));
      converse(user, link, peer, limits, executor, events);
    } else if (hello.purpose == Hello::offline) {
      fill(user, hello.session, peer.key, limits);
    } else {
      throw Error(Code::malformed, "Hello.purpose", fmt::format("{}, expected 1 or 2", hello.purpose));
    }
  } catch (const Error& error) {
    if (error.code() == Code::closed && error.field() == "session" && !error.by_peer()) {
      events.end();  // the user has left in order, without a word about it
    } else {
      events.fail(error, user.session());
      if (error.reason() == Reason::model_missing) {
        const Lock lock(keeper_mutex_);
        model_missing_ = true;
        keeper_wakes_.notify_all();
      }
      user.refuse(error);
    }
  } catch (const std::exception& error) {
    events.fail(Error(Code::resource, "", error.what()), user.session());
    user.refuse(Error(Code::resource, Reason::busy, "memory", "the provider has too little for this session"));
  }
  link->leave();
}

void ProviderService::send_card(Channel& user, std::uint64_t session, const std::string& peer,
                                const UserLimits& limits) {
  const std::uint64_t tokens_left = sessions_.tokens_left(peer, limits);
  // A card has a megabyte and more, until it is on its way.
  Room::Held room;
  if (card_bytes_ > k_small_payload)
    room = answers_.of(peer)->take(card_bytes_, Clock::now() + patience_, "room for the card");
  Writer card;
  {
    const Lock lock(card_mutex_);
    card_.session = session;
    card_.tokens_left = tokens_left;
    card_.chains = chains_.of(peer);
    card_.visit(card);
  }
  user.send_payload(Card::tag, card.take());
  user.flush();
}

std::optional<RetrievalKey> ProviderService::begin(Channel& user, std::uint64_t session,
                                                   const ProviderChains::Chain& chain) {
  user.send(chain.state());
  user.set_session(session);
  if (model_.plan.open()) {
    send_embedding(user);
    user.send(vectors_of(model_.weights, model_.plan));
  }
  user.flush();
  if (!model_.plan.bfv()) return {};
  return user.receive(RetrievalKey{});
}

void ProviderService::converse(Channel& user, const std::shared_ptr<ResumableLink>& link, const Peer& peer,
                               const UserLimits& limits, Executor& executor, SessionEvents& events) {
  const std::uint64_t id = random_number();
  send_card(user, id, peer.key, limits);
  const auto agreement = user.receive(Agreement{});
  std::unique_ptr<ProviderSessions::Place> place = sessions_.open(id, peer.key, agreement, link, limits);
  ProviderChains::Chain& chain = place->chain();
  events.begin(id);
  const ResumableSessions::Kept kept = resumable_.keep(link, id, peer, false);
  std::optional<RetrievalKey> key = begin(user, id, chain);
  trim_heap();  // the card's bytes grew in steps, and left each smaller buffer behind
  link->await_frame(Clock::now() + k_filling, "the first pass",
                    k_least_payload);  // ProviderSessions says how long; material may be made meanwhile
  AesCoins coins(chain.seed(Clock::now() + patience_));
  std::optional<BfvProvider>
      bfv;  // declared behind the coins, so destroyed ahead of them: it may still be at work with them
  if (key) bfv.emplace(bfv_shape(model_.plan), std::move(*key), chain.number());
  std::unique_ptr<Burning> burning = chain.burning();
  const Marks first = burning->used();
  const auto burn = [&, charged = first](const Marks& to) mutable {
    const Marks pass = between(charged, to);
    place->charge({pass[k_pass_kind], pass[k_slot_kind]},
                  limits.allowance_now ? limits.allowance_now() : Allowance(limits));
    charged = to;
    burning->reach(to);
    link->outlast();
  };
  const auto behind_pass = [&](const PassBegin& pass, double seconds) {
    events.pass(seconds, pass.tokens, pass.heads);
    if (!chain.should_free(burning->used())) return;
    user.flush();  // the user need not wait for the disk
    chain.free(burning->used());
  };
  ProviderSession conversation(chain.plan(), model_.weights, user, coins, chain.stock(), executor, patience_,
                               bfv ? &*bfv : nullptr, first, burn, behind_pass, idle_);
  conversation.serve(place->activity());
  const PartyReport report = conversation.report();
  // Before the user hears of it, who may begin another session on the chain, or look at what was counted.
  burning.reset();
  place.reset();
  events.end();
  user.send(report);
  user.flush();
  link->settle();
}

void ProviderService::send_embedding(Channel& user) {
  // A piece at a time: the whole table is no session's to keep.
  const std::size_t vocab = model_.plan.config.vocab,
                    row_bytes = model_.plan.config.width * sizeof(EmbeddingTable::value_type);
  const std::size_t step = std::max<std::size_t>(1, (std::size_t{1} << 15) / row_bytes) * 8;
  for (std::size_t first = 0; first < vocab; first += step) {
    const EmbeddingTable rows = embedding_rows(model_.weights.embed, first, std::min(step, vocab - first));
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(rows.data());
    user.send(EmbeddingRows{Bytes(bytes, bytes + rows.size() * sizeof rows[0])});
    user.flush();
  }
}

void ProviderService::take_material(Channel& from, Stock::Source source, ProviderChains::Chain& chain,
                                    const UserLimits& limits) {
  for (;;) {
    const Frame frame = from.receive_any("offline material", most_material_);
    if (frame.tag == static_cast<std::uint16_t>(Tag::pack_end)) return;
    if (frame.tag != static_cast<std::uint16_t>(Tag::pack_material)) {
      throw Error(Code::malformed, "frame.tag", fmt::format("{}, expected PackMaterial or PackEnd", frame.tag));
    }
    on_event_(material_event(from.session(), source == Stock::Source::user ? Role::user : Role::helper,
                             frame.payload.size()));
    PackMaterial material;
    Reader reader(name_of(Tag::pack_material), frame.payload);
    material.visit(reader);
    reader.finish();
    {
      // The layers of an order's slots come one by one, of like sizes: an order that finds no room is refused with the first.
      const std::uint64_t parts = material.kind == k_slot_kind && material.layer == 0 ? model_.plan.config.layers : 1;
      const ProviderChains::Chain::Room room(chain, parts * material.material.size(), limits);
      put_in_stock(chain.stock(), source, chain.plan(), std::move(material));
    }
    chain.commit();
  }
}

void ProviderService::fill(Channel& user, std::uint64_t session, const std::string& peer, const UserLimits& limits) {
  std::shared_ptr<ProviderChains::Chain> chain = sessions_.chain_of(session, peer);
  chain->begin_filling(limits, Clock::now() + patience_);
  Accepted done;
  {
    struct End {
      ProviderChains::Chain& chain;
      ~End() { chain.end_filling(); }
    };
    const End end{*chain};
    const std::unique_ptr<Link> helper_link = dial_helper_();
    Channel helper(*helper_link, 0, patience_);
    const std::optional<Seed> standing = chain->standing();
    const PairHello hello{session,
                          peer,
                          model_.model_id,
                          chain->plan_hash(),
                          chain->number(),
                          standing.has_value(),
                          standing ? *standing : random_seed()};
    helper.send(hello);
    const Seed common =
        common_seed(reach(Reason::helper_unreachable, [&] { return helper.receive(PairAccepted{}).half; }),
                    domain::provider_helper, hello);
    helper.set_session(session);
    user.send(chain->state());
    user.flush();
    user.set_session(session);
    chain->paired(common, reach(Reason::helper_unreachable, [&] { return helper.receive(Paired{}).other; }));
    std::exception_ptr failure;  // of the helper's half, or of ours with it
    const auto take = [&](Channel& from, Stock::Source source) {
      try {
        take_material(from, source, *chain, limits);
      } catch (...) {
        chain->stock().fail(std::current_exception());
        helper_link->close();
        throw;
      }
    };
    std::jthread reader([&] {
      try {
        reach(Reason::helper_unreachable, [&] { take(helper, Stock::Source::helper); });
      } catch (...) {
        failure = std::current_exception();
      }
    });
    take(user, Stock::Source::user);
    reader.join();
    helper_link->close();
    if (failure) std::rethrow_exception(failure);
    done = chain->state();
  }
  chain.reset();  // before the user may begin another session on it
  user.send(done);
  user.flush();
}

}  // namespace permllm
