#include "cli/bench.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <map>
#include <random>
#include <sstream>

#include "cli/bench_texts.h"
#include "cli/local_parties.h"
#include "cli/offer_options.h"
#include "cli/plot.h"
#include "cli/progress.h"
#include "cli/shared_options.h"
#include "model/chat_format.h"
#include "model/synthetic.h"
#include "net/units.h"
#include "ring/int_kernels.h"
#include "service/print_event.h"
#include "user/measure.h"

namespace permllm {
namespace {

struct BenchOptions {
  LocalOptions local;
  std::size_t prompt = 0, tokens = 4;  // prompt 0: what the context leaves
  DraftOptions draft;
  std::optional<double> acceptance;  // of drafts that nobody makes
  bool texts = false;                // the texts of bench_texts.h in place of random tokens
  std::vector<std::string> sweep;
  std::string out = "bench";
  bool json = false;
};

// Bytes of the cache that the cores share. The C library counts all of a chip's, of which a virtual machine may see a part.
double last_level_cache() {
  for (const char* index : {"3", "2"}) {
    std::ifstream file(fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}/size", index));
    double kilobytes = 0;
    char unit = 0;
    if (file >> kilobytes >> unit && unit == 'K') return kilobytes * 1024;
  }
  return std::max(0.0, static_cast<double>(sysconf(_SC_LEVEL3_CACHE_SIZE)));
}

// Rows of a pass, at most.
std::size_t block_of(const BenchOptions& options) {
  return options.draft.fixed().value_or(DraftLength::k_most_chosen) + 1;
}

// Guesses of which a given share is right, by chance: the tokens are told what they were guessed to be.
class AcceptedByChance : public Drafter {
 public:
  AcceptedByChance(double acceptance, std::size_t vocab) : kept_(acceptance), vocab_(vocab) {}
  std::vector<TokenId> draft(std::span<const TokenId>, std::size_t n) override {
    guesses_.resize(n);
    for (TokenId& guess : guesses_) guess = static_cast<TokenId>(random_() % vocab_);
    row_ = 0;
    return guesses_;
  }
  double acceptance() const override { return kept_.p(); }
  // What the next row of the pass samples.
  std::size_t choose() {
    if (row_ >= guesses_.size()) return 0;
    const TokenId guess = guesses_[row_++];
    return kept_(random_) ? guess : (guess + 1) % vocab_;
  }

 private:
  std::minstd_rand random_{1};
  std::bernoulli_distribution kept_;
  std::size_t vocab_, row_ = 0;
  std::vector<TokenId> guesses_;
};

// What is asked: one question of random tokens, or the texts.
std::vector<std::vector<TokenId>> questions(const BenchOptions& options, const Vocabulary& vocabulary,
                                            std::size_t vocab) {
  std::vector<std::vector<TokenId>> all;
  if (options.texts) {
    const Tokenizer tokenizer(vocabulary);
    const ChatFormat format = ChatFormat::chosen("", vocabulary);
    for (const std::string_view text : k_bench_texts)
      all.push_back(format.encode(tokenizer, {{"user", std::string(text)}}, false));
    return all;
  }
  std::minstd_rand random(1);
  std::vector<TokenId>& ids = all.emplace_back();
  for (std::size_t i = 0; i < options.prompt; ++i) ids.push_back(static_cast<TokenId>(random() % vocab));
  return all;
}

// Where logits have no names no row can be made to sample what was drafted: all drafted tokens are rejected then, and what a pass takes, which does not depend
// on that, is told of the tokens that it keeps in the mean.
double tokens_a_pass(double acceptance, std::size_t drafted) {
  double tokens = 1, reach = 1;
  for (std::size_t i = 0; i < drafted; ++i) tokens += reach *= acceptance;
  return tokens;
}

// Of all answers, over their tokens and passes. reports: those of MeasuredConversation. by_chance: tokens a pass, of passes that kept one.
nlohmann::json together(const nlohmann::json& reports, std::optional<double> by_chance) {
  double seconds = 0, tokens = 0, passes = 0, drafted = 0, kept = 0, bytes = 0, ratios = 0;
  for (const nlohmann::json& r : reports) {
    const double behind_first = static_cast<double>(r.at("output_ids").size()) - 1, own = r.at("passes");
    seconds += r.at("seconds").at("decode_per_token").get<double>() * behind_first;
    tokens += behind_first;
    passes += own;
    ratios += behind_first / own;
    drafted += r.at("drafts").at("tokens").get<double>();
    kept += r.at("drafts").at("kept").get<double>();
    bytes += r.at("drafts").at("rejected_offline_bytes").get<double>();
  }
  if (by_chance) {
    bytes *= 1 - passes * (*by_chance - 1) / drafted;
    kept = passes * (*by_chance - 1);
    tokens *= *by_chance;
    ratios *= *by_chance;
  }
  return {{"tokens", tokens},
          {"passes", passes},
          {"tokens_a_pass", ratios / static_cast<double>(reports.size())},
          {"drafted", drafted},
          {"kept", kept},
          {"rejected_offline_bytes", bytes},
          {"seconds_per_token", seconds / tokens}};
}

// One run with parties of its own.
nlohmann::json measure(const BenchOptions& options) {
  const LocalParties parties(options.local);
  // Layers that are used in turn must come from memory each time, as those of a whole model do.
  const std::size_t distinct = options.local.serve.distinct_layers;
  if (distinct != 0 && parties.layer_bytes() < last_level_cache()) {
    throw Error(Code::usage, "--distinct-layers",
                fmt::format("{} layers are {:.0f} MB, within the last-level cache of {:.0f} MB; hold more", distinct,
                            parties.layer_bytes() / 1e6, last_level_cache() / 1e6));
  }
  Executor executor;
  std::optional<DraftModel> model;
  if (!options.draft.model.empty())
    model.emplace(options.draft.model, executor, late_bar("Loading the draft model", options.local.quiet));
  Drafts drafts = drafts_of(model ? &*model : nullptr, options.draft.fixed(), executor);
  const Clock::time_point begin = Clock::now();
  Ledger ledger;  // in memory: the chain goes with the session
  MeasuredConversation conversation([&](UserTraffic& traffic) { return parties.links(traffic); }, options.local.shape,
                                    options.local.patience(), executor, ledger, options.draft.fixed() != 0);
  const double session_seconds = seconds_since(begin);
  const std::uint64_t session_bytes = conversation.traffic().online.received.payload_bytes;
  const Config& config = conversation.plan().config;
  if (model) model->check(conversation.vocabulary(), config.vocab, config.name);
  MeasuredConversation::Request request;
  request.max_tokens = options.tokens + 1;  // the first comes of the prompt's pass
  request.drafts = &drafts;
  request.choose = [](std::span<const std::int64_t> logits) {
    return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  };
  if (options.acceptance) {
    auto by_chance = std::make_unique<AcceptedByChance>(*options.acceptance, config.vocab);
    request.choose = [of = by_chance.get()](std::span<const std::int64_t>) { return of->choose(); };
    drafts.by = std::move(by_chance);
  }
  request.on_token = [](TokenId) { return true; };
  show_progress(request, options.local.quiet);
  nlohmann::json answers = nlohmann::json::array();
  for (const std::vector<TokenId>& ids : questions(options, conversation.vocabulary(), config.vocab)) {
    request.ids = ids;
    // All material is there before the clock starts, so that nobody deals while tokens are timed.
    request.ahead = ids.size() + (options.tokens + 1) * block_of(options);
    conversation.run(request);
    answers.push_back(conversation.report());
  }
  nlohmann::json report = conversation.end();
  parties.complete(report);
  std::optional<double> by_chance;
  if (options.acceptance && !conversation.plan().open())
    by_chance = tokens_a_pass(*options.acceptance, options.draft.fixed().value_or(DraftLength::k_most_chosen));
  report["all"] = together(answers, by_chance);
  if (options.texts) report["answers"] = std::move(answers);
  report.erase("output_ids");
  report["model"] = options.local.model;
  report["synthetic"] = options.local.serve.synthetic;
  report["width"] = conversation.plan().config.width;
  report["context"] = conversation.plan().slots;
  report["tokens"] = options.tokens;
  report["weight_bits"] = options.local.serve.weight_bits;
  report["rtt"] = options.local.shape.rtt;
  report["bandwidth"] = options.local.shape.bandwidth;
  report["distinct_layers"] = distinct == 0 ? conversation.plan().config.layers : distinct;
  report["layer_bytes"] = parties.layer_bytes();
  report["last_level_cache_bytes"] = last_level_cache();
  report["seconds"]["session"] = session_seconds;
  report["session_bytes"] = session_bytes;
  report["machines"] = options.local.machines;
  report["simd"] = kernels::int_target();
  report["cores"] = executor.threads();
  return report;
}

void print(const nlohmann::json& r) {
  const auto mb = [](const nlohmann::json& bytes) { return bytes.get<double>() / 1e6; };
  const auto row = [](const std::string& name, const std::string& value) { fmt::print("  {:<40}{}\n", name, value); };
  const auto& seconds = r.at("seconds");
  const auto& online = r.at("online_per_token");
  const auto& declared = r.at("declared_per_pass");
  const auto& offline = r.at("offline_per_token");
  fmt::print("{}{}, profile {}{}{}, retrieval {}, {} round trip, {}\n", r.at("model").get<std::string>(),
             r.at("synthetic").get<bool>() ? " (random weights)" : "", r.at("profile").get<std::string>(),
             r.at("fused").get<bool>() ? ", norms fused" : "",
             r.at("hidden_positions").get<bool>() ? ", positions hidden"
             : r.at("checked").get<bool>()        ? ", products checked"
                                                  : "",
             r.at("retrieval").get<std::string>(), r.at("rtt").get<std::string>(),
             r.at("bandwidth").get<std::string>());
  row("weights in memory",
      fmt::format("{} of {} layers, {} bits, {:.0f} MB; last-level cache {:.0f} MB", r.at("distinct_layers").get<int>(),
                  r.at("layers").get<int>(), r.at("weight_bits").get<int>(), mb(r.at("layer_bytes")),
                  mb(r.at("last_level_cache_bytes"))));
  row("machine",
      fmt::format(
          "{} cores for all three parties{}, {}", r.at("cores").get<int>(),
          r.at("machines") == 1 ? "" : fmt::format(", {} processes of the provider", r.at("machines").get<int>()),
          r.at("simd").get<std::string>()));
  row("load, registration",
      fmt::format("{:.1f} s, {:.1f} s", seconds.at("load").get<double>(), seconds.at("registration").get<double>()));
  row("a session's handshakes, to the user",
      fmt::format("{:.1f} s, {:.1f} MB", seconds.at("session").get<double>(), mb(r.at("session_bytes"))));
  row("offline, both makers, a token", fmt::format("{:.3f} s", seconds.at("offline_per_token").get<double>()));
  row(fmt::format("prefill of {} tokens, a token", r.at("prompt_tokens").get<int>()),
      fmt::format("{:.3f} s", seconds.at("prefill_per_token").get<double>()));
  const auto& all = r.at("all");
  if (r.contains("answers")) {
    for (const auto& answer : r.at("answers")) {
      const double passes = answer.at("passes"), tokens = static_cast<double>(answer.at("output_ids").size()) - 1;
      row(fmt::format("prompt of {} tokens: tokens, passes", answer.at("prompt_tokens").get<int>()),
          fmt::format("{:.0f}, {:.0f}: {:.2f} a pass, {:.3f} s a token", tokens, passes, tokens / passes,
                      answer.at("seconds").at("decode_per_token").get<double>()));
    }
    row("all of them: tokens a pass; a token", fmt::format("{:.2f}; {:.3f} s", all.at("tokens_a_pass").get<double>(),
                                                           all.at("seconds_per_token").get<double>()));
  }
  if (all.at("drafted") > 0) {
    row("drafted, kept; tokens a pass; a token",
        fmt::format("{:.0f}, {:.0f}; {:.2f}; {:.3f} s", all.at("drafted").get<double>(), all.at("kept").get<double>(),
                    all.at("tokens_a_pass").get<double>(), all.at("seconds_per_token").get<double>()));
    row("  offline MB of the rejected, in all", fmt::format("{:.3f}", mb(all.at("rejected_offline_bytes"))));
  }
  row(r.contains("answers") ? "the last: decode, a token" : "decode, a token",
      fmt::format("{:.3f} s", seconds.at("decode_per_token").get<double>()));
  row("  latency, transfer, compute",
      fmt::format("{:.3f}, {:.3f}, {:.3f} s", seconds.at("latency_per_token").get<double>(),
                  seconds.at("transfer_per_token").get<double>(), seconds.at("compute_per_token").get<double>()));
  for (const char* party : {"provider", "user"}) {
    const auto& p = r.at("by_party").at(party);
    row(fmt::format("  {}: busy, waiting; processor", party),
        fmt::format("{:.3f}, {:.3f}; {:.3f} s", p.at("busy_seconds_per_token").get<double>(),
                    p.at("waiting_seconds_per_token").get<double>(), p.at("cpu_seconds_per_token").get<double>()));
  }
  fmt::print("  {:<40}{:>10}{:>10}\n", "a token", "measured", "declared");
  const auto pair = [&](const char* name, const nlohmann::json& measured, const nlohmann::json& formula) {
    fmt::print("  {:<40}{:>10.3f}{:>10.3f}\n", name, mb(measured), mb(formula));
  };
  pair("online MB, provider to user", online.at("provider_to_user_bytes"), declared.at("provider_to_user_bytes"));
  pair("online MB, user to provider", online.at("user_to_provider_bytes"), declared.at("user_to_provider_bytes"));
  pair("offline MB, user to provider", offline.at("user_to_provider_bytes"),
       declared.at("offline_user_to_provider_bytes"));
  pair("offline MB, helper to provider", offline.at("helper_to_provider_bytes"),
       declared.at("offline_helper_to_provider_bytes"));
  fmt::print("  {:<40}{:>10.0f}{:>10.0f}\n", "round trips", online.at("round_trips").get<double>(),
             declared.at("round_trips").get<double>());
  if (r.at("checked")) {
    pair("once MB, helper to user: keys", r.at("product_key_bytes").at("measured"),
         r.at("product_key_bytes").at("declared"));
    row("the user's checks, a token", fmt::format("{:.4f} s", seconds.at("checks_per_token").get<double>()));
  }
  const auto& memory = r.at("memory_bytes");
  row("memory MB: provider, user, helper",
      fmt::format("{:.0f}, {:.0f}, {:.0f}", mb(memory.at("provider")), mb(memory.at("user")), mb(memory.at("helper"))));
}

// --- Sweeps -----------------------------------------------------------------------------------------------------------

// "rtt=0,1,10": one dimension of a sweep and its values.
struct Dimension {
  std::string name;
  std::vector<std::string> values;
};

constexpr const char* k_sweep_help =
    "write it like rtt=0,1,10 bandwidth=100mbit,1gbit profile=all context=32,512 prompt=64 layers=8,16 width=1024";

std::size_t parse_count(const std::string& text, const std::string& name) {
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value == 0) {
    throw Error(Code::usage, "--sweep " + name, fmt::format("\"{:.20}\" is no positive number", text));
  }
  return value;
}

void set_dimension(BenchOptions& options, const std::string& name, std::string value) {
  if (name == "rtt") {
    if (value.find_first_not_of("0123456789.") == std::string::npos && value != "0") value += "ms";
    parse_duration(value, "--sweep rtt");
    options.local.shape.rtt = value;
  } else if (name == "bandwidth") {
    options.local.shape.bandwidth = value;
    options.local.shape.to_user("--sweep bandwidth");
  } else if (name == "profile") {
    options.local.serve.profile = profile_of(value);
  } else if (name == "context") {
    options.local.serve.context = parse_count(value, name);
  } else if (name == "prompt") {
    options.prompt = parse_count(value, name);
  } else if (name == "layers") {
    options.local.serve.layers = parse_count(value, name);
  } else if (name == "width") {
    options.local.serve.width = parse_count(value, name);
  } else {
    throw Error(Code::usage, "--sweep", fmt::format("\"{:.20}\" is no dimension; {}", name, k_sweep_help));
  }
}

std::vector<Dimension> parse_sweep(const BenchOptions& options) {
  std::vector<Dimension> dimensions;
  for (const std::string& word : options.sweep) {
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos || equals + 1 == word.size()) {
      throw Error(Code::usage, "--sweep", fmt::format("\"{:.60}\" is not understood; {}", word, k_sweep_help));
    }
    Dimension& d = dimensions.emplace_back(Dimension{word.substr(0, equals), {}});
    std::istringstream in(word.substr(equals + 1));
    for (std::string value; std::getline(in, value, ',');) d.values.push_back(value);
    if (d.name == "profile" && d.values == std::vector<std::string>{"all"}) d.values = {"paper", "fast", "open"};
    BenchOptions probe = options;
    for (const std::string& value : d.values) set_dimension(probe, d.name, value);  // refused before anything runs
  }
  // Those with several values first: the first of all is the plot's horizontal axis.
  std::stable_sort(dimensions.begin(), dimensions.end(), [](const auto& x, const auto& y) {
    const auto late = [](const Dimension& d) {
      return d.values.size() < 2 ? 2 : d.name == "profile" || d.name == "bandwidth" ? 1 : 0;
    };
    return late(x) < late(y);
  });
  return dimensions;
}

// A value on the horizontal axis: milliseconds of a round trip, bits a second, or a count.
double position_of(const BenchOptions& o, const std::string& name) {
  if (name == "rtt")
    return std::chrono::duration<double, std::milli>(parse_duration(o.local.shape.rtt, "--rtt")).count();
  if (name == "bandwidth") return o.local.shape.to_user("--bandwidth") / 1e6;
  if (name == "context") return static_cast<double>(o.local.serve.context);
  if (name == "prompt") return static_cast<double>(o.prompt);
  if (name == "layers") return static_cast<double>(o.local.serve.layers);
  if (name == "width") return static_cast<double>(o.local.serve.width);
  return static_cast<double>(o.local.serve.profile);
}

void check_prompt(BenchOptions& options) {
  std::size_t& slots = options.local.serve.context;
  const std::size_t needed = options.tokens * block_of(options);
  if (options.texts) {
    constexpr std::size_t k_prompt = 128;  // tokens of each, with what the chat format puts around
    options.prompt = k_prompt;
    slots = std::max(slots, k_bench_texts.size() * (k_prompt + needed));
    return;
  }
  if (options.prompt == 0 && needed < slots) options.prompt = slots - needed;
  if (options.prompt == 0 || options.prompt + needed > slots) {
    throw Error(
        Code::usage, "--context",
        fmt::format("{} is too short for a prompt of {} tokens and {} more slots", slots, options.prompt, needed));
  }
  options.local.serve.prompt_slots =
      std::max<std::size_t>(options.prompt - 1, 1);  // of a model that has them: as many as the prompt fills
}

constexpr const char* k_columns =
    "model,layers,width,profile,fused,rtt,bandwidth,context,prompt,seconds_per_token,latency,transfer,compute,"
    "prefill_per_token,"
    "offline_per_token,provider_to_user_bytes,user_to_provider_bytes,declared_provider_to_user_bytes,declared_"
    "user_to_provider_bytes,"
    "offline_bytes,round_trips\n";

// One run in these columns. report: of measure().
std::string row_of(const BenchOptions& run, const nlohmann::json& report) {
  const auto& seconds = report.at("seconds");
  const auto& online = report.at("online_per_token");
  const auto& declared = report.at("declared_per_pass");
  const auto& offline = report.at("offline_per_token");
  const auto number = [](const nlohmann::json& value) { return value.get<double>(); };
  return fmt::format(
      "{},{},{},{},{},{},{},{},{},{:.4f},{:.4f},{:.4f},{:.4f},{:.4f},{:.4f},{:.0f},{:.0f},{:.0f},{:.0f},{:.0f},{:.0f}"
      "\n",
      run.local.model, report.at("layers").get<int>(), report.at("width").get<int>(),
      report.at("profile").get<std::string>(), report.at("fused").get<bool>(), run.local.shape.rtt,
      run.local.shape.bandwidth, run.local.serve.context, run.prompt, number(seconds.at("decode_per_token")),
      number(seconds.at("latency_per_token")), number(seconds.at("transfer_per_token")),
      number(seconds.at("compute_per_token")), number(seconds.at("prefill_per_token")),
      number(seconds.at("offline_per_token")), number(online.at("provider_to_user_bytes")),
      number(online.at("user_to_provider_bytes")), number(declared.at("provider_to_user_bytes")),
      number(declared.at("user_to_provider_bytes")),
      number(offline.at("user_to_provider_bytes")) + number(offline.at("helper_to_provider_bytes")),
      number(online.at("round_trips")));
}

// The index-th of all combinations of the dimensions' values.
struct SweepRun {
  BenchOptions options;
  std::string all, line;  // what tells it apart; by all dimensions but the first
};
SweepRun sweep_run(const BenchOptions& options, const std::vector<Dimension>& dimensions, std::size_t index) {
  SweepRun run{options, "", ""};
  run.options.local.quiet = true;
  for (std::size_t i = dimensions.size(); i-- > 0;) {
    const Dimension& d = dimensions[i];
    const std::string& value = d.values[index % d.values.size()];
    index /= d.values.size();
    set_dimension(run.options, d.name, value);
    run.all += fmt::format(" {}={}", d.name, value);
    if (i > 0 && d.values.size() > 1) run.line += fmt::format("{}{}", run.line.empty() ? "" : ", ", value);
  }
  if (run.options.local.serve.profile == Profile::open) run.options.local.serve.fused.reset();
  check_prompt(run.options);
  return run;
}

void run_sweep(const BenchOptions& options) {
  const std::vector<Dimension> dimensions = parse_sweep(options);
  std::ofstream csv(options.out + ".csv");
  if (!csv) throw Error(Code::usage, "--out", fmt::format("{}.csv cannot be written", options.out));
  csv << k_columns;
  std::map<std::string, PlotLine> seconds, bytes;  // by SweepRun::line
  std::size_t total = 1;
  for (const Dimension& d : dimensions) total *= d.values.size();
  const std::string& name = dimensions.front().name;
  for (std::size_t index = 0; index < total; ++index) {
    const SweepRun run = sweep_run(options, dimensions, index);
    if (!options.json) fmt::print(stderr, "run {} of {}:{}\n", index + 1, total, run.all);
    const nlohmann::json report = measure(run.options);
    if (options.json) print_event(report);
    csv << row_of(run.options, report);
    csv.flush();
    const double x = position_of(run.options, name);
    const auto& online = report.at("online_per_token");
    const double sent =
        online.at("provider_to_user_bytes").get<double>() + online.at("user_to_provider_bytes").get<double>();
    seconds[run.line].name = bytes[run.line].name = run.line;
    seconds[run.line].points.emplace_back(x, report.at("seconds").at("decode_per_token").get<double>());
    bytes[run.line].points.emplace_back(x, sent / 1e6);
  }
  const auto lines = [](const std::map<std::string, PlotLine>& named) {
    std::vector<PlotLine> all;
    all.reserve(named.size());
    for (const auto& [key, line] : named) all.push_back(line);
    return all;
  };
  const std::string axis = name == "rtt" ? "round-trip time, ms" : name == "bandwidth" ? "bandwidth, Mbit/s" : name;
  std::ofstream(options.out + ".svg") << line_plot(options.local.model + ": seconds a token", axis, "s",
                                                   lines(seconds));
  std::ofstream(options.out + "-bytes.svg")
      << line_plot(options.local.model + ": online MB a token", axis, "MB", lines(bytes));
  if (!options.json) fmt::print("{0}.csv, {0}.svg and {0}-bytes.svg are written\n", options.out);
}

void run(BenchOptions options) {
  if (is_synthetic(options.local.model)) options.local.serve.synthetic = true;
  if (options.local.serve.synthetic)
    synthetic_config(options.local.model, options.local.serve.layers,
                     options.local.serve.width);  // refused before anything starts
  const bool drafts = options.draft.fixed() != 0;
  if (drafts && options.sweep.empty())
    check_drafts(takes_drafts(options.local.serve), options.local.serve.profile,
                 options.draft.model.empty() ? "--draft" : "--draft-model");
  if (options.acceptance && (!drafts || !options.draft.model.empty()))
    throw Error(Code::usage, "--acceptance",
                "goes with --draft, and not with --draft-model, whose guesses are right or not");
  options.texts |= !options.draft.model.empty();
  if (options.texts && options.local.serve.synthetic)
    throw Error(Code::usage, options.draft.model.empty() ? "--texts" : "--draft-model",
                "needs a file: a shape has no vocabulary");
  options.local.serve.ids_only = !options.texts;
  if (!options.sweep.empty()) return run_sweep(options);
  check_prompt(options);
  options.local.quiet = options.json;
  const nlohmann::json report = measure(options);
  if (options.json) {
    print_event(report);
  } else {
    print(report);
  }
}

}  // namespace

void add_bench(CLI::App& parent) {
  const auto options = std::make_shared<BenchOptions>();
  options->local.serve.context = 32;
  options->local.serve.ids_only = true;
  CLI::App* command = parent.add_subcommand(
      "bench", "what a token costs: the whole protocol in three processes, over a simulated network");
  command
      ->add_option("model", options->local.model,
                   "GGUF file or ChatGLM-6B's folder, or a shape with random weights: chatglm-6b, llama-7b, llama-70b, "
                   "smollm2-135m")
      ->required();
  add_synthetic_options(*command, options->local.serve);
  add_network(*command, options->local.shape);
  command
      ->add_option("--machines", options->local.machines,
                   "processes of permllm-mpi, started by mpirun, that hold the provider's matrices together")
      ->check(CLI::Range(1, 64));
  add_local_options(*command, options->local);
  command->add_option("--prompt", options->prompt, "tokens of the prompt; 0: what the context leaves")
      ->capture_default_str();
  command->add_option("--tokens", options->tokens, "tokens to time after the first")
      ->capture_default_str()
      ->check(CLI::Range(1, 100000));
  add_draft(*command, options->draft);
  command
      ->add_option("--acceptance", options->acceptance,
                   "with --draft: keep this share of the drafted tokens, by chance, whatever the model says (paper and "
                   "fast: by the mean, of passes that keep none)")
      ->check(CLI::Range(0.0, 1.0));
  command->add_flag("--texts", options->texts,
                    "answer eight questions of code and chat, one after the other, in place of random tokens; with "
                    "--draft-model in any case");
  command->add_option("--sweep", options->sweep,
                      "several runs: rtt=0,1,10 (ms) bandwidth=100mbit,1gbit profile=all, and context, prompt, layers, "
                      "width; writes a CSV file and plots");
  command->add_option("--out", options->out, "of a sweep: path of its files, without their endings")
      ->capture_default_str();
  command->add_flag("--json", options->json, "one JSON object a run, for programs");
  command->callback([options] { run(*options); });
}

}  // namespace permllm
