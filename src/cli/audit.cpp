#include "cli/audit.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "audit/honest.h"
#include "base/text.h"
#include "cli/offer_options.h"
#include "cli/plot.h"
#include "cli/progress.h"
#include "permllm/error.h"
#include "service/print_event.h"

namespace permllm {
namespace {

struct Options {
  std::string path, plot;
  OfferOptions serve;
  std::size_t rows = 3000;
  bool json = false, coinless = false;
};

struct Findings {
  Repeated repeated;
  Scores scores;
};

nlohmann::json json_of(const Explained& by) { return {{"share", by.share}, {"chance", by.chance}}; }

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
  print_event({{"event", "audit"},
               {"model", plan.config.name},
               {"profile", name_of(plan.profile)},
               {"fused", plan.fused},
               {"own_bits",
                {{"rows", own.rows},
                 {"moves", own.moves},
                 {"explained", json_of(own.of_row)},
                 {"cuts", cuts},
                 {"verdict", own.violated() ? "VIOLATION" : "holds"}}},
               {"a1_limit",
                {{"points", points},
                 {"rows_isolated", f.repeated.limit.rows_isolated},
                 {"pairs_isolated", f.repeated.limit.pairs_isolated}}},
               {"a3",
                {{"rows", f.scores.rows},
                 {"explained", json_of(f.scores.moves)},
                 {"query", f.scores.query},
                 {"key", f.scores.key},
                 {"chance", f.scores.chance}}}});
}

void print_text(const Plan& plan, const Findings& f) {
  const OwnBits& own = f.repeated.own;
  fmt::print("{}, profile {}{}: what users of it can take, by a simulation of what they see\n\n",
             for_terminal(plan.config.name), name_of(plan.profile), plan.fused ? " with fused norms" : "");
  const auto line = [](const std::string& attack, const std::string& who, const std::string& rows,
                       const std::string& result) {
    fmt::print("  {:<44}{:<10}{:>8}  {}\n", attack, who, rows, result);
  };
  const auto percent = [](double share) { return fmt::format("{:.2f} %", 100 * share); };
  const auto found = [&](const Explained& by) {
    return fmt::format("{} explained (by chance up to {}){}", percent(std::max(0.0, by.share)), percent(by.chance),
                       by.found() ? ": VIOLATION" : "");
  };
  line("", "user", "rows", "");
  line("own bits, row behind attention", "honest", fmt::format("{}", own.rows),
       fmt::format("moves by {:.1e}; {}", own.moves, found(own.of_row)));
  for (const OwnBits::Cut& cut : own.cuts)
    line(fmt::format("own bits, rounding of {}", cut.name), "honest", "",
         fmt::format("layer {}: {}", cut.layer, found(cut.by)));
  for (const Limit::Point& point : f.repeated.limit.points)
    line("A1's limit, all places and roundings given", "honest", fmt::format("{}", point.rows),
         fmt::format("first layer: error {} of what attention puts out, {} of gate and up{}", percent(point.output),
                     percent(point.gate_up), point.measured ? "" : " (from the line above)"));
  line("  places that their value alone names", "honest", "",
       fmt::format("{} of a row, {} of the neurons", percent(f.repeated.limit.rows_isolated),
                   percent(f.repeated.limit.pairs_isolated)));
  line("own bits, scores of two tokens", "honest", fmt::format("{}", f.scores.rows), found(f.scores.moves));
  line("A3, queries and keys by scores", "honest", fmt::format("{}", f.scores.rows),
       fmt::format("correlation {:.3f} and {:.3f} (by chance up to {:.3f})", f.scores.query, f.scores.key,
                   f.scores.chance));
  fmt::print("\n{}\n",
             own.violated()
                 ? "VIOLATION: what a user knows of its own decides how values are rounded that it sees in their place."
                 : "What a user knows of its own explains nothing of how a repeated prompt moves.");
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
  const AuditProgress first = [&](double share) { bar(0.7 * share); },
                      second = [&](double share) { bar(0.7 + 0.29 * share); };
  AuditSubject subject{model.weights, model.plan, executor,
                       calibration_texts(model.vocabulary, model.plan.config).at(0), !options.coinless};
  if (subject.prompt.size() < 2)
    throw Error(Code::unsupported, "model", "its vocabulary makes less than two tokens of the calibration text");
  Findings f;
  f.repeated = repeat_one_token(subject, options.rows, first);
  f.scores = repeat_two_tokens(subject, options.rows, second);
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
      ->capture_default_str()
      ->check(CLI::Range(100, 1000000000));
  command->add_option("--plot", options->plot, "also write the error against rows to this file, as SVG");
  command->add_flag("--json", options->json, "one JSON object, for programs");
  // The negative control of the tests: cuts as they were up to wire version 6.
  command->add_flag("--without-secret-cuts", options->coinless)->group("");
  command->callback([options] { run(*options); });
}

}  // namespace permllm
