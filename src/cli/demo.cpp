#include "cli/demo.h"

#include <fmt/format.h>

#include <cmath>

#include "cli/local_parties.h"
#include "cli/offer_options.h"
#include "cli/progress.h"
#include "cli/prompt_options.h"
#include "cli/shared_options.h"
#include "service/print_event.h"
#include "user/measure.h"

namespace permllm {
namespace {

struct DemoOptions {
  LocalOptions local;
  PromptOptions prompt;
  DraftOptions draft;
  std::size_t ahead = 256;
};

void print_table(const nlohmann::json& report, const UserTraffic& traffic, Profile profile) {
  const auto mb = [](const nlohmann::json& bytes) { return bytes.get<double>() / 1e6; };
  const auto& online = report.at("online_per_token");
  const auto& offline = report.at("offline_per_token");
  const auto& seconds = report.at("seconds");
  const std::size_t answer = report.at("output_ids").size();
  const double layers = report.at("layers");
  const auto row = [](const std::string& name, const std::string& value) { fmt::print("  {:<44}{}\n", name, value); };
  fmt::print("\n");
  row("tokens: prompt, answer", fmt::format("{}, {}", report.at("prompt_tokens").get<int>(), answer));
  const bool bfv = report.at("retrieval") == name_of(Retrieval::bfv);
  row("profile", fmt::format("{}{}{}{}", name_of(profile), report.at("fused").get<bool>() ? ", norms fused" : "",
                             report.at("hidden_positions").get<bool>() ? ", positions hidden"
                             : report.at("checked").get<bool>()        ? ", products checked"
                                                                       : "",
                             bfv ? ", tokens retrieved by BFV" : ""));
  row("offline material made ahead", fmt::format("{:.2f} s", seconds.at("offline").get<double>()));
  row("time to first token", fmt::format("{:.2f} s", seconds.at("prefill").get<double>()));
  if (const std::uint64_t values = report.at("out_of_range"); values > 0)
    row("numbers out of range", fmt::format("{}: {}", values, not_to_be_trusted(report.at("trusted_tokens"))));
  if (answer > 1) {
    row("a token", fmt::format("{:.3f} s", seconds.at("decode_per_token").get<double>()));
    row("online MB a token: to user, to provider",
        fmt::format("{:.3f}, {:.3f}", mb(online.at("provider_to_user_bytes")),
                    mb(online.at("user_to_provider_bytes"))));
    row("offline MB a token: from user, from helper",
        fmt::format("{:.3f}, {:.3f}", mb(offline.at("user_to_provider_bytes")),
                    mb(offline.at("helper_to_provider_bytes"))));
    if (report.at("checked")) {
      row("checks of products, a token; keys, once",
          fmt::format("{:.4f} s; {:.3f} MB", seconds.at("checks_per_token").get<double>(),
                      mb(report.at("product_key_bytes").at("measured"))));
    }
    const double rounds = report.at("declared_per_pass").at("round_trips");
    row("round trips a pass, of them a layer",
        fmt::format("{:.0f}, {:.0f} x {:.0f} + {:.0f}", rounds, std::floor(rounds / layers), layers,
                    std::fmod(rounds, layers)));
    const auto& drafts = report.at("drafts");
    if (drafts.at("tokens") > 0) {
      row("drafts: passes; tokens drafted, kept",
          fmt::format("{}; {}, {}", report.at("passes").get<int>(), drafts.at("tokens").get<int>(),
                      drafts.at("kept").get<int>()));
      row("  offline MB of the rejected, in all", fmt::format("{:.3f}", mb(drafts.at("rejected_offline_bytes"))));
    }
  }
  fmt::print("\nWhat each party saw\n");
  row("provider",
      fmt::format("{:.1f} MB of uniform words{}, and how many tokens there were",
                  static_cast<double>(traffic.online.sent.payload_bytes + traffic.offline.sent.payload_bytes) / 1e6,
                  bfv ? " and ciphertexts" : ""));
  row("helper", "how much material was asked for; it took no part in the request");
  if (profile == Profile::open) {
    row("user", "its own question and answer; all that the public weights make of them");
    return;
  }
  row("user", profile == Profile::fast ? "its own question and answer; attention scores, other inner values permuted,"
                                       : "its own question and answer; the model's inner values permuted afresh,");
  row("", "none of its weights (a barrier to extraction, not a guarantee)");
}

void run(DemoOptions options) {
  check_prompt_options(options.prompt);
  const std::optional<std::size_t> length = options.draft.fixed();
  const bool json = options.prompt.json;
  options.local.quiet = json;
  const OfferOptions& offer = options.local.serve;
  if (!offer.synthetic) {  // a mistake is told before anything is loaded
    const Vocabulary vocabulary =
        read_vocabulary(ModelFile::open(options.local.model), offer.ids_only, offer.pre_tokenizer);
    prompt_tokens(options.prompt, Tokenizer(vocabulary), offer.context);
  }
  if (length != 0) check_drafts(takes_drafts(offer), offer.profile, length ? "--draft" : "--draft-model");
  Executor executor;
  std::optional<DraftModel> model;
  if (!options.draft.model.empty())
    model.emplace(options.draft.model, executor, late_bar("Loading the draft model", json));
  Drafts drafts = drafts_of(model ? &*model : nullptr, length, executor);
  const LocalParties parties(options.local);
  Ledger ledger;  // in memory: the chain goes with the session
  MeasuredConversation conversation([&](UserTraffic& traffic) { return parties.links(traffic); }, options.local.shape,
                                    options.local.patience(), executor, ledger, length != 0);
  const Tokenizer tokenizer(conversation.vocabulary());
  const Config& config = conversation.plan().config;
  if (model) model->check(conversation.vocabulary(), config.vocab, config.name);

  Sampler sampler(options.prompt.sampling);
  TokenPrinter printer(tokenizer, options.prompt);
  MeasuredConversation::Request request;
  request.ids = prompt_tokens(options.prompt, tokenizer, conversation.plan().slots);
  request.max_tokens = options.prompt.max_tokens;
  request.ahead = options.ahead;
  request.drafts = &drafts;
  request.choose = [&, unit = conversation.plan().choice_frac()](std::span<const std::int64_t> logits) {
    return sampler.choose(logits, unit);
  };
  request.on_token = [&](TokenId id) {
    printer.token(id);
    return !tokenizer.is_end(id);
  };
  request.on_ready = [&] {
    if (!json && !options.prompt.prompt.empty()) fmt::print("\n> {}\n\n", valid_utf8(options.prompt.prompt));
  };
  show_progress(request, options.local.quiet);
  conversation.run(request);
  nlohmann::json report = conversation.end();
  parties.complete(report);
  printer.finish();
  report["text"] = printer.text();
  if (json) {
    print_event(report);
  } else {
    print_table(report, conversation.traffic(), conversation.plan().profile);
  }
}

}  // namespace

void add_demo(CLI::App& parent) {
  const auto options = std::make_shared<DemoOptions>();
  CLI::App* command =
      parent.add_subcommand("demo", "all three parties on this machine: three processes, real TLS links");
  command->add_option("model", options->local.model, "GGUF file, or ChatGLM-6B's folder")->required();
  add_prompt_options(*command, options->prompt);
  add_network(*command, options->local.shape);
  add_local_options(*command, options->local);
  command->add_option("--ahead", options->ahead, "slots of offline material to make ahead of need")
      ->capture_default_str();
  add_draft(*command, options->draft);
  command->callback([options] { run(*options); });
}

}  // namespace permllm
