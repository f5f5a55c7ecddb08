#include "cli/audit.h"

#include <fmt/format.h>

#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "audit/deviating.h"
#include "audit/fine_tune.h"
#include "audit/honest.h"
#include "audit/regression.h"
#include "audit/shown.h"
#include "audit/sorting.h"
#include "base/text.h"
#include "cli/offer_options.h"
#include "cli/plot.h"
#include "cli/progress.h"
#include "model/load.h"
#include "permllm/error.h"
#include "service/print_event.h"

namespace permllm {
namespace {

struct Options {
  std::string path, base, plot;
  OfferOptions serve;
  std::size_t rows = 0;  // 0: 3,000, with `thorough` 12,000
  bool json = false, thorough = false, coinless = false;
};

struct Findings {
  Repeated repeated;
  std::optional<Regression> regression, coarser;  // as the plan says, and the control
  Sorting sorting, finer;                         // as the plan says, and the control
  Scores scores;
  std::vector<FineTune> fine_tunes;
  Deviating deviating;
  Logits logits;
  Embeddings embeddings;
};

constexpr std::size_t k_rows = 3000, k_thorough_rows = 12000;
constexpr std::array k_fine_tunes{0.003, 0.01, 0.02, 0.05};

nlohmann::json json_of(const Explained& by) { return {{"share", by.share}, {"chance", by.chance}}; }
nlohmann::json json_of(const Sorting& a) {
  return {{"rows", a.rows},
          {"found", a.found()},
          {"finer_bits", a.finer},
          {"rows_aligned", a.rows_aligned},
          {"pairs_aligned", a.pairs_aligned},
          {"error", a.error}};
}
nlohmann::json json_of(const Followed& f) { return {{"all", f.all}, {"top", f.top}, {"moves", f.moves}}; }

nlohmann::json json_of(const Regression& r) {
  return {{"tokens", r.tokens}, {"rows", r.rows},   {"of", r.all},
          {"held", r.held},     {"error", r.error}, {"inputs_known", r.inputs}};
}

bool violated(const Findings& f) {
  return f.repeated.own.violated() || f.scores.moves.found() || (f.regression && f.regression->held > 0);
}
std::string verdict(const Findings& f) {
  if (violated(f))
    return "VIOLATION: what a user knows of its own decides how values are rounded whose place it knows.";
  return std::string("What a user knows of its own explains nothing of how a repeated prompt moves.") +
         (f.sorting.found() ? " But values of this model stand so far apart that sorting them finds rows of gate (A2)."
                            : "");
}

void print_json(const Plan& plan, const Findings& f) {
  const OwnBits& own = f.repeated.own;
  nlohmann::json cuts = nlohmann::json::array(), points = nlohmann::json::array();
  for (const OwnBits::Cut& cut : own.cuts)
    cuts.push_back({{"of", cut.name}, {"layer", cut.layer}, {"explained", json_of(cut.by)}});
  for (const Limit::Point& point : f.repeated.limit.points)
    points.push_back({{"rows", point.rows},
                      {"output_error", point.output},
                      {"gate_up_error", point.gate_up},
                      {"measured", point.measured}});
  nlohmann::json fine_tunes = nlohmann::json::array();
  for (const FineTune& tune : f.fine_tunes)
    fine_tunes.push_back({{"size", tune.size},
                          {"rows", tune.rows},
                          {"layer", tune.layer},
                          {"matched", tune.matched},
                          {"error", tune.error}});
  print_event({{"event", "audit"},
               {"model", plan.config.name},
               {"profile", name_of(plan.profile)},
               {"fused", plan.fused},
               {"own_bits",
                {{"rows", own.rows},
                 {"moves", own.moves},
                 {"explained", json_of(own.of_row)},
                 {"cuts", cuts},
                 {"verdict", violated(f) ? "VIOLATION" : "holds"}}},
               {"a1_limit",
                {{"points", points},
                 {"rows_isolated", f.repeated.limit.rows_isolated},
                 {"pairs_isolated", f.repeated.limit.pairs_isolated}}},
               {"a1", f.regression ? nlohmann::json{{"plan", json_of(*f.regression)}, {"control", json_of(*f.coarser)}}
                                   : nlohmann::json()},
               {"a2", {{"plan", json_of(f.sorting)}, {"finer", json_of(f.finer)}}},
               {"a3",
                {{"rows", f.scores.rows},
                 {"explained", json_of(f.scores.moves)},
                 {"query", f.scores.query},
                 {"key", f.scores.key},
                 {"chance", f.scores.chance}}},
               {"b", fine_tunes},
               {"c",
                {{"rows", f.deviating.rows.all()},
                 {"gate_up_rows", f.deviating.rows.gate_up},
                 {"gate_up_right", f.deviating.gate_up_right},
                 {"down_rows", f.deviating.rows.down},
                 {"down_right", f.deviating.down_right},
                 {"output_rows", f.deviating.rows.output}}},
               {"d", {{"again", json_of(f.logits.again)}, {"near", json_of(f.logits.near)}}},
               {"e", {{"tokens", f.embeddings.tokens}, {"named", f.embeddings.named}}}});
}

void print_text(const Plan& plan, const Findings& f) {
  const OwnBits& own = f.repeated.own;
  fmt::print("{}, profile {}{}: what users of it can take, by a simulation of what they see\n",
             for_terminal(plan.config.name), name_of(plan.profile), plan.fused ? " with fused norms" : "");
  const auto heading = [](const std::string& words) { fmt::print("\n{}\n", words); };
  const auto line = [](const std::string& what, std::size_t rows, const std::string& result) {
    fmt::print("  {:<40}{:>8}  {}\n", what, rows == 0 ? "" : fmt::format("{}", rows), result);
  };
  const auto percent = [](double share) { return fmt::format("{:.2f} %", 100 * share); };
  const auto found = [&](const Explained& by) {
    return fmt::format("{} explained (chance up to {}){}", percent(std::max(0.0, by.share)), percent(by.chance),
                       by.found() ? ": VIOLATION" : "");
  };
  fmt::print("  {:<40}{:>8}\n", "", "rows");
  heading("An honest user, one prompt again and again: what its own bits explain");
  line("the row behind the first attention", own.rows,
       fmt::format("{}; a value moves by {:.1e}", found(own.of_row), own.moves));
  line("the scores of two tokens", f.scores.rows, found(f.scores.moves));
  for (const OwnBits::Cut& cut : own.cuts)
    line(fmt::format("the rounding of {}", cut.name), 0, fmt::format("{}, in layer {}", found(cut.by), cut.layer));
  line("A3: queries and keys, from scores", f.scores.rows,
       fmt::format("correlation {:.3f} and {:.3f} (chance up to {:.3f})", f.scores.query, f.scores.key,
                   f.scores.chance));
  heading("A1's limit: if it knew the place of every value, and how each was rounded; errors in the first layer");
  for (const Limit::Point& point : f.repeated.limit.points)
    line("matrix behind attention; gate and up", point.rows,
         fmt::format("{}; {}{}", percent(point.output), percent(point.gate_up), point.measured ? "" : ", carried on"));
  line("places that their value alone names", 0,
       fmt::format("{} of a row, {} of the neurons", percent(f.repeated.limit.rows_isolated),
                   percent(f.repeated.limit.pairs_isolated)));
  if (f.regression) {
    heading("A1, whole: knowing nothing, by what its own bits would decide; rows of the first matrix behind attention");
    const auto rows = [&](const char* what, const Regression& r) {
      std::string result = fmt::format("{} of {} rows held", r.held, r.all);
      if (r.held > 0) result += fmt::format(", to {}", percent(r.error));
      line(what, r.rows, r.rows == 0 ? "too few rows" : result);
    };
    rows("as this plan shows", *f.regression);
    rows("control: cuts and formats up to wire 6", *f.coarser);
  }
  heading("A2: the published attack, by sorting (arXiv 2605.04901): error of the rows of gate that stand most apart");
  for (const Sorting& a : {f.sorting, f.finer})
    line(a.finer == 0 ? "as this plan shows" : fmt::format("control: not fused, {} bits finer", a.finer), a.rows,
         fmt::format("{}: {}; {} of the places aligned, {} of these neurons", percent(a.error),
                     a.found() ? "found" : "not found", percent(a.rows_aligned), percent(a.pairs_aligned)));
  heading("B: an honest user with the public base of a fine-tuned model: error of the difference it finds");
  for (const FineTune& tune : f.fine_tunes)
    line(fmt::format("a fine-tune of {}, layer {}", percent(tune.size), tune.layer), tune.rows,
         fmt::format("{}{}", percent(tune.error), tune.error < 0.5 ? "" : ": not found"));
  heading("C: a user who answers rows of its choice");
  line("gate and up", f.deviating.rows.gate_up, percent(f.deviating.gate_up_right) + " of the entries exact");
  line("down", f.deviating.rows.down,
       f.deviating.down_right > 0 ? percent(f.deviating.down_right) + " of the entries exact" : "not measured");
  line("the whole model", f.deviating.rows.all(), "each row asks every layer");
  heading("Seen without any of this");
  line("D: logits named by value, same prompt", 0,
       fmt::format("{} of all, {} of the top ten", percent(f.logits.again.all), percent(f.logits.again.top)));
  line("   one early token changed", 0,
       fmt::format("{} of all, {} of the top ten", percent(f.logits.near.all), percent(f.logits.near.top)));
  line("E: embedding rows that name their token", 0,
       fmt::format("{} of {} tokens", percent(f.embeddings.named), f.embeddings.tokens));
  fmt::print("\n{}\n", verdict(f));
}

void plot(const std::string& path, const Plan& plan, const Limit& limit) {
  PlotLine output{"behind attention", {}}, gate_up{"gate and up", {}};
  for (const Limit::Point& point : limit.points) {
    const double rows = static_cast<double>(point.rows);
    output.points.emplace_back(rows, point.output);
    gate_up.points.emplace_back(rows, point.gate_up);
  }
  std::ofstream out(path);
  out << line_plot(plan.config.name + ": error of an honest user's limit", "rows of one token, repeated",
                   "relative error", {output, gate_up});
  if (!out.flush()) throw Error(Code::file, "--plot", fmt::format("\"{}\" cannot be written", path));
}

void run(const Options& options) {
  Executor executor;
  const OfferedModel model =
      offer_model(options.path, options.serve, executor, late_bar("Loading the model", options.json));
  const auto bar = late_bar("Auditing", options.json);
  const AuditProgress whole = [&](double share) { bar(0.99 * share); };
  AuditSubject subject{model.weights, model.plan, executor,
                       calibration_texts(model.vocabulary, model.plan.config).at(0), !options.coinless};
  if (subject.prompt.size() < 2)
    throw Error(Code::unsupported, "model", "its vocabulary makes less than two tokens of the calibration text");
  constexpr std::size_t k_rows_of_text = 1000, k_prompt = 16, k_fewest_sorted = 100, k_most_sorted = 2500;
  const std::size_t rows = options.rows != 0 ? options.rows : options.thorough ? k_thorough_rows : k_rows;
  Findings f;
  if (options.thorough) {
    f.regression = regress_on_own_bits(subject, rows, stretch(whole, 0, 0.4));
    // Of cuts that the user's own bits decide, and with as few bits of what goes into the matrix as there were then: more of them leave nothing to be seen.
    Plan coarse = model.plan;
    for (LayerFractions& layer : coarse.layers) layer.attention = frac::attention;
    coarse.check();
    f.coarser =
        regress_on_own_bits({model.weights, coarse, executor, subject.prompt, false}, rows, stretch(whole, 0.4, 0.8));
  }
  const AuditProgress progress = stretch(whole, options.thorough ? 0.8 : 0, 1);
  f.repeated = repeat_one_token(subject, rows, stretch(progress, 0, 0.3));
  f.scores = repeat_two_tokens(subject, rows, stretch(progress, 0.3, 0.45));
  const std::size_t sorted = std::clamp(rows, k_fewest_sorted, k_most_sorted);
  f.sorting = align_by_sorting(subject, sorted, 0, stretch(progress, 0.45, 0.5));
  // Of a plan in which rows keep their places, too: o takes as many bits as the residual has room for, so that a row moves little.
  Plan other = Plan::make(model.weights, model.plan.ranges, model.plan.slots, model.plan.profile, false);
  if (!other.config.post_norm)
    other.layers[0].attention = std::max(other.layers[0].attention, other.residual_frac - other.layers[0].o);
  const AuditSubject control{model.weights, other, executor, subject.prompt, subject.coined};
  f.finer = align_by_sorting(control, sorted, 8, stretch(progress, 0.5, 0.55));
  if (options.base.empty()) {
    f.fine_tunes = recover_fine_tunes(subject, k_rows_of_text, k_fine_tunes, stretch(progress, 0.55, 0.85));
  } else {
    const IntWeights base = load_int_weights(ModelFile::open(options.base), executor);
    f.fine_tunes = {recover_fine_tune(subject, k_rows_of_text, base, stretch(progress, 0.55, 0.85))};
  }
  f.deviating = probe_rows(subject, stretch(progress, 0.85, 0.95));
  f.logits = follow_logits(subject, k_prompt, stretch(progress, 0.95, 1));
  f.embeddings = name_embeddings(subject);
  bar(1);
  if (!options.plot.empty()) plot(options.plot, model.plan, f.repeated.limit);
  options.json ? print_json(model.plan, f) : print_text(model.plan, f);
}

}  // namespace

void add_audit(CLI::App& parent) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = parent.add_subcommand(
      "audit", "what users can take of a model's weights, measured on a simulation of what they see");
  command->add_option("model", options->path, "GGUF file")->required();
  add_offer_options(*command, options->serve);
  command
      ->add_option(
          "--rows", options->rows,
          fmt::format("tokens that a user has the model run through; beyond {} figures are carried on", k_most_repeats))
      ->default_str(fmt::format("{}, with --thorough {}", k_rows, k_thorough_rows))
      ->check(CLI::Range(100, 1000000000));
  command->add_option(
      "--base", options->base,
      "GGUF file of the public model that this one is a fine-tune of; without it, made-up ones of this one are tried");
  command->add_option("--plot", options->plot, "also write the error against rows to this file, as SVG");
  command->add_flag("--thorough", options->thorough, "also the whole attack of a user who knows nothing (A1): minutes");
  command->add_flag("--json", options->json, "one JSON object, for programs");
  // The negative control of the tests: cuts as they were up to wire version 6.
  command->add_flag("--without-secret-cuts", options->coinless)->group("");
  command->callback([options] { run(*options); });
}

}  // namespace permllm
