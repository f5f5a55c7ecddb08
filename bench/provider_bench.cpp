// The provider alone with many sessions: tokens a second, processor time and memory. Each session is sent again what the user of a
// recorded one sent, a round trip after the provider's last words, and finds its material when a pass begins; nobody else computes.
// Needs the model: PERMLLM_TEST_MODEL in the environment, or models/ of the source.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <barrier>
#include <cstdlib>
#include <fstream>
#include <list>
#include <thread>

#include "base/heap.h"
#include "cli/offer_options.h"
#include "model/synthetic.h"
#include "net/units.h"
#include "page/declared.h"
#include "page/pack.h"
#include "session/report.h"
#include "support/links.h"
#include "support/rig.h"

namespace permllm {
namespace {

std::string model_path() {
  const char* path = std::getenv("PERMLLM_TEST_MODEL");
  return path != nullptr ? path : PERMLLM_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

struct Options {
  std::string model = model_path(), rtt = "10ms";
  std::vector<std::size_t> sessions{1, 4, 16};
  std::vector<std::string> profiles{"paper", "fast", "open"};
  std::size_t layers = 0, width = 0, prompt = 16, tokens = 16, context = 1024;
};

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

std::size_t resident_bytes() {
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> pages;
  return pages * 4096;
}

// What a provider receives in one session.
struct Recorded {
  std::vector<Frame> online;
  std::map<std::pair<std::uint8_t, std::uint32_t>, std::vector<std::pair<Stock::Source, PackMaterial>>>
      pieces;  // by kind and index
};

Recorded record(const OfferedModel& model, const Options& options, Executor& executor) {
  const Plan& plan = model.plan;
  Recorded recorded;
  test::Rig rig(model.weights, plan, executor, 1, [&](std::unique_ptr<Link> link) {
    return std::make_unique<test::Recording>(std::move(link), recorded.online);
  });
  rig.deal_for_request(options.prompt, options.tokens + 1);
  std::size_t at[2] = {};
  for (const PackOrder& order : orders_for(plan, options.prompt, options.tokens + 1)) {
    const auto kind = static_cast<Part::Kind>(order.kind);
    for (const Stock::Source source : {Stock::Source::helper, Stock::Source::user}) {
      for (std::uint32_t layer = 0; layer < (kind == Part::Kind::slot ? plan.config.layers : 1); ++layer) {
        for (std::uint32_t index = order.first; index < order.first + order.count; ++index) {
          const Cost cost = piece_cost(plan, kind, layer, index);
          const bool helper = source == Stock::Source::helper;
          if (!helper && plan.open()) continue;
          const std::size_t size = helper ? cost.offline.helper_to_provider : cost.offline.user_to_provider;
          const auto from = rig.offline(source).begin() + static_cast<std::ptrdiff_t>(at[helper ? 0 : 1]);
          at[helper ? 0 : 1] += size;
          recorded.pieces[{order.kind, index}].push_back(
              {source, {order.kind, layer, index, 1, Bytes(from, from + static_cast<std::ptrdiff_t>(size))}});
        }
      }
    }
  }
  rig.user().prompt(std::vector<TokenId>(options.prompt, 198), test::greedy);
  for (std::size_t i = 0; i < options.tokens; ++i) rig.user().advance([](TokenId) { return true; }, test::greedy);
  return recorded;
}

// The provider's end of a link to nobody. Its session stops behind the prompt and at the end, until it may go on.
class Replaying : public Link {
 public:
  Replaying(const Recorded& recorded, const Plan& plan, Stock& stock, Clock::duration rtt,
            std::function<void()> at_stop)
      : recorded_(recorded), plan_(plan), stock_(stock), rtt_(rtt), at_stop_(std::move(at_stop)) {}
  void send(Frame) override { said_ = true; }
  void flush() override {}
  void close() override {}
  Frame receive(Clock::time_point, const char* awaited, std::size_t) override {
    const bool at_end = next_ == recorded_.online.size();
    if (at_end || recorded_.online[next_].tag == static_cast<std::uint16_t>(Tag::pass_begin)) {
      if (at_end || passes_ == 1) at_stop_();
      if (at_end) throw Error(Code::closed, awaited, "the record ends");
      begin_pass(recorded_.online[next_]);
    }
    if (std::exchange(said_, false)) std::this_thread::sleep_for(rtt_);
    return recorded_.online[next_++];
  }

 private:
  void begin_pass(const Frame& frame) {
    PassBegin begin;
    Reader reader("PassBegin", frame.payload);
    begin.visit(reader);
    if (passes_ == 0 && !plan_.open()) put(Part::Kind::entry, 0, begin.tokens);
    put(Part::Kind::slot, slots_, begin.tokens);
    put(Part::Kind::pass, passes_, 1);
    slots_ += begin.tokens;
    ++passes_;
  }
  void put(Part::Kind kind, std::uint32_t first, std::uint32_t count) {
    for (std::uint32_t index = first; index < first + count; ++index) {
      for (const auto& [source, piece] : recorded_.pieces.at({static_cast<std::uint8_t>(kind), index}))
        put_in_stock(stock_, source, plan_, piece);
    }
  }
  const Recorded& recorded_;
  const Plan& plan_;
  Stock& stock_;
  Clock::duration rtt_;
  std::function<void()> at_stop_;
  std::size_t next_ = 0;
  std::uint32_t slots_ = 0, passes_ = 0;
  bool said_ = false;
};

void run(const Recorded& recorded, const OfferedModel& model, const Options& options, std::size_t sessions,
         Executor& executor) {
  const Clock::duration rtt = parse_duration(options.rtt, "--rtt");
  std::barrier stop(static_cast<std::ptrdiff_t>(sessions) + 1);
  trim_heap();
  const std::size_t before = resident_bytes();
  std::list<std::jthread> threads;
  for (std::size_t i = 0; i < sessions; ++i) {
    threads.emplace_back([&, i] {
      Executor own(executor, i + 1);
      Stock stock(!model.plan.open());
      Replaying link(recorded, model.plan, stock, rtt, [&] { stop.arrive_and_wait(), stop.arrive_and_wait(); });
      Channel channel(link, 7, test::Rig::patience());
      AesCoins coins(test::seed_of(2));
      try {
        SessionActivity activity;
        ProviderSession(model.plan, model.weights, channel, coins, stock, own, test::Rig::patience()).serve(activity);
      } catch (const Error& error) {
        if (error.code() != Code::closed) fmt::print(stderr, "{}\n", error.what());
      }
    });
  }
  stop.arrive_and_wait();
  const std::size_t prompted = resident_bytes();
  const Executor::Sharing sharing = executor.sharing();
  const double cpu = report_of_this_process().cpu_seconds;
  const Clock::time_point begin = Clock::now();
  stop.arrive_and_wait();
  stop.arrive_and_wait();
  const double seconds = seconds_since(begin), tokens = static_cast<double>(options.tokens * sessions);
  const double used = report_of_this_process().cpu_seconds - cpu;
  const Executor::Sharing after = executor.sharing();
  const std::size_t decoded = resident_bytes();
  stop.arrive_and_wait();
  threads.clear();
  const auto mb = [&](std::size_t now, std::size_t then) {
    return (static_cast<double>(now) - static_cast<double>(then)) / 1e6;
  };
  const auto n = static_cast<double>(sessions);
  fmt::print(
      "{:<6} {:>4} sessions: {:7.2f} tokens/s; {:.2f} products in one; processor {:.2f} ms a token; memory MB a "
      "session: {:.2f} behind a prompt of {}, "
      "{:.3f} more a token, {:.2f} left at the end\n",
      name_of(model.plan.profile), sessions, tokens / seconds,
      static_cast<double>(after.shares - sharing.shares) /
          static_cast<double>(std::max<std::uint64_t>(1, after.runs - sharing.runs)),
      1000 * used / tokens, mb(prompted, before) / n, options.prompt, mb(decoded, prompted) / tokens,
      mb(resident_bytes(), before) / n);
  std::fflush(stdout);
}

void run(const Options& options) {
  Executor executor;
  for (const std::string& profile : options.profiles) {
    OfferOptions serve;
    serve.context = options.context;
    serve.profile = profile_of(profile);
    serve.synthetic = is_synthetic(options.model);
    serve.layers = options.layers;
    serve.width = options.width;
    const OfferedModel model = offer_model(options.model, serve, executor);
    const Recorded recorded = record(model, options, executor);
    for (const std::size_t sessions : options.sessions) run(recorded, model, options, sessions, executor);
  }
}

}  // namespace
}  // namespace permllm

int main(int argc, char** argv) {
  permllm::Options options;
  CLI::App app("many sessions at one provider, without their users");
  app.add_option("model", options.model, "GGUF file, or a shape with random weights")->capture_default_str();
  app.add_option("--layers", options.layers, "of a shape, where not its own");
  app.add_option("--width", options.width, "of a shape, where not its own");
  app.add_option("--sessions", options.sessions, "how many at once")->capture_default_str();
  app.add_option("--profile", options.profiles, "paper, fast, open")->capture_default_str();
  app.add_option("--rtt", options.rtt, "from the provider's words to the user's")->capture_default_str();
  app.add_option("--prompt", options.prompt, "tokens of a prompt")->capture_default_str();
  app.add_option("--tokens", options.tokens, "tokens of an answer")->capture_default_str();
  app.add_option("--context", options.context, "slots of a chain")->capture_default_str();
  permllm::prepare_heap();
  CLI11_PARSE(app, argc, argv);
  try {
    permllm::run(options);
  } catch (const permllm::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return error.exit_status();
  }
}
