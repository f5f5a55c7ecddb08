#include "user/session.h"

#include <fmt/format.h>

#include "page/open_page.h"
#include "user/draft.h"

namespace permllm {
namespace {

// The user holds no packs: a part only sets the range of addresses.
struct Indices {
  const Progress& progress;
  void open(User& user, Part part) { user.batch = progress.of(part.kind); }
  void close(User&, Part) {}
};

}  // namespace

UserSession::UserSession(const Plan& plan, Channel& provider, Coins& coins, Executor& executor, const PublicPart* part,
                         BfvUser* bfv, const Marks& burnt, Burn burn, const ProductKeys* keys)
    : plan_(plan),
      none_(no_weights(plan.config)),
      timeline_(burnt[k_slot_kind]),
      keys_(plan.config.layers),
      user_{provider, coins, timeline_, keys_, executor},
      progress_(burnt),
      bfv_(bfv),
      burn_(std::move(burn)) {
  PERMLLM_ASSERT(plan.bfv() == (bfv != nullptr));
  user_.beyond = &beyond_;
  if (plan.open()) {
    PERMLLM_ASSERT(part != nullptr);
    clear_.emplace(plan, *part, executor, keys);
  } else {
    reserve(keys_, plan, plan.slots - burnt[k_slot_kind]);
  }
}

void UserSession::begin(PassBegin begin) {
  PERMLLM_ASSERT(begin.heads <= k_most_heads);
  if (begin.tokens > plan_.slots - timeline_.slots()) {
    throw Error(Code::usage, Reason::context_exceeded, "context",
                fmt::format("{} tokens are used and {} more do not fit: the context is {}", timeline_.slots(),
                            begin.tokens, plan_.slots));
  }
  Progress next = progress_;
  next.begin(begin);
  if (burn_) burn_(next.marks(plan_));
  progress_ = next;
  passes_.push_back({length(), beyond_});
  user_.provider.send(begin);
  append(timeline_, begin, plan_);
}

void UserSession::prompt(std::span<const TokenId> tokens, const Choose& choose, const Behind& behind) {
  plan_.check_prompt(tokens.size());
  for (const TokenId token : tokens) PERMLLM_ASSERT(token < plan_.config.vocab);
  const std::vector<TokenId> rows_of = padded(tokens);
  if (plan_.open()) {
    const ShownPair seen = run_open(tokens, 1, behind);
    hidden_state_ = clear_->hidden_state(seen, 0);
    sampled_id_ = static_cast<TokenId>(choose(clear_->logits(seen, 0)));
    return;
  }
  begin({PassBegin::prompt, static_cast<std::uint32_t>(rows_of.size()),
         static_cast<std::uint32_t>(rows_of.size() - tokens.size())});
  run(feed(rows_of), choose, behind);
}

// The one-hots of a pass that has begun -> their rows, under the masks of its slots.
Mask UserSession::feed(std::span<const TokenId> tokens) {
  Mask rows;
  for (const Batch& some : together(plan_, progress_.entry)) {
    Progress part = progress_;
    part.entry = some;
    Indices entries{part};
    user_.batch = some;
    const std::span<const TokenId> these = tokens.subspan(some.first - progress_.entry.first, some.count);
    append(rows, run_entries(user_, plan_, none_, prompt_one_hots(user_, one_hot_shape(plan_), these), entries));
  }
  user_.batch = progress_.slot;
  return remask(user_, embed_remask_shape(plan_), rows);
}

// A prompt that attends both ways fills its slots with tokens that nobody sees; its last token comes behind them.
std::vector<TokenId> UserSession::padded(std::span<const TokenId> tokens) const {
  std::vector<TokenId> rows(tokens.begin(), tokens.end());
  if (!plan_.config.prefix) return rows;
  if (timeline_.slots() != 0)
    throw Error(Code::usage, "prompt", "this model takes one prompt a conversation: it attends both ways");
  if (plan_.open()) return rows;
  rows.insert(rows.end() - 1, plan_.prompt_slots + 1 - tokens.size(), 0);
  return rows;
}

TokenId UserSession::advance(const std::function<bool(TokenId)>& more, const Choose& choose) {
  if (plan_.open() || (plan_.hides_positions && sampled_.row.words.empty())) {
    const TokenId id = sampled_id_;
    advance({}, more, choose);
    return id;
  }
  PERMLLM_ASSERT(!sampled_.row.words.empty());
  begin({PassBegin::sampled, 1});
  user_.batch = progress_.slot;
  const Mask rows = remask(user_, embed_remask_shape(plan_), sampled_.row);
  struct NoMore {};
  TokenId id = 0;
  const auto go_on = [&] {
    if (!more(id)) throw NoMore{};
  };
  try {
    if (bfv_ != nullptr) {
      run(rows, choose, [&](std::size_t layer) {
        if (layer > 0) return;
        id = bfv_->open(user_.provider.receive(RetrievalReply{}));
        go_on();
      });
    } else {
      id = retrieve(user_, sampled_.one_hot)[0];
      go_on();
      run(rows, choose);
    }
  } catch (const NoMore&) {
    sampled_ = {};
    give_up();
  }
  return id;
}

void UserSession::advance(std::span<const TokenId> draft, const std::function<bool(TokenId)>& more,
                          const Choose& choose, const Done& done) {
  PERMLLM_ASSERT(plan_.takes_drafts());
  if (!plan_.open()) sampled_id_ = retrieve_last();
  if (!more(sampled_id_)) return;
  std::vector<TokenId> fed{sampled_id_};
  fed.insert(fed.end(), draft.begin(), draft.end());
  const std::size_t before = length();
  // Of all rows, those that will be rejected included: what is computed does not depend on how many are kept.
  std::vector<std::vector<std::int64_t>> logits;
  std::vector<TokenId> ids;
  if (plan_.open()) {
    const ShownPair seen = run_open(fed, fed.size());
    for (std::size_t i = 0; i < fed.size(); ++i) logits.push_back(clear_->logits(seen, i));
  } else {
    ids = run_block(fed, choose);
  }
  done();
  const auto sample = [&](std::size_t row) {
    return plan_.open() ? static_cast<TokenId>(choose(logits[row])) : ids[row];
  };
  const KeptRows kept = kept_rows(fed, sample, more);
  sampled_id_ = kept.sampled;
  keep(before + kept.rows);
}

// Hidden positions: one pass; the token that each row samples.
std::vector<TokenId> UserSession::run_block(std::span<const TokenId> fed, const Choose& choose) {
  const auto rows = static_cast<std::uint32_t>(fed.size());
  sampled_ = {};
  begin({PassBegin::block, rows, 0, rows});
  Indices material{progress_};
  const Mask x = run_layers(user_, plan_, none_, feed(fed), material);
  return retrieve(user_, run_pass<NextRow::none>(user_, plan_, none_, x.last(rows), choose, material).one_hot);
}

// The slots of all but the first n tokens become dead; the provider is told nothing.
void UserSession::keep(std::size_t n) {
  if (clear_) {
    clear_->keep(n);
  } else {
    timeline_.rewind(n);
  }
}

TokenId UserSession::retrieve_last() {
  if (plan_.open() || (plan_.hides_positions && sampled_.row.words.empty())) return sampled_id_;
  user_.provider.send(PassBegin{PassBegin::retrieve, 0});
  if (bfv_ != nullptr) return bfv_->open(user_.provider.receive(RetrievalReply{}));
  const TokenId id = retrieve(user_, sampled_.one_hot)[0];
  if (plan_.hides_positions) {  // a block feeds it by its id
    sampled_id_ = id;
    sampled_ = {};
  }
  return id;
}

void UserSession::run(const Mask& rows, const Choose& choose, const Behind& behind) {
  Indices material{progress_};
  const Mask x = run_layers(user_, plan_, none_, rows, material, behind);
  std::size_t position = 0;
  sampled_ = run_pass(
      user_, plan_, none_, x.last(), [&](std::span<const std::int64_t> logits) { return position = choose(logits); },
      material);
  if (bfv_ != nullptr) user_.provider.send(bfv_->choose(progress_.pass.index(0), position));
}

ShownPair UserSession::run_open(std::span<const TokenId> tokens, std::size_t heads, const Behind& behind) {
  if (before_checked_pass_) before_checked_pass_();
  begin({PassBegin::rows, static_cast<std::uint32_t>(tokens.size()), 0, static_cast<std::uint32_t>(heads)});
  Indices material{progress_};
  user_.batch = progress_.slot;
  const Mask rows = hand_rows(user_, plan_, clear_->begin(tokens, heads));
  const Mask x = run_open_layers(user_, plan_, none_, rows, material, *clear_, behind);
  ShownPair logits =
      run_open_pass(user_, plan_, none_, plan_.config.post_norm ? Mask{} : x.last(heads), material, *clear_);
  // At the end of a pass, not where the first wrong product is seen: the provider would learn from where the user stops which one it was.
  try {
    clear_->check(logits);
  } catch (const Error& error) {
    if (!wrong_product_) throw;
    try {
      wrong_product_(error.message());
    } catch (const Error& trouble) {  // as with a full disk: that the product was wrong is the greater news
      throw Error(error.code(), error.reason(), error.field(),
                  fmt::format("{}; and this could not be noted: {}", error.message(), trouble.what()));
    }
    throw;
  }
  return logits;
}

void UserSession::give_up() {
  user_.provider.send(PassCancel{});
  // What the provider sent before it learnt of this is of no use.
  while (user_.provider.receive_any("the end of a pass that was given up", k_cut_bytes).tag !=
         static_cast<std::uint16_t>(Tag::pass_cancelled)) {
  }
  for (std::size_t i = 0; i < progress_.slot.count; ++i) skip(progress_.slot.index(i));
  forget_beyond(length());
}

// Those of passes whose tokens are not among the first n.
void UserSession::forget_beyond(std::size_t n) {
  while (!passes_.empty() && passes_.back().length >= n) {
    beyond_ = passes_.back().beyond;
    passes_.pop_back();
  }
}

void UserSession::skip(std::uint32_t slot) {
  timeline_.skip(slot);
  for (std::size_t l = 0; !plan_.open() && l < plan_.config.layers; ++l)
    skip_slot(user_, attention_shape(plan_, l), slot);
}

void UserSession::rewind(std::size_t n) {
  PERMLLM_ASSERT(n <= length() && !plan_.config.prefix);
  forget_beyond(n);
  if (plan_.takes_drafts()) return keep(n);
  if (n == length()) return;
  user_.provider.send(PassBegin{PassBegin::rewind, static_cast<std::uint32_t>(n)});
  timeline_.rewind(n);
  sampled_ = {};
}

}  // namespace permllm
