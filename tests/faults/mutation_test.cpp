// Sessions of which random frames of all parties are changed at random, the same in each run: every session ends within its deadline
// and nothing worse than a wrong answer comes of it; the services serve on.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <random>

#include "support/sessions.h"

namespace permllm::test {
namespace {

// Changes about one frame of `each`: bits, lengths, order, repetition, tags, headers, or a frame of long ago in its place.
class Mutation {
 public:
  Mutation(std::uint64_t seed, std::size_t each) : random_(seed), each_(each) {}

  std::vector<Frame> operator()(Frame frame) {
    past_.push_back(frame);
    if (below(each_) != 0) return with_held({std::move(frame)});
    Bytes& payload = frame.payload;
    switch (below(11)) {
      case 0:
      case 1:
        for (std::size_t n = 1 + below(4); n > 0 && !payload.empty(); --n)
          payload[below(payload.size())] ^= static_cast<std::uint8_t>(1u << below(8));
        break;
      case 2:
        payload.resize(below(payload.size() + 1));
        break;
      case 3:
        payload.insert(payload.end(), 1 + below(100), 0xff);
        break;
      case 4: {  // a number at the edge of its type
        const std::uint64_t edges[] = {
            0, 1, 0x7fffffff, 0x80000000, 0xffffffff, ~std::uint64_t{0}, std::uint64_t{1} << 40};
        const std::size_t at = below(payload.size() + 1),
                          width = std::min(std::size_t{1} << below(4), payload.size() - at);
        const auto* edge = reinterpret_cast<const std::uint8_t*>(&edges[below(std::size(edges))]);
        std::copy_n(edge, width, payload.begin() + static_cast<std::ptrdiff_t>(at));
        break;
      }
      case 5:
        held_.push_back(std::move(frame));
        return {};
      case 6:
        return with_held({frame, frame});
      case 7:
        frame.tag = static_cast<std::uint16_t>(below(70));
        break;
      case 8:
        frame.session = below(2) == 0 ? 0 : random_();
        break;
      case 9:
        frame.step += static_cast<std::uint32_t>(below(3)) - 1;
        break;
      default: {
        Frame old = past_[below(past_.size())];
        if (below(2) == 0) old.step = frame.step;
        return with_held({std::move(old)});
      }
    }
    return with_held({std::move(frame)});
  }

 private:
  std::size_t below(std::size_t n) { return n == 0 ? 0 : static_cast<std::size_t>(random_() % n); }
  std::vector<Frame> with_held(std::vector<Frame> frames) {
    for (Frame& frame : held_) frames.push_back(std::move(frame));
    held_.clear();
    return frames;
  }
  std::mt19937_64 random_;
  std::size_t each_;
  std::vector<Frame> past_, held_;
};

// An error without its numbers and without whose words it quotes.
std::string kind_of(std::string error) {
  if (error.starts_with("peer: ")) error.erase(0, 6);
  std::string kind;
  for (const char c : error.substr(0, error.find(';'))) {
    if (std::isdigit(static_cast<unsigned char>(c)) == 0)
      kind += c;
    else if (!kind.ends_with('#'))
      kind += '#';
  }
  return kind;
}

class Mutations : public testing::TestWithParam<Profile> {};
INSTANTIATE_TEST_SUITE_P(Profiles, Mutations, testing::Values(Profile::paper, Profile::fast, Profile::open),
                         [](const auto& p) { return permllm::name_of(p.param); });

TEST_P(Mutations, end_every_session_in_time) {
  constexpr std::size_t k_sessions = 300;
  SessionWorld services(GetParam(), false, std::chrono::seconds(1));
  Session first{"without a change"};
  services.run(first);
  ASSERT_FALSE(first.any_error()) << first.errors();
  std::mutex mutex;
  std::map<std::string, std::size_t> kinds;
  std::size_t errors = 0, right = 0, wrong = 0;
  std::atomic<std::size_t> next = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 16; ++t) {
      threads.emplace_back([&] {
        for (std::size_t i; (i = next++) < k_sessions;) {
          Session run{fmt::format("mutation {}", i), [&](std::unique_ptr<Link> link, End end) {
                        return std::make_unique<Changing>(
                            std::move(link), Mutation(8 * i + static_cast<std::size_t>(end), i % 2 == 0 ? 40 : 120));
                      }};
          services.run(run);
          const std::lock_guard lock(mutex);
          ++(!run.user.empty() ? errors : run.answer == first.answer ? right : wrong);
          for (const std::string& error : {run.user, run.provider, run.helper}) {
            if (!error.empty()) ++kinds[kind_of(error)];
          }
        }
      });
    }
  }
  Session last{"afterwards"};
  services.run(last);
  EXPECT_FALSE(last.any_error()) << last.errors();
  EXPECT_EQ(last.answer, first.answer);
  EXPECT_EQ(SpentMasks::all().twice(), 0u);
  EXPECT_GT(errors, k_sessions / 4);
  fmt::print("{}: of {} sessions {} ended in an error, {} in the right answer, {} in another\n",
             permllm::name_of(GetParam()), k_sessions, errors, right, wrong);
  std::vector<std::pair<std::size_t, std::string>> sorted;
  for (const auto& [kind, count] : kinds) sorted.push_back({count, kind});
  std::sort(sorted.rbegin(), sorted.rend());
  for (const auto& [count, kind] : sorted) fmt::print("{:>6}  {}\n", count, kind);
}

}  // namespace
}  // namespace permllm::test
