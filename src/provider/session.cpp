#include "provider/session.h"

#include <fmt/format.h>

#include <chrono>

#include "base/heap.h"
#include "page/open_page.h"

namespace permllm {
// Hands each part of the page its packs from the stock; each pack is read once.
struct ProviderSession::StockMaterial {
  const Progress& progress;
  Stock& stock;
  Clock::duration patience;
  PartyReport used = {};

  void open(Provider& provider, Part part) {
    provider.batch = progress.of(part.kind);
    provider.packs.clear();
    const Clock::time_point deadline = Clock::now() + patience;
    for (std::size_t i = 0; i < provider.batch.count; ++i) {
      provider.packs.push_back(
          stock.take(static_cast<std::uint8_t>(part.kind), part.layer, provider.batch.index(i), deadline));
      used.bytes_of_user += provider.packs.back().user.left();
      used.bytes_of_helper += provider.packs.back().helper.left();
    }
  }
  // The user's query of a pass.
  he::Query query(const BfvShape& shape, std::uint32_t pass) {
    Pack pack = stock.take(static_cast<std::uint8_t>(Part::Kind::query), 0, pass, Clock::now() + patience);
    used.bytes_of_user += pack.user.left();
    he::Query query{shape.parameters, {}, {}};
    query.visit(pack.user);
    return query;
  }
  void close(Provider& provider, Part) {
    for (const Pack& pack : provider.packs) PERMLLM_ASSERT(pack.helper.left() == 0 && pack.user.left() == 0);
    provider.packs.clear();
  }
};

ProviderSession::ProviderSession(const Plan& plan, const IntWeights& weights, Channel& user, Coins& coins, Stock& stock,
                                 Executor& executor, Clock::duration patience, BfvProvider* bfv, const Marks& burnt,
                                 Burn burn, OnPass on_pass, Clock::duration idle)
    : plan_(plan),
      weights_(weights),
      user_(user),
      stock_(stock),
      patience_(patience),
      idle_(std::max(idle, patience)),
      timeline_(burnt[k_slot_kind]),
      keys_(plan.config.layers),
      provider_{user, coins, executor, timeline_, keys_},
      bfv_(bfv),
      burn_(std::move(burn)),
      on_pass_(std::move(on_pass)),
      progress_(burnt) {
  PERMLLM_ASSERT(plan.bfv() == (bfv != nullptr));
  reserve(keys_, plan, plan.slots - burnt[k_slot_kind]);
}

void ProviderSession::serve(SessionActivity& activity) {
  user_.allow_cancel();
  activity.last_pass = Clock::now();
  const auto ends = [&] {
    activity.last_pass = Clock::now();
    activity.in_pass = false;
  };
  for (;;) {
    try {
      const Clock::duration idle = Clock::now() - activity.last_pass.load();
      if (idle >= idle_) throw Error(Code::timeout, "the next pass", "did not arrive before the deadline");
      const Frame frame = user_.receive_any("the next pass", k_least_payload, idle_ - idle);
      if (frame.tag == static_cast<std::uint16_t>(Tag::session_end)) return;
      if (frame.tag != static_cast<std::uint16_t>(Tag::pass_begin)) {
        throw Error(Code::malformed, "frame.tag", fmt::format("{}, expected PassBegin or SessionEnd", frame.tag));
      }
      PassBegin begin;
      Reader reader(name_of(Tag::pass_begin), frame.payload);
      begin.visit(reader);
      reader.finish();
      activity.in_pass = begin.is_pass();
      const Clock::time_point began = Clock::now();
      run(begin);
      if (!activity.in_pass) continue;
      ends();
      if (on_pass_) on_pass_(begin, seconds_since(began));
      begin.tokens > 1 ? trim_heap()
                       : trim_heap_if_due();  // a prompt's pass leaves as many times more behind as it has tokens
    } catch (const Cancelled&) {
      if (!activity.in_pass) throw Error(Code::malformed, "PassCancel", "no pass is under way");
      give_up();
      ends();
    }
  }
}

// What it says goes into the log, too: without the numbers, which would tell a prompt's length.
void ProviderSession::check(const PassBegin& begin) const {
  const auto refuse = [](const char* field, const std::string& why) {
    throw Error(Code::malformed, std::string("PassBegin.") + field, why);
  };
  const bool block = begin.kind == PassBegin::block && plan_.hides_positions;
  const int least = plan_.open() ? PassBegin::rows : PassBegin::prompt,
            most = plan_.open() ? PassBegin::rows : PassBegin::retrieve;
  if (!block && (begin.kind < least || begin.kind > most)) {
    refuse("kind", fmt::format("{}, expected {} to {}{} in profile {}", begin.kind, least, most,
                               plan_.hides_positions ? fmt::format(" or {}", int{PassBegin::block}) : "",
                               name_of(plan_.profile)));
  }
  if (!plan_.open() && !begin.feeds() && sampled_.one_hot.words.empty()) refuse("kind", "no token was sampled yet");
  if (begin.kind == PassBegin::retrieve) return;
  if (begin.tokens < 1 || (begin.kind == PassBegin::sampled && begin.tokens != 1)) {
    refuse("tokens", begin.kind == PassBegin::sampled ? "expected 1" : "expected 1 or more");
  }
  const bool both_ways = plan_.prompt_slots != 0 && begin.kind == PassBegin::prompt;
  if (both_ways && (timeline_.slots() != 0 || begin.tokens != plan_.prompt_slots + 1)) {
    refuse("tokens", fmt::format("expected {} of a new chain: this model takes one prompt", plan_.prompt_slots + 1));
  }
  if (begin.dead >= (both_ways ? plan_.prompt_slots : 1)) {
    refuse("dead", both_ways ? fmt::format("expected less than {}", plan_.prompt_slots) : "expected 0");
  }
  const bool several = plan_.open() || block;
  if (begin.heads < 1 || begin.heads > (several ? std::min<std::size_t>(begin.tokens, k_most_heads) : 1)) {
    refuse("heads", several ? fmt::format("expected 1 to the number of tokens, at most {}", k_most_heads)
                            : std::string("expected 1"));
  }
  if (begin.heads > plan_.slots - progress_.pass.index(progress_.pass.count))
    refuse("heads", "the chain has no passes left");
  if (begin.tokens > plan_.slots - timeline_.slots()) refuse("tokens", "more than the chain has left");
}

void ProviderSession::run(const PassBegin& begin) {
  if (begin.kind == PassBegin::rewind && !plan_.open()) return rewind(begin.tokens);
  check(begin);
  if (begin.kind == PassBegin::retrieve) return retrieve_sampled();
  Progress next = progress_;
  next.begin(begin);
  if (burn_) burn_(next.marks(plan_));
  progress_ = next;
  append(timeline_, begin, plan_);
  // Large messages of a pass are received once all its material is here: nobody has memory of the provider for nothing, and who holds room of
  // his user's (net/room.h) does not wait for material that comes through the same room.
  stock_.await(progress_.marks(plan_), Clock::now() + patience_);
  StockMaterial material{progress_, stock_, patience_};
  const Clock::time_point began = Clock::now();
  const double waited = user_.waited_seconds(), cpu = report_of_this_process().cpu_seconds;
  plan_.open() ? walk_open(begin, material) : walk(begin, material);
  const bool follows_a_sampled = plan_.open() || begin.kind == PassBegin::block
                                     ? progress_.slot.first > 0 && begin.tokens == begin.heads
                                     : begin.kind == PassBegin::sampled;
  if (!follows_a_sampled) return;
  ++used_.passes;
  used_.bytes_of_user += material.used.bytes_of_user;
  used_.bytes_of_helper += material.used.bytes_of_helper;
  used_.pass_seconds += seconds_since(began);
  used_.pass_waited += user_.waited_seconds() - waited;
  used_.pass_cpu += report_of_this_process().cpu_seconds - cpu;
}

void ProviderSession::walk_open(const PassBegin& begin, StockMaterial& material) {
  NoClear none;
  provider_.batch = progress_.slot;
  const Masked x = run_open_layers(provider_, plan_, weights_, hand_rows(provider_, plan_, {}), material, none);
  run_open_pass(provider_, plan_, weights_, plan_.config.post_norm ? Masked{} : x.last(begin.heads), material, none);
}

void ProviderSession::walk(const PassBegin& begin, StockMaterial& material) {
  const std::uint32_t pass = progress_.pass.index(0);
  if (bfv_ != nullptr) bfv_->prepare(material.query(bfv_shape(plan_), pass));
  Masked rows;
  if (begin.feeds()) {
    for (const Batch& some : together(plan_, progress_.entry)) {
      Progress part = progress_;
      part.entry = some;
      StockMaterial entries{part, stock_, patience_};
      provider_.batch = some;
      append(rows, run_entries(provider_, plan_, weights_, prompt_one_hots(provider_, one_hot_shape(plan_)), entries));
      material.used.bytes_of_user += entries.used.bytes_of_user;
      material.used.bytes_of_helper += entries.used.bytes_of_helper;
    }
  } else {
    rows = std::move(sampled_.row);
  }
  provider_.batch = progress_.slot;
  rows = remask(provider_, embed_remask_shape(plan_), std::move(rows));
  const bool owed =
      begin.kind == PassBegin::sampled;  // the user still has to get the token's id, once that holds nobody up
  if (owed && bfv_ == nullptr) retrieve_sampled();
  const Masked x = run_layers(provider_, plan_, weights_, rows, material, [&](std::size_t layer) {
    if (layer == 0 && owed && bfv_ != nullptr) retrieve_sampled();
  });
  if (begin.kind == PassBegin::block) {
    sampled_ = {};
    retrieve(provider_,
             run_pass<NextRow::none>(provider_, plan_, weights_, x.last(begin.heads), k_no_choice, material).one_hot);
    return user_.flush();
  }
  sampled_ = run_pass(provider_, plan_, weights_, x.last(), k_no_choice, material);
  if (bfv_ != nullptr) bfv_->answer(user_.receive(RetrievalIndex{}), provider_.with_helper, pass);
}

void ProviderSession::retrieve_sampled() {
  if (bfv_ != nullptr) {
    user_.send(bfv_->reply());
  } else {
    retrieve(provider_, sampled_.one_hot);
  }
}

PartyReport ProviderSession::report() const {
  PartyReport report = used_;
  const PartyReport process = report_of_this_process();
  report.cpu_seconds = process.cpu_seconds;
  report.memory_bytes = process.memory_bytes;
  return report;
}

void ProviderSession::rewind(std::size_t tokens) {
  if (plan_.hides_positions)
    throw Error(Code::malformed, "PassBegin.kind", "rewind, where the user alone knows which tokens are kept");
  if (timeline_.length() == 0) throw Error(Code::malformed, "PassBegin.kind", "rewind, where no token stands");
  if (plan_.prompt_slots != 0 || tokens > timeline_.length()) {
    throw Error(Code::malformed, "PassBegin.tokens",
                plan_.prompt_slots != 0 ? "to be kept: this model takes one prompt a chain"
                                        : "to be kept: more than there are");
  }
  timeline_.rewind(tokens);
  sampled_ = {};
}

void ProviderSession::skip(std::uint32_t slot) {
  timeline_.skip(slot);
  for (std::size_t l = 0; !plan_.open() && l < plan_.config.layers; ++l)
    skip_slot(provider_, attention_shape(plan_, l), slot);
}

void ProviderSession::give_up() {
  for (std::size_t i = 0; i < progress_.slot.count; ++i) skip(progress_.slot.index(i));
  sampled_ = {};
  user_.send(PassCancelled{});
  user_.flush();
}

}  // namespace permllm
