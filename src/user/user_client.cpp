#include "user/user_client.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "session/model_mask.h"
#include "session/pairing.h"
#include "session/public_part.h"
#include "user/draft.h"

namespace permllm {

std::vector<PackOrder> orders_for(const Plan& plan, std::size_t prompt_tokens, std::size_t max_tokens, bool in_blocks) {
  return orders_between(plan, {}, target_of(plan, {}, prompt_tokens, max_tokens, in_blocks));
}

Card read_card(const UserLinks& links, Clock::duration patience) {
  const std::unique_ptr<Link> link = links.online();
  Channel provider(*link, 0, patience);
  provider.send(Hello{Hello::online, 0});
  Card card = provider.receive(Card{});
  link->close();
  return card;
}

UserClient::UserClient(const UserLinks& links, Ledger& ledger, Executor& executor, Clock::duration patience,
                       const Choose& choose, bool drafts, ProductStore* products)
    : ledger_(ledger), products_(products != nullptr ? *products : own_products_) {
  constexpr int k_tries = 4;
  for (int i = 1;; ++i) {
    online_ = nullptr;
    hold_ = nullptr;
    const std::vector<ChainRecord> before =
        ledger_
            .all();  // read before the card: chains of these that the card lacks are lost, while it cannot know of later ones
    online_link_ = std::make_unique<ResumableLink>(
        links.online(), ResumeLimits{.grace = links.grace, .patience = patience}, links.online);
    online_ = std::make_unique<Channel>(*online_link_, 0, patience);
    online_->send(Hello{Hello::online, 0});
    card_ = online_->receive(Card{});
    card_.plan = plan_of_session(card_.plan, card_.hidden_positions, drafts);
    try {
      take_chain(before, choose);
      break;
    } catch (const Error& error) {
      // Another program of this user may have taken the chain since the card was written; the next card says so.
      if (error.code() != Code::mismatch || i == k_tries) throw;
    }
  }
  online_->set_session(card_.session);
  online_link_->begin(card_.session);
  const Digest public_part = card_.plan.open() ? receive_public_part() : Digest{};
  if (card_.plan.bfv()) {
    bfv_.emplace(bfv_shape(card_.plan), record_.own);
    online_->send(bfv_->key(record_.chain));
    online_->flush();
  }
  mask_stream_ = std::make_unique<ReadableStream>(card_.model_mask);
  u_ = expansion_of(*mask_stream_, card_.plan);
  filler_ = std::make_unique<Filler>(Filler::Links{links.offline, links.helper}, card_.session, card_, u_, record_,
                                     ledger_, bfv_ ? &*bfv_ : nullptr, accepted_.made, executor, patience);
  if (card_.plan.checked) get_product_keys(public_part);
  if (!record_.paired) filler_->pair();
  coins_ = std::make_unique<AesCoins>(record_.seed);
  burning_.emplace(ledger_, record_.peer, record_.chain, record_.burnt);
  session_ = std::make_unique<UserSession>(
      card_.plan, *online_, *coins_, executor, &public_, bfv_ ? &*bfv_ : nullptr, record_.burnt,
      [this](const Marks& marks) { burning_->reach(marks); }, product_keys_ ? &*product_keys_ : nullptr);
  if (card_.plan.checked) {
    session_->on_wrong_product([this](const std::string& why) {
      products_.refuse({card_.model_id, record_.plan_hash}, why);
    });
    session_->before_checked_pass([this] { products_.require_trust(); });  // another session may have seen a wrong one
  }
  filler_->used(session_->marks());
}

// The provider's word decides which of the chains is taken. Whether one may be taken at all is decided by this side's ledger and holds.
void UserClient::take_chain(const std::vector<ChainRecord>& before, const Choose& choose) {
  const std::string plan_hash = card_.plan.hash();
  // Takes hold of a chain; not of one that another program has changed since the ledger was read.
  const auto take = [&](const ChainRecord& record) {
    hold_ = ledger_.hold(record.chain);
    const auto now = hold_ ? ledger_.find({}, record.chain) : std::nullopt;
    if (now && now->paired == record.paired && now->other == record.other && now->burnt == record.burnt) return true;
    hold_ = nullptr;
    return false;
  };
  std::vector<ChainChoice> choices;
  for (const ChainRecord& own : before) {
    if (own.model_id != card_.model_id || own.plan_hash != plan_hash) continue;
    const auto there = std::find_if(card_.chains.begin(), card_.chains.end(),
                                    [&](const ChainState& s) { return s.chain == own.chain; });
    if (there == card_.chains.end()) {  // the provider has lost or dropped it
      if (card_.chains.size() < Card::k_most_chains && take(own)) ledger_.drop(own);
      continue;
    }
    const ChainChoice choice{own.chain, there->made, later_of(own.burnt, there->burnt)};
    // A model that takes one prompt a chain needs a fresh one.
    const std::uint32_t least_room = card_.plan.prompt_slots != 0 ? static_cast<std::uint32_t>(card_.plan.slots) : 1;
    // The halves of one chain under two U would tell its masks: U r + c less U' r + c (docs/protocol.md 4.1).
    const bool of_this_mask = own.mask == Digest{} || own.mask == seed_digest(card_.model_mask, own.chain);
    // One that was burnt beyond its end, ahead of its use, has no room.
    const std::uint32_t most = *std::max_element(choice.burnt.first.begin(), choice.burnt.first.end());
    const bool fits = most <= card_.plan.slots && choice.burnt[k_slot_kind] + least_room <= card_.plan.slots;
    if (!there->busy && own.paired && of_this_mask && fits) choices.push_back(choice);
  }
  std::optional<ChainRecord> taken;
  for (const ChainChoice* chosen; !taken && (chosen = choose(card_.plan, choices)) != nullptr;) {
    const std::uint64_t chain = chosen->chain;
    const ChainRecord& own =
        *std::find_if(before.begin(), before.end(), [&](const ChainRecord& r) { return r.chain == chain; });
    if (take(own)) {
      taken = own;
    } else {  // another program of this user has it, or has had it since
      std::erase_if(choices, [&](const ChainChoice& choice) { return choice.chain == chain; });
    }
  }
  record_ = {};
  if (taken) {
    record_ = *taken;
  } else {
    do record_.chain = random_number();
    while ((hold_ = ledger_.hold(record_.chain)) == nullptr);
    record_.model_id = card_.model_id;
    record_.plan_hash = plan_hash;
  }
  online_->send(Agreement{plan_hash, record_.chain, ledger_.durable(), record_.paired, record_.burnt});
  accepted_ = receive_accepted(*online_, card_.plan);
  if (!taken && accepted_.burnt != Marks{})
    throw Error(Code::malformed, "Accepted.burnt", "pieces of a chain that is new, expected none");
  record_.burnt = later_of(record_.burnt, accepted_.burnt);
  record_.paired = record_.paired && accepted_.paired;
  if (!record_.paired)
    record_.own =
        random_seed();  // a chain whose seed the other side has forgotten is begun anew, with other coins for everything
  record_.mask = seed_digest(card_.model_mask, record_.chain);
  taken ? ledger_.change(*taken, record_) : ledger_.add(record_);
}

// Where there are none yet, of the helper, which makes them for a secret of the user's.
void UserClient::get_product_keys(const Digest& public_part) {
  const ProductStore::Of of{card_.model_id, record_.plan_hash};
  product_keys_ = products_.find(of, card_.plan, public_part);
  if (product_keys_) return;
  filler_->pair([&](Channel& helper) {
    const ProductKeyOrder order{random_seed()};
    helper.send(order);
    helper.flush();
    product_keys_ = read_product_keys(card_.plan, order.seed, [&](ProductKeyWords expected) {
      product_key_bytes_ += bound_of(expected).bytes();
      return helper.receive(std::move(expected));
    });
  });
  products_.keep(of, public_part, *product_keys_);
}

Digest UserClient::receive_public_part() {
  Bytes digests;  // of the table, and of the vectors
  const auto add = [&](std::span<const std::uint8_t> bytes) {
    const Digest digest = hash(domain::public_part, bytes);
    digests.insert(digests.end(), digest.begin(), digest.end());
  };
  const std::size_t row_bytes = card_.plan.config.width * sizeof(std::int16_t);
  for (std::size_t left = card_.plan.config.vocab * row_bytes; left > 0;) {
    const Bytes rows = online_->receive(EmbeddingRows{}).rows;
    if (rows.empty() || rows.size() % row_bytes != 0 || rows.size() > left) {
      throw Error(Code::malformed, "EmbeddingRows.rows",
                  fmt::format("{} bytes, expected rows of {} and at most {}", rows.size(), row_bytes, left));
    }
    const std::size_t begin = public_.table.size();
    public_.table.resize(begin + rows.size() / sizeof(std::int16_t));
    std::memcpy(public_.table.data() + begin, rows.data(), rows.size());
    left -= rows.size();
  }
  const PublicVectors vectors = online_->receive(PublicVectors{{}, values_of(card_.plan)});
  public_.vectors = weights_of(vectors, card_.plan);
  add({reinterpret_cast<const std::uint8_t*>(public_.table.data()), public_.table.size() * sizeof(std::int16_t)});
  add({reinterpret_cast<const std::uint8_t*>(vectors.values.data()), vectors.values.size() * sizeof(float)});
  return hash(domain::public_part, digests);
}

UserClient::~UserClient() = default;

void UserClient::make_material(std::size_t prompt_tokens, std::size_t max_tokens, std::size_t ahead, bool in_blocks) {
  const std::size_t order = std::max<std::size_t>(ahead, k_least_order);
  filler_->used(session_->marks());
  filler_->want(target_of(card_.plan, session_->marks(), prompt_tokens, max_tokens, in_blocks),
                card_.plan.prompt_rows(prompt_tokens) + ahead + order, order);
}

void UserClient::fill(const Marks& target, const OnOffline& on_progress) {
  filler_->want(target, card_.plan.slots, k_deal_batch);
  wait_for(target, on_progress, nullptr);
  filler_->end();
  filler_->check();
}

// The provider may end the session meanwhile.
bool UserClient::wait_for(const Marks& needed, const OnOffline& on_progress, const std::function<bool()>& given_up) {
  return filler_->wait_for(needed, on_progress, [&] {
    if (given_up && given_up()) return true;
    online_link_->look();
    return false;
  });
}

bool UserClient::wait_for_material(std::size_t prompt_tokens, std::size_t tokens, const OnOffline& on_progress,
                                   bool in_blocks, const std::function<bool()>& given_up) {
  return wait_for(target_of(card_.plan, session_->marks(), prompt_tokens, tokens, in_blocks), on_progress, given_up);
}

bool UserClient::wait_for_pass(std::size_t tokens, std::size_t heads, bool in_blocks,
                               const std::function<bool()>& given_up) {
  Marks next = session_->marks();
  filler_->used(next);
  const auto add = [&](std::uint8_t kind, std::size_t count) { next[kind] += static_cast<std::uint32_t>(count); };
  add(k_slot_kind, tokens);
  add(k_pass_kind, heads);
  if (in_blocks) add(k_entry_kind, tokens);
  if (card_.plan.bfv()) add(k_users_kind, heads);
  return wait_for(next, nullptr, given_up);
}

UserClient::Reports UserClient::end() {
  Reports reports;
  reports.helper = filler_->end();
  online_->send(SessionEnd{});
  reports.provider = online_->receive(PartyReport{});
  online_link_->leave();
  return reports;
}

}  // namespace permllm
