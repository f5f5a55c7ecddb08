#include "app/bench.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <random>
#include <sstream>

#include "app/measure.h"
#include "app/plot.h"
#include "model/synthetic.h"
#include "net/units.h"
#include "ring/int_kernels.h"

namespace permllm {
namespace {

struct BenchOptions {
  LocalOptions local;
  std::size_t prompt = 0, tokens = 4, draft = 0;  // prompt 0: what the context leaves
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

// One run with parties of its own.
nlohmann::json measure(const BenchOptions& options) {
  const LocalParties parties(options.local);
  // Layers that are used in turn must come from memory each time, as those of a whole model do.
  const std::size_t distinct = options.local.serve.distinct_layers;
  if (distinct != 0 && parties.layer_bytes() < last_level_cache()) {
    throw Error(Code::usage, "--distinct-layers", fmt::format("{} layers are {:.0f} MB, within the last-level cache of {:.0f} MB; hold more",
                                                              distinct, parties.layer_bytes() / 1e6, last_level_cache() / 1e6));
  }
  Executor executor;
  const Clock::time_point begin = Clock::now();
  MeasuredConversation conversation(parties, options.local, executor);
  const double session_seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  const std::uint64_t session_bytes = conversation.traffic().online.received.payload_bytes;
  MeasuredConversation::Request request;
  std::minstd_rand random(1);
  const std::size_t vocab = conversation.plan().config.vocab;
  for (std::size_t i = 0; i < options.prompt; ++i) request.ids.push_back(static_cast<TokenId>(random() % vocab));
  request.max_tokens = options.tokens + 1;  // the first comes of the prompt's pass
  request.draft = options.draft;
  // All material is there before the clock starts, so that nobody deals while tokens are timed.
  request.ahead = options.prompt + (options.tokens + 1) * (options.draft + 1);
  request.choose = [](std::span<const std::int64_t> logits) {
    return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  };
  request.on_token = [](TokenId) { return true; };
  conversation.run(request);
  nlohmann::json report = conversation.report();
  report.erase("output_ids");
  report["model"] = options.local.model;
  report["synthetic"] = options.local.serve.synthetic;
  report["context"] = conversation.plan().slots;
  report["tokens"] = options.tokens;
  report["rtt"] = options.local.shape.rtt;
  report["bandwidth"] = options.local.shape.bandwidth;
  report["distinct_layers"] = distinct == 0 ? conversation.plan().config.layers : distinct;
  report["layer_bytes"] = parties.layer_bytes();
  report["last_level_cache_bytes"] = last_level_cache();
  report["seconds"]["session"] = session_seconds;
  report["session_bytes"] = session_bytes;
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
  fmt::print("{}{}, profile {}{}, {} round trip, {}\n", r.at("model").get<std::string>(), r.at("synthetic").get<bool>() ? " (random weights)" : "",
             r.at("profile").get<std::string>(), r.at("fused").get<bool>() ? " with fused norms" : "", r.at("rtt").get<std::string>(),
             r.at("bandwidth").get<std::string>());
  row("weights in memory", fmt::format("{} of {} layers, {:.0f} MB; last-level cache {:.0f} MB", r.at("distinct_layers").get<int>(),
                                       r.at("layers").get<int>(), mb(r.at("layer_bytes")), mb(r.at("last_level_cache_bytes"))));
  row("machine", fmt::format("{} cores for all three parties, {}", r.at("cores").get<int>(), r.at("simd").get<std::string>()));
  row("load, registration", fmt::format("{:.1f} s, {:.1f} s", seconds.at("load").get<double>(), seconds.at("registration").get<double>()));
  row("a session's handshakes, to the user", fmt::format("{:.1f} s, {:.1f} MB", seconds.at("session").get<double>(), mb(r.at("session_bytes"))));
  row("offline, both makers, a token", fmt::format("{:.3f} s", seconds.at("offline_per_token").get<double>()));
  row(fmt::format("prefill of {} tokens, a token", r.at("prompt_tokens").get<int>()), fmt::format("{:.3f} s", seconds.at("prefill_per_token").get<double>()));
  row("decode, a token", fmt::format("{:.3f} s", seconds.at("decode_per_token").get<double>()));
  row("  latency, transfer, compute", fmt::format("{:.3f}, {:.3f}, {:.3f} s", seconds.at("latency_per_token").get<double>(),
                                                  seconds.at("transfer_per_token").get<double>(), seconds.at("compute_per_token").get<double>()));
  for (const char* party : {"provider", "user"}) {
    const auto& p = r.at("by_party").at(party);
    row(fmt::format("  {}: busy, waiting; processor", party), fmt::format("{:.3f}, {:.3f}; {:.3f} s", p.at("busy_seconds_per_token").get<double>(),
                                                                         p.at("waiting_seconds_per_token").get<double>(), p.at("cpu_seconds_per_token").get<double>()));
  }
  fmt::print("  {:<40}{:>10}{:>10}\n", "a token", "measured", "declared");
  const auto pair = [&](const char* name, const nlohmann::json& measured, const nlohmann::json& formula) {
    fmt::print("  {:<40}{:>10.3f}{:>10.3f}\n", name, mb(measured), mb(formula));
  };
  pair("online MB, provider to user", online.at("provider_to_user_bytes"), declared.at("provider_to_user_bytes"));
  pair("online MB, user to provider", online.at("user_to_provider_bytes"), declared.at("user_to_provider_bytes"));
  pair("offline MB, user to provider", offline.at("user_to_provider_bytes"), declared.at("offline_user_to_provider_bytes"));
  pair("offline MB, helper to provider", offline.at("helper_to_provider_bytes"), declared.at("offline_helper_to_provider_bytes"));
  fmt::print("  {:<40}{:>10.0f}{:>10}\n", "round trips", online.at("round_trips").get<double>(), declared.at("round_trips").get<int>());
  const auto& memory = r.at("memory_bytes");
  row("memory MB: provider, user, helper", fmt::format("{:.0f}, {:.0f}, {:.0f}", mb(memory.at("provider")), mb(memory.at("user")), mb(memory.at("helper"))));
}

// "rtt=0,1,10": values of one dimension of a sweep.
struct Sweep {
  std::vector<std::string> rtt, bandwidth;
  std::vector<Profile> profiles;
};
std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts;
  std::istringstream in(list);
  for (std::string part; std::getline(in, part, ',');) parts.push_back(part);
  return parts;
}
Sweep parse_sweep(const BenchOptions& options) {
  Sweep sweep{{options.local.shape.rtt}, {options.local.shape.bandwidth}, {options.local.serve.profile}};
  for (const std::string& word : options.sweep) {
    const std::size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const auto values = equals == std::string::npos ? std::vector<std::string>{} : split(word.substr(equals + 1));
    if (values.empty() || (name != "rtt" && name != "bandwidth" && name != "profile")) {
      throw Error(Code::usage, "--sweep", fmt::format("\"{:.60}\" is not understood; write it like rtt=0,1,10 bandwidth=100mbit,1gbit profile=all", word));
    }
    if (name == "rtt") {
      sweep.rtt = values;
      for (std::string& value : sweep.rtt) {
        if (value.find_first_not_of("0123456789.") == std::string::npos && value != "0") value += "ms";
        parse_duration(value, "--sweep rtt");
      }
    } else if (name == "bandwidth") {
      sweep.bandwidth = values;
      for (const std::string& value : values) parse_bandwidth(value, "--sweep bandwidth");
    } else {
      sweep.profiles.clear();
      for (const std::string& value : values) {
        if (value == "all") {
          sweep.profiles = {Profile::paper, Profile::fast, Profile::open};
        } else {
          sweep.profiles.push_back(profile_of(value));
        }
      }
    }
  }
  return sweep;
}

void run_sweep(const BenchOptions& options) {
  const Sweep sweep = parse_sweep(options);
  const std::string csv_name = options.out + ".csv", svg_name = options.out + ".svg";
  std::ofstream csv(csv_name);
  if (!csv) throw Error(Code::usage, "--out", fmt::format("{} cannot be written", csv_name));
  csv << "model,profile,fused,rtt,bandwidth,seconds_per_token,latency,transfer,compute,prefill_per_token,offline_per_token,"
         "provider_to_user_bytes,user_to_provider_bytes,round_trips\n";
  std::vector<PlotLine> lines;
  const std::size_t total = sweep.rtt.size() * sweep.bandwidth.size() * sweep.profiles.size();
  std::size_t done = 0;
  for (const Profile profile : sweep.profiles) {
    for (const std::string& bandwidth : sweep.bandwidth) {
      PlotLine& line = lines.emplace_back(PlotLine{fmt::format("{}, {}", name_of(profile), bandwidth), {}});
      for (const std::string& rtt : sweep.rtt) {
        if (!options.json) fmt::print(stderr, "run {} of {}: {}, {} round trip, {}\n", ++done, total, name_of(profile), rtt, bandwidth);
        BenchOptions one = options;
        one.local.quiet = true;
        one.local.serve.profile = profile;
        one.local.shape = {rtt, bandwidth};
        if (profile == Profile::open) one.local.serve.fused.reset();
        const nlohmann::json r = measure(one);
        if (options.json) print_event(r);
        const auto& s = r.at("seconds");
        const auto& o = r.at("online_per_token");
        csv << fmt::format("{},{},{},{},{},{:.4f},{:.4f},{:.4f},{:.4f},{:.4f},{:.4f},{:.0f},{:.0f},{:.0f}\n", options.local.model, name_of(profile),
                           r.at("fused").get<bool>(), rtt, bandwidth, s.at("decode_per_token").get<double>(), s.at("latency_per_token").get<double>(),
                           s.at("transfer_per_token").get<double>(), s.at("compute_per_token").get<double>(), s.at("prefill_per_token").get<double>(),
                           s.at("offline_per_token").get<double>(), o.at("provider_to_user_bytes").get<double>(),
                           o.at("user_to_provider_bytes").get<double>(), o.at("round_trips").get<double>());
        csv.flush();
        line.points.emplace_back(std::chrono::duration<double, std::milli>(parse_duration(rtt, "--rtt")).count(), s.at("decode_per_token").get<double>());
      }
    }
  }
  std::ofstream(svg_name) << line_plot(fmt::format("{}: seconds a token", options.local.model), "round-trip time, ms", "s", lines);
  if (!options.json) fmt::print("{} and {} are written\n", csv_name, svg_name);
}

void run(BenchOptions options) {
  const auto names = synthetic_names();
  if (std::find(names.begin(), names.end(), options.local.model) != names.end()) options.local.serve.synthetic = true;
  if (options.local.serve.synthetic) synthetic_config(options.local.model);  // refused before anything starts
  const std::size_t slots = options.local.serve.context, needed = options.tokens * (options.draft + 1);
  if (options.prompt == 0 && needed < slots) options.prompt = slots - needed;
  if (options.prompt == 0 || options.prompt + needed > slots) {
    throw Error(Code::usage, "--context", fmt::format("{} is too short for a prompt of {} tokens and {} more slots", slots, options.prompt, needed));
  }
  if (!options.sweep.empty()) return run_sweep(options);
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
  CLI::App* command = parent.add_subcommand("bench", "what a token costs: the whole protocol in three processes, over a simulated network");
  command->add_option("model", options->local.model, "GGUF file, or a shape with random weights: chatglm-6b, llama-7b, smollm2-135m")->required();
  command->add_flag("--synthetic", options->local.serve.synthetic, "the model is a shape with random weights (a shape's name implies it)");
  command->add_option("--distinct-layers", options->local.serve.distinct_layers, "of a shape: layers of weights to hold, used in turn; 0: all")
      ->capture_default_str();
  add_local_options(*command, options->local);
  command->add_option("--prompt", options->prompt, "tokens of the prompt; 0: what the context leaves")->capture_default_str();
  command->add_option("--tokens", options->tokens, "tokens to time after the first")->capture_default_str()->check(CLI::Range(1, 100000));
  command->add_option("--draft", options->draft, "drafted tokens a pass (profile open)")->capture_default_str()->check(CLI::Range(0, 63));
  command->add_option("--sweep", options->sweep, "several runs: rtt=0,1,10 (ms) bandwidth=100mbit,1gbit profile=all; writes a CSV file and a plot");
  command->add_option("--out", options->out, "of a sweep: path of its files, without .csv and .svg")->capture_default_str();
  command->add_flag("--json", options->json, "one JSON object a run, for programs");
  command->callback([options] { run(*options); });
}

}  // namespace permllm
