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
#include "helper/service.h"
#include "model/synthetic.h"
#include "net/memory_link.h"
#include "net/shaped.h"
#include "net/units.h"
#include "provider/service.h"
#include "user/user_client.h"

namespace permllm {
namespace {

constexpr Clock::duration k_patience = std::chrono::seconds(600);

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

std::string model_path() {
  const char* path = std::getenv("PERMLLM_TEST_MODEL");
  return path != nullptr ? path : PERMLLM_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

std::size_t greedy(std::span<const std::int64_t> logits) {
  return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

struct Options {
  std::vector<std::size_t> users{1, 4, 16};
  std::vector<std::string> profiles{"paper", "fast", "open"};
  std::string model = model_path(), rtt = "10ms";
  std::size_t layers = 0, width = 0;  // of a shape with random weights
  std::size_t prompt = 8, tokens = 16, long_prompt = 0;
};

// Provider and helper as services, each connection in a thread.
class World {
 public:
  World(OfferedModel model, Clock::duration rtt)
      : rtt_(rtt),
        helper_(executor_, k_patience, [](const std::string&) {}),
        provider_(
            std::move(model), executor_, k_patience, [this] { return to_helper(Role::provider); },
            [](const std::string&) {}) {
    provider_.register_model(nullptr);
  }
  UserLinks links(const std::string& user) {
    return {[this, user] { return shaped(to_provider(user, true)); }, [this, user] { return to_provider(user, false); },
            [this, user] { return to_helper(Role::user, user); }};
  }
  Executor& executor() { return executor_; }

 private:
  std::unique_ptr<Link> shaped(std::unique_ptr<Link> link) {
    if (rtt_ == Clock::duration::zero()) return link;
    return std::make_unique<Shaped>(std::move(link), rtt_, 0.0);
  }
  std::unique_ptr<Link> to_helper(Role who, const std::string& user = {}) {
    auto [near, far] = memory_links();
    const std::lock_guard lock(mutex_);
    threads_.emplace_back([this, who, user, link = std::move(far)]() mutable {
      helper_.serve(std::move(link), Peer{who, {}, user, {}});
    });
    return std::move(near);
  }
  std::unique_ptr<Link> to_provider(const std::string& user, bool online) {
    auto [near, far] = memory_links();
    if (online) far = shaped(std::move(far));
    const std::lock_guard lock(mutex_);
    threads_.emplace_back([this, user, link = std::move(far)]() mutable {
      provider_.serve(std::move(link), Peer{Role::user, user, user, {}});
    });
    return std::move(near);
  }
  Clock::duration rtt_;
  Executor executor_;
  HelperService helper_;
  ProviderService provider_;
  std::mutex mutex_;
  std::list<std::jthread> threads_;
};

void run(const Options& options, Profile profile, std::size_t users) {
  Executor loader;
  const std::size_t slots = std::max(options.prompt, options.long_prompt) + options.tokens + 1;
  OfferOptions serve;
  serve.context = slots;
  serve.profile = profile;
  serve.synthetic = is_synthetic(options.model);
  serve.layers = options.layers;
  serve.width = options.width;
  World world(offer_model(options.model, serve, loader), parse_duration(options.rtt, "--rtt"));
  std::list<Executor> executors;
  std::list<Ledger> ledgers;
  std::list<UserClient> clients;
  std::vector<UserClient*> all;
  const auto prompt_of = [&](std::size_t user) {
    return user == 0 && options.long_prompt > 0 ? options.long_prompt : options.prompt;
  };
  for (std::size_t i = 0; i < users; ++i) {
    UserClient& client = clients.emplace_back(world.links(std::to_string(i)), ledgers.emplace_back(),
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
        if (!late) session.prompt(prompt, greedy);
        prompted.arrive_and_wait();
        if (i == 0) {
          fmt::print(stderr, "the clock starts\n");  // for a profiler
          begin = Clock::now(), cpu = report_of_this_process().cpu_seconds, sharing = world.executor().sharing();
        }
        prompted.arrive_and_wait();
        if (late) {
          session.prompt(prompt, greedy);
          prefill = seconds_since(begin);
        } else {
          for (std::size_t t = 0; t < options.tokens; ++t) session.advance([](TokenId) { return true; }, greedy);
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
