// Many users at one provider: tokens a second in all, beside one user's. All parties are in this process, over memory links with a
// simulated round trip; each user computes in a thread of its own. Material is made before the clock starts.
// Needs the model: PERMLLM_TEST_MODEL in the environment, or models/ of the source.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <barrier>
#include <cstdlib>
#include <list>
#include <thread>

#include "cli/offer_options.h"
#include "model/synthetic.h"
#include "net/shaped.h"
#include "net/units.h"
#include "support/world.h"

namespace permllm {
namespace {

constexpr Clock::duration k_patience = std::chrono::seconds(600);

std::string model_path() {
  const char* path = std::getenv("PERMLLM_TEST_MODEL");
  return path != nullptr ? path : PERMLLM_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

struct Options {
  std::vector<std::size_t> users{1, 4, 16};
  std::vector<std::string> profiles{"paper", "fast", "open"};
  std::string model = model_path(), rtt = "10ms";
  std::size_t layers = 0, width = 0;  // of a shape with random weights
  std::size_t prompt = 8, tokens = 16, long_prompt = 0;
};

// A user's links, of which the online one has the round trip.
UserLinks links_of(test::MemoryWorld& world, const std::string& user, Clock::duration rtt) {
  UserLinks links = world.links(user);
  if (rtt == Clock::duration::zero()) return links;
  links.online = [&world, user, rtt] {
    auto [near, far] = memory_links();
    return world.to_provider(
        user, {},
        {std::make_unique<Shaped>(std::move(near), rtt, 0.0), std::make_unique<Shaped>(std::move(far), rtt, 0.0)});
  };
  return links;
}

void run(const Options& options, Profile profile, std::size_t users) {
  Executor loader;
  const std::size_t slots = std::max(options.prompt, options.long_prompt) + options.tokens + 1;
  OfferOptions serve;
  serve.context = slots;
  serve.profile = profile;
  serve.synthetic = is_synthetic(options.model);
  serve.layers = options.layers;
  serve.width = options.width;
  test::MemoryWorld world({.model = offer_model(options.model, serve, loader), .patience = k_patience, .threads = 0});
  const Clock::duration rtt = parse_duration(options.rtt, "--rtt");
  std::list<Executor> executors;
  std::list<Ledger> ledgers;
  std::list<UserClient> clients;
  std::vector<UserClient*> all;
  const auto prompt_of = [&](std::size_t user) {
    return user == 0 && options.long_prompt > 0 ? options.long_prompt : options.prompt;
  };
  for (std::size_t i = 0; i < users; ++i) {
    UserClient& client = clients.emplace_back(links_of(world, std::to_string(i), rtt), ledgers.emplace_back(),
                                              executors.emplace_back(1), k_patience);
    client.make_material(prompt_of(i), options.tokens + 1, slots);
    client.wait_for_material(prompt_of(i), options.tokens + 1);
    all.push_back(&client);
  }
  // With a long prompt the first user's answer begins with it while the others decode; its tokens are not counted.
  std::vector<double> seconds(users);
  std::barrier prompted(static_cast<std::ptrdiff_t>(users));
  Clock::time_point begin;
  double cpu = 0, prefill = 0;
  Executor::Sharing sharing;
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < users; ++i) {
      threads.emplace_back([&, i] {
        UserSession& session = all[i]->session();
        const std::vector<TokenId> prompt(prompt_of(i), static_cast<TokenId>(198 + i));
        const bool late = i == 0 && options.long_prompt > 0;
        if (!late) session.prompt(prompt, test::greedy);
        prompted.arrive_and_wait();
        if (i == 0) {
          fmt::print(stderr, "the clock starts\n");  // for a profiler
          begin = Clock::now(), cpu = report_of_this_process().cpu_seconds, sharing = world.executor().sharing();
        }
        prompted.arrive_and_wait();
        if (late) {
          session.prompt(prompt, test::greedy);
          prefill = seconds_since(begin);
        } else {
          for (std::size_t t = 0; t < options.tokens; ++t) session.advance([](TokenId) { return true; }, test::greedy);
        }
        seconds[i] = seconds_since(begin);
      });
    }
  }
  cpu = report_of_this_process().cpu_seconds - cpu;
  const Executor::Sharing after = world.executor().sharing();
  const double merged = static_cast<double>(after.shares - sharing.shares) /
                        static_cast<double>(std::max<std::uint64_t>(1, after.runs - sharing.runs));
  for (UserClient* client : all) client->end();
  if (prefill > 0) seconds.erase(seconds.begin());
  if (seconds.empty()) {
    fmt::print("{:<6} {:>5} users: prefill of {} in {:.2f} s\n", name_of(profile), users, options.long_prompt, prefill);
    return;
  }
  const double tokens = static_cast<double>(options.tokens),
               slowest = *std::max_element(seconds.begin(), seconds.end());
  fmt::print(
      "{:<6} {:>5} users: {:7.2f} tokens/s in all; a user's: slowest {:.3f}, fastest {:.3f}; {:.2f} products in one; "
      "processor {:.1f} ms a token",
      name_of(profile), users, tokens * static_cast<double>(seconds.size()) / slowest, tokens / slowest,
      tokens / *std::min_element(seconds.begin(), seconds.end()), merged,
      1000 * cpu / (tokens * static_cast<double>(seconds.size())));
  if (prefill > 0) fmt::print("; beside them a prefill of {} in {:.2f} s", options.long_prompt, prefill);
  fmt::print("\n");
  std::fflush(stdout);
}

}  // namespace
}  // namespace permllm

int main(int argc, char** argv) {
  permllm::Options options;
  CLI::App app("tokens a second of many users at one provider");
  app.add_option("model", options.model, "GGUF file, or a shape with random weights")->capture_default_str();
  app.add_option("--layers", options.layers, "of a shape, where not its own");
  app.add_option("--width", options.width, "of a shape, where not its own");
  app.add_option("--users", options.users, "how many at once")->capture_default_str();
  app.add_option("--profile", options.profiles, "paper, fast, open")->capture_default_str();
  app.add_option("--rtt", options.rtt, "round trip of the online links")->capture_default_str();
  app.add_option("--prompt", options.prompt, "tokens of a prompt")->capture_default_str();
  app.add_option("--tokens", options.tokens, "tokens of an answer")->capture_default_str();
  app.add_option("--long-prompt", options.long_prompt,
                 "the first user's prompt, which it begins when the others decode; 0: as theirs")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    for (const std::string& profile : options.profiles) {
      for (const std::size_t users : options.users) permllm::run(options, permllm::profile_of(profile), users);
    }
  } catch (const permllm::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return error.exit_status();
  }
}
