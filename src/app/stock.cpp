#include "app/stock.h"

#include <fmt/format.h>

#include <algorithm>

#include "app/links.h"
#include "app/process.h"
#include "app/progress.h"
#include "app/settings.h"
#include "app/user_state.h"
#include "engine/user_client.h"

namespace permllm {
namespace {

struct StockOptions {
  std::string invite, state;
  std::uint32_t slots = 0, answers = 0;
  std::size_t conversations = 1;
  double patience_seconds = 120;
  bool json = false;
};

// The i-th of the chains that no session has used, the fullest first; a new one where there are not so many.
UserClient::Choose fresh_chain(std::size_t i) {
  return [i, fresh = std::vector<ChainChoice>{}](std::span<const ChainChoice> chains) mutable -> const ChainChoice* {
    fresh.clear();
    std::copy_if(chains.begin(), chains.end(), std::back_inserter(fresh), [](const ChainChoice& chain) { return chain.fresh(); });
    std::sort(fresh.begin(), fresh.end(), [](const ChainChoice& a, const ChainChoice& b) { return a.ready() > b.ready(); });
    return i < fresh.size() ? &fresh[i] : nullptr;
  };
}

void print_chains(const Card& card, Ledger& ledger, bool json) {
  std::size_t shown = 0;
  for (const ChainRecord& own : ledger.chains({}, card.model_id)) {
    const auto there = std::find_if(card.chains.begin(), card.chains.end(), [&](const ChainState& s) { return s.chain == own.chain; });
    if (there == card.chains.end()) continue;
    ++shown;
    const Marks burnt = later_of(own.burnt, there->burnt), ready = between(burnt, there->made);
    const std::uint64_t left = card.plan.slots - std::min<std::uint64_t>(card.plan.slots, burnt[k_slot_kind]);
    if (json) {
      print_event({{"event", "chain"}, {"chain", fmt::format("{:016x}", own.chain)}, {"slots", ready[k_slot_kind]}, {"prompt_tokens", ready[k_entry_kind]},
                   {"answer_tokens", ready[k_pass_kind]}, {"used_slots", burnt[k_slot_kind]}, {"room", left}, {"busy", there->busy}});
    } else {
      fmt::print("chain {:016x}: {} slots ready, for {} tokens of answers; {} used, room for {}{}\n", own.chain, ready[k_slot_kind], ready[k_pass_kind],
                 burnt[k_slot_kind], left, there->busy ? "; in use" : "");
    }
  }
  if (shown == 0 && !json) fmt::print("no offline material is in stock; --fill N makes some\n");
}

void run(const StockOptions& options) {
  const Invite invite = load_invite(options.invite);
  Ledger ledger = user_ledger(options.state);
  const auto patience = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.patience_seconds));
  UserTraffic traffic;
  const UserLinks links = links_of(invite, {}, patience, traffic);
  Executor executor;
  for (std::size_t i = 0; options.slots > 0 && i < options.conversations; ++i) {
    UserClient client(links, ledger, executor, patience, fresh_chain(i));
    const Plan& plan = client.card().plan;
    const auto slots = static_cast<std::uint32_t>(std::min<std::size_t>(options.slots, plan.slots));
    const std::uint32_t answers = std::min(options.answers > 0 ? options.answers : (slots + 1) / 2, slots);
    Marks target{{slots, plan.open() ? 0 : slots, answers, plan.bfv() ? answers : 0}};
    if (plan.prompt_slots != 0) target[k_entry_kind] = static_cast<std::uint32_t>(std::min<std::size_t>(slots, plan.prompt_slots + 1));
    ProgressBar bar(options.conversations > 1 ? fmt::format("Offline material, conversation {} of {}", i + 1, options.conversations) : "Offline material", options.json);
    client.fill(target, [&](const OfflineProgress& progress) {
      if (options.json) {
        print_event({{"event", "progress"}, {"conversation", i + 1}, {"fraction", progress.fraction}, {"seconds", progress.seconds}});
      } else {
        bar.show(progress.fraction, progress.seconds);
      }
    });
    bar.finish();
    const double seconds = client.filler().seconds();
    client.end();
    if (options.json) print_event({{"event", "filled"}, {"conversation", i + 1}, {"seconds", seconds}});
  }
  print_chains(read_card(links, patience), ledger, options.json);
}

}  // namespace

void add_stock(CLI::App& parent) {
  const auto options = std::make_shared<StockOptions>();
  CLI::App* command = parent.add_subcommand("stock", "the user's offline material: what is there, and more of it made ahead");
  command->add_option("--invite", options->invite, "the file that the provider sent")->required();
  add_user_state(*command, options->state);
  command->add_option("--fill", options->slots, "make material until a conversation has so many slots (a slot a token, of questions and answers)");
  command->add_option("--answers", options->answers, "of these, tokens of answers; by default half");
  command->add_option("--conversations", options->conversations, "conversations to make it for: each takes a chain of its own")->capture_default_str()
      ->check(CLI::Range(1, 100));
  command->add_option("--patience", options->patience_seconds, "seconds to wait for a peer before giving up")
      ->capture_default_str()->check(CLI::PositiveNumber);
  command->add_flag("--json", options->json, "one JSON object a line");
  command->callback([options] { run(*options); });
  add_settings(*command);
}

}  // namespace permllm
