#include "cli/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "audit/worth.h"
#include "base/text.h"
#include "cli/memory.h"
#include "cli/offer_options.h"
#include "cli/progress.h"
#include "cli/shared_options.h"
#include "model/synthetic.h"
#include "net/shaped.h"
#include "net/units.h"
#include "page/declared.h"
#include "permllm/error.h"
#include "service/print_event.h"
#include "session/model_order.h"
#include "session/product_keys.h"
#include "user/draft.h"

namespace permllm {
namespace {

struct Options {
  std::string path;
  OfferOptions serve;
  LinkShape shape{"10ms", "1gbit"};
  std::size_t users = 1, prompt = 64, answer = 256, draft = 0, machines = 1;
  std::string between = "10gbit";  // machines
  double acceptance = 0.7;
  bool json = false;
};

// What a request of so many tokens takes in all.
struct Request {
  Cost prefill, decode;                  // the prompt's pass; all passes of the answer
  std::size_t passes = 0, rejected = 0;  // of the answer; rows of drafts that are not kept
  std::size_t rejected_bytes = 0;        // offline, of these
};
Request request_of(const Plan& plan, const Options& options) {
  Request r;
  r.prefill = pass_cost(plan, 0, options.prompt, true);
  // 1 + a + ... + a^draft tokens a pass.
  double a_pass = 1, reach = 1;
  for (std::size_t i = 0; i < options.draft; ++i) a_pass += reach *= options.acceptance;
  const std::size_t tokens = options.answer - 1, block = options.draft + 1;
  const bool in_blocks = options.draft > 0 && !plan.open();
  r.passes = static_cast<std::size_t>(std::ceil(static_cast<double>(tokens) / a_pass));
  r.rejected = r.passes * block - std::min(r.passes * block, tokens);
  for (std::size_t i = 0; i < r.passes; ++i)
    r.decode += pass_cost(plan, plan.prompt_rows(options.prompt) + i * block, block, false, in_blocks);
  const auto material = [&](std::size_t rows) {
    const Cost cost = pass_cost(plan, plan.prompt_rows(options.prompt), rows, false, in_blocks);
    return cost.offline.user_to_provider + cost.offline.helper_to_provider;
  };
  if (options.draft > 0) r.rejected_bytes = r.rejected * (material(block) - material(1)) / options.draft;
  return r;
}

// Whether all machines have rows of a matrix; the embedding table is the first one's.
bool is_shared(const LinearShape& s) { return s.site != Site::next_embed; }

// Least seconds of one pass over `tokens` rows through the provider's matrices, on this machine, or on so many like it that share them.
double product_seconds(const OfferedModel& model, std::size_t tokens, std::size_t machines, Executor& executor) {
  double best = 0;
  for (int run = 0; run < 3; ++run) {
    double seconds = 0;
    for_each_matrix(model.weights, model.plan, [&](std::uint32_t, const LinearShape& s, const IntMatrix& w) {
      const bool by_layer = s.site != Site::head && s.site != Site::next_embed;
      const std::size_t n = by_layer ? tokens : 1;
      const Words x(n * s.cols, 0x123456789abcdef);
      Words y(n * s.rows);
      const Clock::time_point begin = Clock::now();
      product(w, s.out.ring, x, y, executor);
      const double taken = seconds_since(begin) / static_cast<double>(is_shared(s) ? machines : 1);
      seconds += taken * (by_layer ? static_cast<double>(model.plan.config.layers) /
                                         static_cast<double>(model.plan.config.stored_layers())
                                   : 1);
    });
    best = run == 0 ? seconds : std::min(best, seconds);
  }
  return best;
}

// What machines say to each other in one pass (ring/machines.h, mpi/join.cpp): the vectors go to the others, long ones a part to each, who pass it on
// to each other; sums come back.
struct Exchange {
  double bytes = 0, messages = 0;  // on the way of the last, one behind the other
  double seconds(double bandwidth) const {
    constexpr double k_message = 30e-6;  // to another machine of the same network, by TCP
    return (bandwidth == 0 ? 0 : 8 * bytes / bandwidth) + messages * k_message;
  }
};
Exchange exchange_of(const OfferedModel& model, std::size_t tokens, std::size_t machines) {
  Exchange all;
  if (machines == 1) return all;
  const auto others = static_cast<double>(machines - 1);
  for_each_matrix(model.weights, model.plan, [&](std::uint32_t, const LinearShape& s, const IntMatrix&) {
    if (!is_shared(s)) return;
    const bool by_layer = s.site != Site::head;
    const double word = static_cast<double>((by_layer ? tokens : 1) * s.out.ring.bytes()),
                 there = word * static_cast<double>(s.cols), back = word * static_cast<double>(s.rows);
    const bool in_parts = machines > 2 && there > k_broadcast_whole;
    const double times = by_layer ? static_cast<double>(model.plan.config.layers) /
                                        static_cast<double>(model.plan.config.stored_layers())
                                  : 1;
    all.bytes += times * (there * (in_parts ? 1 + (others - 1) / others : others) + back * others / (others + 1));
    all.messages += times * (in_parts ? 3 : 2);
  });
  return all;
}

// Latency, transfer, the provider's products, and what its machines say to each other.
struct Seconds {
  double latency = 0, transfer = 0, products = 0, exchange = 0;
  double sum() const { return latency + transfer + products + exchange; }
};

// What serving takes.
struct Estimate {
  Memory memory;                       // of one session
  std::size_t provider = 0, user = 0;  // bytes in memory: of all users' sessions; of one with its whole context
  std::size_t stock = 0;               // bytes of one request's material
  Request request;
  Cost all;                 // of one request
  Seconds prefill, decode;  // of it
  double each = 0;          // seconds of a token after the first
};

Estimate estimate(const OfferedModel& model, const Plan& plan, const Options& options, Executor& executor) {
  const double rtt = seconds_of(parse_duration(options.shape.rtt, "--rtt"));
  const Request request = request_of(plan, options);
  const double between = parse_bandwidth(options.between, "--between");
  const auto seconds = [&](const Cost& cost, std::size_t passes, std::size_t rows) {
    const NetworkSeconds network =
        network_seconds(cost, rtt, options.shape.to_user("--bandwidth"), options.shape.from_user("--bandwidth"));
    const auto times = static_cast<double>(passes);
    return Seconds{network.latency, network.transfer, times * product_seconds(model, rows, options.machines, executor),
                   times * exchange_of(model, rows, options.machines).seconds(between)};
  };
  Estimate e;
  e.request = request;
  e.memory = memory_of(model.weights, plan);
  e.provider = e.memory.provider + options.users * plan.slots * e.memory.provider_slot;
  e.user = e.memory.user + plan.slots * e.memory.user_slot;
  e.all = request.prefill + request.decode;
  e.stock = e.all.offline.user_to_provider + e.all.offline.helper_to_provider;
  e.prefill = seconds(request.prefill, 1, plan.prompt_rows(options.prompt));
  e.decode = seconds(request.decode, request.passes, options.draft + 1);
  e.each = options.answer < 2 ? 0 : e.decode.sum() / static_cast<double>(options.answer - 1);
  return e;
}

void print_json(const Plan& plan, const Options& options, const Estimate& e, const std::string& audit) {
  print_event({{"event", "plan"},
               {"model", plan.config.name},
               {"profile", name_of(plan.profile)},
               {"fused", plan.fused},
               {"hidden_positions", plan.hides_positions},
               {"checked", plan.checked},
               {"retrieval", name_of(plan.retrieval)},
               {"audit", audit},
               {"users", options.users},
               {"prompt_tokens", options.prompt},
               {"answer_tokens", options.answer},
               {"context", plan.slots},
               {"memory_bytes",
                {{"provider", e.provider},
                 {"helper", e.memory.helper},
                 {"user", e.user},
                 {"provider_weights", e.memory.provider}}},
               {"store_bytes", {{"helper", e.memory.helper}, {"provider", options.users * e.stock}}},
               {"registration_bytes", e.memory.helper},
               {"product_key_bytes", plan.checked ? product_key_bytes(plan) : 0},
               {"request",
                {{"stock_bytes", e.stock},
                 {"offline_user_to_provider_bytes", e.all.offline.user_to_provider},
                 {"offline_helper_to_provider_bytes", e.all.offline.helper_to_provider},
                 {"provider_to_user_bytes", e.all.online.provider_to_user},
                 {"user_to_provider_bytes", e.all.online.user_to_provider},
                 {"round_trips", e.all.rounds},
                 {"passes", e.request.passes},
                 {"rejected_tokens", e.request.rejected},
                 {"rejected_offline_bytes", e.request.rejected_bytes}}},
               {"seconds",
                {{"first_token", e.prefill.sum()},
                 {"token", e.each},
                 {"request", e.prefill.sum() + e.decode.sum()},
                 {"latency", e.prefill.latency + e.decode.latency},
                 {"transfer", e.prefill.transfer + e.decode.transfer},
                 {"products", e.prefill.products + e.decode.products},
                 {"between_machines", e.prefill.exchange + e.decode.exchange}}},
               {"machines", options.machines}});
}

void print_text(const Plan& plan, const Options& options, const Estimate& e, const std::string& audit) {
  const auto mb = [](std::size_t bytes) {
    return bytes < 10'000'000'000 ? fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6)
                                  : fmt::format("{:.1f} GB", static_cast<double>(bytes) / 1e9);
  };
  const auto row = [](const std::string& name, const std::string& value) { fmt::print("  {:<44}{}\n", name, value); };
  fmt::print(
      "{}, profile {}{}, retrieval {}, context {}; {} at once, each a prompt of {} tokens and an answer of {}\n\n",
      for_terminal(plan.config.name), name_of(plan.profile), plan.choices(), name_of(plan.retrieval), plan.slots,
      options.users == 1 ? "one user" : fmt::format("{} users", options.users), options.prompt, options.answer);
  fmt::print("Once\n");
  row(plan.open() ? "weights to the helper, kept there" : "masked weights to the helper, kept there",
      mb(e.memory.helper));
  if (plan.checked) row("keys for checks, to each user", mb(product_key_bytes(plan)));
  fmt::print("\nMemory\n");
  row("provider: weights; caches", fmt::format("{}; {}", mb(e.memory.provider), mb(e.provider - e.memory.provider)));
  if (options.machines > 1)
    row(fmt::format("each of its {} machines: weights, about", options.machines),
        mb(e.memory.provider / options.machines));
  row(plan.open() ? "helper: the weights" : "helper: masked weights", mb(e.memory.helper));
  row("each user", mb(e.user));
  fmt::print("\nDisk\n");
  row("helper: the weights", mb(e.memory.helper));
  row("provider: stock of these requests (--state)", mb(options.users * e.stock) + "; without --state in memory");
  fmt::print("\nA request\n");
  row("offline, ahead of need: from user, helper",
      fmt::format("{}, {}", mb(e.all.offline.user_to_provider), mb(e.all.offline.helper_to_provider)));
  row("online: to user, to provider",
      fmt::format("{}, {}", mb(e.all.online.provider_to_user), mb(e.all.online.user_to_provider)));
  row("round trips", fmt::format("{}", e.all.rounds));
  if (options.draft > 0) {
    row(fmt::format("drafts of {}, {:g} of them kept", options.draft, options.acceptance),
        fmt::format("{} passes, {} rows rejected; {} of the material", e.request.passes, e.request.rejected,
                    mb(e.request.rejected_bytes)));
  }
  row(fmt::format("first token, at {} and {}", options.shape.rtt,
                  options.shape.bandwidth == "0" ? "any bandwidth" : options.shape.bandwidth),
      fmt::format("{:.2f} s", e.prefill.sum()));
  row("a token after it", fmt::format("{:.3f} s", e.each));
  if (options.machines > 1) {
    const auto a_token = [&](double seconds) {
      return seconds / static_cast<double>(std::max<std::size_t>(1, options.answer - 1));
    };
    row(fmt::format("  products on {} machines; between them", options.machines),
        fmt::format("{:.3f}; {:.3f} s at {}", a_token(e.decode.products), a_token(e.decode.exchange),
                    options.between == "0" ? "any bandwidth" : options.between));
  }
  row("all of it: latency, transfer, products",
      fmt::format("{:.1f} s: {:.1f}, {:.1f}, {:.1f}", e.prefill.sum() + e.decode.sum(),
                  e.prefill.latency + e.decode.latency, e.prefill.transfer + e.decode.transfer,
                  e.prefill.products + e.decode.products + e.prefill.exchange + e.decode.exchange));
  fmt::print("\naudit: {}\n", audit);
  fmt::print(
      "\nProducts are the provider's matrices, timed on this machine with nothing else to do. What user and messages "
      "take comes on top, and users who\n"
      "wait at once share the processor: permllm bench measures the whole.\n");
}

void run(Options options) {
  options.serve.synthetic = is_synthetic(options.path);
  options.serve.distinct_layers = options.serve.synthetic ? 1 : 0;  // the sizes of all follow from it
  parse_duration(options.shape.rtt, "--rtt");                       // refused before the long work
  options.shape.to_user("--bandwidth");
  parse_bandwidth(options.between, "--between");
  Executor executor;
  const OfferedModel model =
      offer_model(options.path, options.serve, executor, late_bar("Loading the model", options.json));
  const Plan plan = plan_of_session(model.plan, model.hidden_positions, options.draft > 0);
  plan.check_prompt(options.prompt);
  const std::size_t slots = plan.prompt_rows(options.prompt) + (options.answer - 1) * (options.draft + 1);
  if (slots > plan.slots) {
    throw Error(Code::usage, "--context",
                fmt::format("{} is too short for a prompt of {} tokens and an answer of {}", plan.slots, options.prompt,
                            options.answer));
  }
  const Estimate e = estimate(model, plan, options, executor);
  const std::string audit = verdict_of(plan, model.weights);
  options.json ? print_json(plan, options, e, audit) : print_text(plan, options, e, audit);
}

}  // namespace

NetworkSeconds network_seconds(const Cost& cost, double round_trip, double to_user, double to_provider) {
  const auto transfer = [](std::size_t bytes, double bandwidth) {
    return bandwidth == 0 ? 0 : 8 * static_cast<double>(bytes) / bandwidth;
  };
  return {static_cast<double>(cost.rounds) * round_trip,
          transfer(cost.online.provider_to_user, to_user) + transfer(cost.online.user_to_provider, to_provider)};
}

void add_plan(CLI::App& parent) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = parent.add_subcommand(
      "plan", "memory, disk, bytes and seconds that serving a model will take, before anything is spent");
  command
      ->add_option("model", options->path,
                   "GGUF file or ChatGLM-6B's folder, or a shape: chatglm-6b, llama-7b, llama-70b, smollm2-135m")
      ->required();
  add_offer_options(*command, options->serve);
  add_network(*command, options->shape);
  add_link_shape(*command, options->shape);
  command->add_option("--users", options->users, "users at once")->capture_default_str()->check(CLI::Range(1, 100000));
  command->add_option("--prompt", options->prompt, "tokens of a prompt")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--answer", options->answer, "tokens of an answer")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--machines", options->machines, "machines like this one that the provider's matrices are on")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  command->add_option("--between", options->between, "what goes between them (10gbit); 0: any bandwidth")
      ->capture_default_str();
  command->add_option("--draft", options->draft, "drafted tokens a pass; 0: none")
      ->capture_default_str()
      ->check(CLI::Range(std::size_t{0}, k_most_draft));
  command->add_option("--acceptance", options->acceptance, "the share of drafted tokens that are kept")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  command->add_flag("--json", options->json, "one JSON object, for programs");
  command->callback([options] { run(*options); });
}

}  // namespace permllm
