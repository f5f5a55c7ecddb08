#include "provider/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <thread>

#include "base/heap.h"
#include "base/reason.h"
#include "model/embedding.h"

namespace permllm {
namespace {

constexpr auto k_filling = std::chrono::hours(24);  // the longest that material is made before a session's first pass
constexpr auto k_stalled = std::chrono::seconds(30);  // that a pass waits for its user, before others may have its place

// On the wire, about: nearly all of a card.
std::size_t bytes_of(const Vocabulary& vocabulary) {
  std::size_t bytes = vocabulary.charsmap.size() + vocabulary.chat_template.size() + 8 * vocabulary.tokens.size();
  for (const auto* texts : {&vocabulary.tokens, &vocabulary.merges}) {
    for (const std::string& text : *texts) bytes += sizeof(std::uint32_t) + text.size();
  }
  return bytes;
}

}  // namespace

ProviderService::ProviderService(OfferedModel model, Executor& executor, Clock::duration patience, Dial dial_helper,
                                 OnEvent on_event, const std::filesystem::path& state, Clock::duration grace, Clock::duration idle)
    : model_(std::move(model)), plan_hash_(model_.plan.hash()), executor_(executor), patience_(patience), idle_(std::max(idle, patience)),
      dial_helper_(std::move(dial_helper)), on_event_(std::move(on_event)), resume_limits_{.grace = grace, .kept_bytes = k_kept_bytes, .patience = patience}, most_material_(most_material(model_.plan)),
      card_{0, model_.model_id, model_.plan, std::move(model_.vocabulary), model_.plan.open() ? Seed{} : model_.mask_seed},
      chains_(state.empty() ? state : state / "stock", model_.model_id, model_.plan, on_event_) {}

struct ProviderService::Registration {
  ModelOffer offer;
  MaskedModel v;
  std::function<void(double)> progress;
  std::vector<Digest> sent;  // hashes by chunk; zeros: not yet
  bool advanced = false;  // over the connection that is open
};

void ProviderService::register_model(const std::function<void(double)>& progress) {
  Registration registration{{model_.model_id, model_.plan, masked_model_bytes(model_.plan), model_.chunk},
                            MaskedModel(model_.weights, model_.plan, model_.mask_seed), progress, {}};
  registration.sent = model_.record ? model_.record->sent() : std::vector<Digest>(registration.offer.chunks());
  for (;;) {
    registration.advanced = false;
    try {
      return reach(Reason::helper_unreachable, [&] { send_model(registration); });
    } catch (const Error& error) {
      if (!registration.advanced || (error.code() != Code::closed && error.code() != Code::timeout)) throw;
      on_event_(fmt::format("the connection to the helper was lost, registration goes on: {}", error.what()));
    }
  }
}

void ProviderService::send_model(Registration& registration) {
  const ModelOffer& offer = registration.offer;
  const std::unique_ptr<Link> link = dial_helper_();
  Channel helper(*link, 0, patience_);
  helper.send(offer);
  helper.flush();
  std::vector<std::uint32_t> missing;
  for (std::uint32_t first = 0; first < offer.chunks();) {
    const auto held = helper.receive(ModelHeld{}).hashes;
    const std::size_t expected = std::min<std::size_t>(ModelHeld::k_step, offer.chunks() - first);
    if (held.size() != expected) throw Error(Code::malformed, "ModelHeld.hashes", fmt::format("{} of them, expected {}", held.size(), expected));
    for (const Digest& hash : held) {
      if (hash == Digest{} || hash != registration.sent[first]) missing.push_back(first);
      ++first;
    }
  }
  try {
    send_chunks(registration, missing, helper);
    helper.send(ModelEnd{model_digest(offer, registration.sent)});
    helper.flush();
    helper.receive(ModelStored{});
  } catch (const Error& error) {
    if (error.code() != Code::closed) throw;
    for (;;) helper.receive(ModelTaken{});  // until the helper's refusal, if it made one
  }
  link->close();
}

void ProviderService::send_chunks(Registration& registration, std::span<const std::uint32_t> missing, Channel& helper) {
  std::vector<ModelChunk> chunks(executor_.threads());
  std::size_t sent = 0, taken = 0;
  const auto await_taken = [&](std::size_t most) {  // until at most so many are under way
    for (; sent - taken > most; ++taken) {
      const std::uint32_t number = helper.receive(ModelTaken{}).number;
      if (number != missing[taken]) throw Error(Code::malformed, "ModelTaken.number", fmt::format("{}, expected {}", number, missing[taken]));
      registration.advanced = true;
      if (registration.progress) registration.progress(static_cast<double>(taken + 1) / static_cast<double>(missing.size()));
    }
  };
  while (sent < missing.size()) {
    const std::size_t count = std::min(chunks.size(), missing.size() - sent);
    executor_.parallel(count, [&](std::size_t i) {
      ModelChunk& chunk = chunks[i];
      chunk.number = missing[sent + i];
      chunk.bytes.resize(registration.offer.chunk_bytes(chunk.number));
      registration.v.fill(std::uint64_t{chunk.number} * registration.offer.chunk, chunk.bytes);
      chunk.hash = chunk_hash(chunk.bytes);
    });
    for (std::size_t i = 0; i < count; ++i) {
      await_taken(ModelTaken::k_window - 1);
      registration.sent[chunks[i].number] = chunks[i].hash;
      if (model_.record) model_.record->set_sent(chunks[i].number, chunks[i].hash);
      helper.send(std::move(chunks[i]));
      helper.flush();
      ++sent;
    }
  }
  await_taken(0);
}

void ProviderService::watch_helper(Dial dial) { watch_ = std::make_unique<HelperWatch>(std::move(dial), ProbedModel{model_.model_id, model_.plan}); }

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
      return serve_probe(*link, first, [&](const auto&) {
        return ProbeFacts{{{model_.model_id, model_.plan}}, watch_ ? std::optional(watch_->look()) : std::nullopt};
      }, *answers_.of(peer.key));
    }
    const auto hello = message_of<Hello>(first);
    if (hello.purpose == Hello::online) {
      {
        const std::lock_guard lock(mutex_);
        admit(peer.key);
      }
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
      events.fail(error.what(), error.code(), user.session());
      user.refuse(error);
    }
  } catch (const std::exception& error) {
    events.fail(error.what(), Code::resource, user.session());
    user.refuse(Error(Code::resource, Reason::busy, "memory", "the provider has too little for this session"));
  }
  link->leave();
}

void ProviderService::converse(Channel& user, const std::shared_ptr<ResumableLink>& link, const Peer& whose, const UserLimits& limits,
                               Executor& executor, SessionEvents& events) {
  const std::string& peer = whose.key;
  const std::uint64_t id = random_number();
  std::uint64_t used_tokens = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto account = accounts_.find(peer);
    used_tokens = account == accounts_.end() ? chains_.tokens(peer) : account->second;
  }
  // A card has a megabyte and more, until it is on its way.
  const std::size_t card_bytes = bytes_of(card_.vocabulary);
  Room::Held room;
  if (card_bytes > k_small_payload) room = answers_.of(peer)->take(card_bytes, Clock::now() + patience_, "room for the card");
  Writer card;
  {
    const std::lock_guard lock(card_mutex_);
    card_.session = id;
    card_.tokens_left = limits.tokens - std::min(limits.tokens, used_tokens);
    card_.chains = chains_.of(peer);
    card_.visit(card);
  }
  user.send_payload(Card::tag, card.take());
  user.flush();
  room = nullptr;
  const auto agreement = user.receive(Agreement{});
  if (agreement.plan_hash != plan_hash_) {
    throw Error(Code::mismatch, Reason::model_changed, "Agreement.plan_hash",
                fmt::format("plan {:.8} here, {:.8} at the user", plan_hash_, agreement.plan_hash));
  }
  struct End {  // however this ends, the session is forgotten
    ProviderService& service;
    std::uint64_t session;
    const std::string& peer;
    End(ProviderService& s, std::uint64_t number, const std::string& whose) : service(s), session(number), peer(whose) {}
    ~End() {
      const std::lock_guard lock(service.mutex_);
      service.sessions_.erase(session);
      if (service.sessions_of(peer) == 0) service.accounts_.erase(peer);
    }
  };
  std::optional<End> end;
  std::shared_ptr<ProviderChains::Chain> held;
  Session* session = nullptr;
  {
    const std::lock_guard lock(mutex_);
    const std::size_t own = places_of(peer);
    if (own >= limits.sessions) {
      throw Error(Code::resource, Reason::busy, "session", fmt::format("{} of this user are open, the limit is {}; end one", own, limits.sessions));
    }
    const std::uint64_t gives_way = admit(peer);  // others may have come since
    held = chains_.open(peer, agreement);
    if (gives_way != 0) {
      this->end(gives_way, Error(Code::resource, Reason::session_ended, "session", "it was idle and was ended to make room for other users"));
    }
    session = &sessions_[id];
    session->peer = peer;
    session->chain = held;
    session->link = link;
    end.emplace(*this, id, peer);
    accounts_.try_emplace(peer, chains_.tokens(peer));
  }
  sessions_changed_.notify_all();
  events.begin(id);
  const ResumableSessions::Kept kept = resumable_.keep(link, id, whose, false);
  ProviderChains::Chain* const chain = held.get();
  user.send(chain->state());
  user.set_session(id);
  if (model_.plan.open()) {
    send_embedding(user);
    user.send(vectors_of(model_.weights, model_.plan));
  }
  user.flush();
  std::optional<RetrievalKey> key;
  if (model_.plan.bfv()) key = user.receive(RetrievalKey{});
  trim_heap();  // of the card, whose bytes grew in steps
  link->await_frame(Clock::now() + k_filling, "the first pass", k_least_payload);  // end_unused says how long; material may be made meanwhile
  AesCoins coins(chain->seed(Clock::now() + patience_));
  std::optional<BfvProvider> bfv;  // goes before the coins do: it may still be at work
  if (key) bfv.emplace(bfv_shape(model_.plan), std::move(*key), chain->number());
  std::unique_ptr<Burning> burning = chain->burning();
  const Marks begin = burning->used();
  std::uint32_t charged = begin[k_pass_kind];
  const auto burn = [&](const Marks& to) {
    {
      const std::lock_guard lock(mutex_);
      session->used = true;
      std::uint64_t& used = accounts_.at(peer);
      const std::uint32_t more = to[k_pass_kind] - charged;
      if (used + more > limits.tokens) throw Error(Code::resource, Reason::allowance_used_up, "allowance", fmt::format("all {} tokens of the invite are used", limits.tokens));
      used += more;
      charged += more;
    }
    burning->reach(to);
    link->outlast();
  };
  const auto behind_pass = [&](double seconds) {
    events.pass(seconds);
    if (!chain->should_free(burning->used())) return;
    user.flush();  // the user need not wait for the disk
    chain->free(burning->used());
  };
  ProviderSession conversation(model_.plan, model_.weights, user, coins, chain->stock(), executor, patience_, bfv ? &*bfv : nullptr, begin, burn,
                               behind_pass, idle_);
  conversation.serve(session->in_pass);
  const PartyReport report = conversation.report();
  burning.reset();  // before the user may begin another session on it
  end.reset();
  held.reset();
  user.send(report);
  user.flush();
  link->settle();
  events.end();
}

std::size_t ProviderService::sessions_of(const std::string& peer) const {
  return static_cast<std::size_t>(std::count_if(sessions_.begin(), sessions_.end(), [&](const auto& s) { return s.second.peer == peer; }));
}

std::size_t ProviderService::places_of(const std::string& peer) const {
  return static_cast<std::size_t>(std::count_if(sessions_.begin(), sessions_.end(), [&](const auto& s) { return s.second.peer == peer && !s.second.ending; }));
}

std::optional<Clock::time_point> ProviderService::Session::waits_since() const {
  const auto on_link = link->waits_since();
  return on_link ? on_link : chain->stock().waits_since();
}

std::optional<Clock::time_point> ProviderService::Session::idle_since() const {
  if (ending || in_pass) return {};
  const Clock::time_point since = waits_since().value_or(begun);
  return std::max(since, chain->filled_at().value_or(since));
}

std::uint64_t ProviderService::admit(const std::string& peer) const {
  admit_();
  const std::size_t most = most_sessions_();
  std::map<std::string, std::size_t> places;
  std::size_t taken = 0;
  for (const auto& [id, session] : sessions_) {
    if (!session.ending) ++places[session.peer], ++taken;
  }
  if (most == 0 || taken < most) return 0;
  // A pass that its user has let lie may go where no session is idle: else it would cost little to be never idle.
  const std::size_t own = places[peer];
  for (const bool in_pass : {false, true}) {
    std::uint64_t chosen = 0;
    std::pair<std::size_t, Clock::duration> best{};  // most places, longest idle
    const Clock::time_point now = Clock::now();
    for (const auto& [id, session] : sessions_) {
      if (session.ending || session.in_pass != in_pass || places[session.peer] <= own) continue;
      const auto since = in_pass ? session.waits_since() : session.idle_since();
      if (!since || (in_pass && now - *since < k_stalled)) continue;
      const std::pair mine{places[session.peer], now - *since};
      if (chosen != 0 && mine <= best) continue;
      chosen = id;
      best = mine;
    }
    if (chosen != 0) return chosen;
  }
  throw Error(Code::resource, Reason::busy, "provider", fmt::format("as many conversations are open as may be ({}, of all users)", most));
}

void ProviderService::end(std::uint64_t session, const Error& why) {
  Session& s = sessions_.at(session);
  s.ending = true;
  resumable_.remember_end(session, s.peer, why);
  s.link->end(why);
}

void ProviderService::end_unused(const std::stop_token& stop) {
  const auto patience = std::min<Clock::duration>(patience_, k_first_patience);
  std::unique_lock lock(mutex_);
  while (sessions_changed_.wait(lock, stop, [&] { return !sessions_.empty(); })) {
    for (auto& [id, session] : sessions_) {
      if (session.used || !session.link->waits_since()) continue;
      const auto since = session.idle_since();
      if (since && Clock::now() - *since >= patience) end(id, Error(Code::timeout, Reason::session_ended, "the first pass", "did not come in time"));
    }
    sessions_changed_.wait_for(lock, stop, patience / 8, [] { return false; });
    lock.unlock();
    trim_heap_if_due();  // what others let go of when it was not
    lock.lock();
  }
}

void ProviderService::send_embedding(Channel& user) {
  // A piece at a time: the whole table is no session's to keep.
  const std::size_t vocab = model_.plan.config.vocab, row_bytes = model_.plan.config.width * sizeof(EmbeddingTable::value_type);
  const std::size_t step = std::max<std::size_t>(1, (std::size_t{1} << 15) / row_bytes) * 8;
  for (std::size_t first = 0; first < vocab; first += step) {
    const EmbeddingTable rows = embedding_rows(model_.weights.embed, first, std::min(step, vocab - first));
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(rows.data());
    user.send(EmbeddingRows{Bytes(bytes, bytes + rows.size() * sizeof rows[0])});
    user.flush();
  }
}

void ProviderService::take_material(Channel& from, Stock::Source source, ProviderChains::Chain& chain, const UserLimits& limits) {
  for (;;) {
    const Frame frame = from.receive_any("offline material", most_material_);
    if (frame.tag == static_cast<std::uint16_t>(Tag::pack_end)) return;
    if (frame.tag != static_cast<std::uint16_t>(Tag::pack_material)) {
      throw Error(Code::malformed, "frame.tag", fmt::format("{}, expected PackMaterial or PackEnd", frame.tag));
    }
    on_event_(material_event(from.session(), source == Stock::Source::user ? Role::user : Role::helper, frame.payload.size()));
    PackMaterial material;
    Reader reader(name_of(Tag::pack_material), frame.payload);
    material.visit(reader);
    reader.finish();
    {
      // The layers of an order's slots come one by one, of like sizes: an order that finds no room is refused with the first.
      const std::uint64_t parts = material.kind == k_slot_kind && material.layer == 0 ? model_.plan.config.layers : 1;
      const ProviderChains::Chain::Room room(chain, parts * material.material.size(), limits);
      put_in_stock(chain.stock(), source, model_.plan, std::move(material));
    }
    chain.commit();
  }
}

void ProviderService::fill(Channel& user, std::uint64_t session, const std::string& peer, const UserLimits& limits) {
  std::shared_ptr<ProviderChains::Chain> chain;
  {
    const std::lock_guard lock(mutex_);
    const auto found = sessions_.find(session);
    if (found == sessions_.end() || found->second.peer != peer) throw Error(Code::closed, Reason::session_ended, "Hello.session", "no such session");
    chain = found->second.chain;
  }
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
    const PairHello hello{session, peer, model_.model_id, plan_hash_, chain->number(), standing.has_value(), standing ? *standing : random_seed()};
    helper.send(hello);
    const Seed common = common_seed(reach(Reason::helper_unreachable, [&] { return helper.receive(PairAccepted{}).half; }), domain::provider_helper, hello);
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
