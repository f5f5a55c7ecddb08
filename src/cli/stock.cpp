#include "cli/stock.h"

#include <fmt/format.h>

#include "cli/progress.h"
#include "cli/shared_options.h"
#include "permllm/client.h"
#include "service/print_event.h"
#include "service/settings.h"
#include "user/user_state.h"

namespace permllm {
namespace {

struct StockOptions {
  std::string invite, state;
  std::size_t tokens = 0, answers = 0, conversations = 1;
  PatienceOptions patience;
  bool json = false, drafts = false;
};

void print_chain(const Client::Chain& chain, bool json) {
  if (json) {
    print_event({{"event", "chain"},
                 {"chain", fmt::format("{:016x}", chain.number)},
                 {"slots", chain.tokens},
                 {"prompt_tokens", chain.prompt_tokens},
                 {"answer_tokens", chain.answer_tokens},
                 {"used_slots", chain.used},
                 {"room", chain.room},
                 {"busy", chain.busy}});
  } else {
    fmt::print("chain {:016x}: {} slots ready, for {} tokens of answers; {} used, room for {}{}\n", chain.number,
               chain.tokens, chain.answer_tokens, chain.used, chain.room, chain.busy ? "; in use" : "");
  }
}

void run(const StockOptions& options) {
  ClientOptions with = options.patience.client(options.state);
  with.drafts = options.drafts;
  const Client client(options.invite, with);
  for (std::size_t i = 0; options.tokens > 0 && i < options.conversations; ++i) {
    ProgressBar bar(options.conversations > 1
                        ? fmt::format("Offline material, conversation {} of {}", i + 1, options.conversations)
                        : "Offline material",
                    options.json);
    const double seconds =
        client.fill(i, options.tokens, options.answers > 0 ? options.answers : (options.tokens + 1) / 2,
                    [&](const AnswerProgress& progress) {
                      if (options.json) {
                        print_event({{"event", "progress"},
                                     {"conversation", i + 1},
                                     {"fraction", progress.fraction},
                                     {"seconds", progress.seconds}});
                      } else {
                        bar.show(progress.fraction, progress.seconds);
                      }
                    });
    bar.finish();
    if (options.json) print_event({{"event", "filled"}, {"conversation", i + 1}, {"seconds", seconds}});
  }
  const std::vector<Client::Chain> chains = client.stock();
  for (const Client::Chain& chain : chains) print_chain(chain, options.json);
  if (chains.empty() && !options.json) fmt::print("no offline material is in stock; --fill N makes some\n");
}

}  // namespace

void add_stock(CLI::App& parent) {
  const auto options = std::make_shared<StockOptions>();
  CLI::App* command =
      parent.add_subcommand("stock", "the user's offline material: what is there, and more of it made ahead");
  command->add_option("--invite", options->invite, "the file that the provider sent")->required();
  add_user_state(*command, options->state);
  command->add_option(
      "--fill", options->tokens,
      "make material until a conversation has so many slots (a slot a token, of questions and answers)");
  command->add_option("--answers", options->answers, "of these, tokens of answers; by default half");
  command
      ->add_option("--conversations", options->conversations,
                   "conversations to make it for: each takes a chain of its own")
      ->capture_default_str()
      ->check(CLI::Range(1, 100));
  command->add_flag("--drafts", options->drafts,
                    "for conversations with --draft, which in paper and fast have material of their own kind");
  add_patience(*command, options->patience.patience);
  command->add_flag("--json", options->json, "one JSON object a line");
  command->callback([options] { run(*options); });
  add_settings(*command);
}

}  // namespace permllm
