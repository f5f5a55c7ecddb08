// One fault to one frame of a session, for every frame of every link in both directions. Whatever it is, every party ends within its
// deadline, other sessions of the same services are not disturbed, and no one-time mask protects two messages.
//
// What has to be noticed: a frame that is missing, twice, out of order, longer or shorter, or has another header; the user
// then has an Error or, where nobody needed the frame, the right answer, and never a wrong one. A delay within the patience
// changes nothing. What need not be noticed: other words in a payload. Uniform words have no wrong values; it is TLS that keeps
// them whole. The answer may be wrong then, which is all that may happen; under TLS not even that.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>

#include "support/relay.h"
#include "support/sessions.h"

namespace permllm::test {
namespace {

struct Variant {
  Profile profile;
  bool fused;
  std::vector<Fault> faults;
  std::string name() const { return fmt::format("{}{}", permllm::name_of(profile), fused ? "_fused" : ""); }
};

const Variant k_variants[] = {
    {Profile::paper, false, {k_faults.begin(), k_faults.end()}},
    {Profile::fast, true, {Fault::cut, Fault::duplicated, Fault::swapped, Fault::shortened, Fault::flipped_first}},
    {Profile::open, false, {Fault::cut, Fault::duplicated, Fault::swapped, Fault::shortened, Fault::flipped_first}}};

bool is_flip_of_payload(Fault fault) {
  return fault == Fault::flipped_first || fault == Fault::flipped_middle || fault == Fault::flipped_last;
}

// A patience that no honest party exceeds on this machine, though many sessions run at once and other programs may stop them for a while.
Clock::duration patience_here(const Variant& v) {
  SessionWorld services(v.profile, v.fused, std::chrono::seconds(20));
  double seconds = 1e9;
  for (int i = 0; i < 3; ++i) {
    Session run{"to measure"};
    services.run(run);
    seconds = std::min(seconds, run.seconds);
  }
  return std::max<Clock::duration>(std::chrono::seconds(4), duration_of(60 * seconds));
}

struct Job {
  End end;
  std::size_t k;
  Fault fault;
  std::uint16_t tag;   // of the frame
  std::size_t frames;  // of that end
};

class FaultyFrames : public testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(Profiles, FaultyFrames, testing::ValuesIn(k_variants),
                         [](const auto& v) { return v.param.name(); });

TEST_P(FaultyFrames, end_their_session_in_an_error_and_no_other) {
  const Variant& variant = GetParam();
  SessionWorld services(variant.profile, variant.fused, patience_here(variant));
  const double patience = seconds_of(services.patience());
  const std::size_t masks = SpentMasks::all().count();

  std::map<End, std::vector<Frame>> frames;
  for (const End end : k_ends) frames[end];
  Session first{"without a fault", [&](std::unique_ptr<Link> link, End end) {
                  return std::make_unique<Recording>(std::move(link), frames.at(end));
                }};
  services.run(first);
  ASSERT_FALSE(first.any_error()) << first.errors();
  EXPECT_GT(SpentMasks::all().count(), masks);

  std::vector<Job> jobs;
  std::size_t count_of_frames = 0;
  for (const auto& [end, sent] : frames) {
    count_of_frames += sent.size();
    for (std::size_t k = 0; k < sent.size(); ++k) {
      for (const Fault fault : variant.faults) {
        const bool of_payload = fault == Fault::shortened || is_flip_of_payload(fault);
        if (!of_payload || !sent[k].payload.empty()) jobs.push_back({end, k, fault, sent[k].tag, sent.size()});
      }
    }
  }

  std::mutex mutex;
  std::map<std::pair<End, Fault>, std::array<std::size_t, 3>> ends;  // errors, right answers, wrong ones
  double longest = 0;
  const auto check = [&](const Job& job, const Session& run) {
    const std::lock_guard lock(mutex);
    longest = std::max(longest, run.seconds);
    const bool right = run.user.empty() && run.answer == first.answer;
    ++ends[{job.end, job.fault}][!run.user.empty() ? 0 : right ? 1 : 2];
    EXPECT_LT(run.seconds, 6 * patience) << run.name << ": " << run.errors();
    if (job.fault == Fault::delayed) {
      EXPECT_TRUE(right && !run.any_error()) << run.name << ": " << run.errors();
    } else if (!is_flip_of_payload(job.fault)) {
      EXPECT_TRUE(right || !run.user.empty()) << run.name << ": a wrong answer";
      // Nobody waits for what follows the last frame of a direction, nor for what follows the last material.
      const bool last = job.k + 2 >= job.frames;  // the link's own Leave comes behind
      EXPECT_TRUE(last || run.any_error()) << run.name << " was not noticed";
      // A frame that comes twice is refused by the service that reads it, whatever becomes of its sender.
      if (job.fault == Fault::duplicated && !last) {
        EXPECT_TRUE(job.end != End::user_online || !run.provider.empty()) << run.name;
        EXPECT_TRUE(job.end != End::user_helper || !run.helper.empty()) << run.name;
      }
    }
  };

  std::atomic<std::size_t> next = 0, beside = 0;
  {
    std::atomic<bool> done = false;
    const std::jthread other([&] {
      while (!done) {
        Session run{"a session beside"};
        services.run(run);
        EXPECT_EQ(run.answer, first.answer) << run.errors();
        EXPECT_FALSE(run.any_error()) << run.errors();
        ++beside;
      }
    });
    {
      std::vector<std::jthread> threads;  // most of them wait for a patience to end
      for (int t = 0; t < 96; ++t) {
        threads.emplace_back([&] {
          for (std::size_t i; (i = next++) < jobs.size();) {
            const Job& job = jobs[i];
            Session run{fmt::format("{}, frame {} (tag {}) {}", name_of(job.end), job.k, job.tag, name_of(job.fault)),
                        [&](std::unique_ptr<Link> link, End end) -> std::unique_ptr<Link> {
                          if (end != job.end) return link;
                          return std::make_unique<Faulty>(std::move(link), job.k, job.fault, services.patience());
                        }};
            services.run(run);
            check(job, run);
          }
        });
      }
    }
    done = true;
  }

  Session last{"afterwards"};
  services.run(last);
  EXPECT_FALSE(last.any_error()) << last.errors();
  EXPECT_EQ(last.answer, first.answer);
  EXPECT_EQ(SpentMasks::all().twice(), 0u);
  EXPECT_GT(beside, 3u);

  fmt::print(
      "{}: {} sessions with one of {} faults to one of {} frames; {} beside them; {} masks spent; patience {:.2f} s, "
      "the longest {:.2f} s\n",
      variant.name(), jobs.size(), variant.faults.size(), count_of_frames, beside.load(),
      SpentMasks::all().count() - masks, patience, longest);
  fmt::print("{:<26}{:<16}{:>8}{:>8}{:>8}\n", "", "", "error", "right", "wrong");
  for (const auto& [what, count] : ends) {
    fmt::print("{:<26}{:<16}{:>8}{:>8}{:>8}\n", name_of(what.first), name_of(what.second), count[0], count[1],
               count[2]);
  }
}

// A bit that is flipped between the parties' TLS connections: in the handshakes, the heads of records, and their middles.
TEST(FlippedBytes, under_tls_end_their_session_in_an_error_and_never_in_a_wrong_answer) {
  TlsWorld services(std::chrono::seconds(5));
  const auto good = services.answer();
  // Of the user's connections: online, offline, and to the helper.
  std::array<std::array<std::size_t, 2>, 3> passed{};
  const auto ask = [&](std::size_t flipped_link, std::optional<CuttingProxy::Flip> flip) {
    std::list<CuttingProxy> proxies;
    for (std::size_t link = 0; link < 3; ++link) {
      std::map<std::size_t, CuttingProxy::Flip> flips;
      if (flip && link == flipped_link) flips[0] = *flip;
      proxies.emplace_back(services.port(link == 2 ? Role::helper : Role::provider),
                           std::map<std::size_t, std::size_t>{}, std::move(flips));
    }
    const auto dial = [&](std::size_t link) {
      return [&, link] {
        return tls_connect(
            services.parties().of(Role::user),
            fmt::format("127.0.0.1:{}", std::next(proxies.begin(), static_cast<std::ptrdiff_t>(link))->port()),
            link == 2 ? Role::helper : Role::provider, Clock::now() + std::chrono::seconds(20));
      };
    };
    std::string error;
    std::vector<TokenId> answer;
    try {
      answer = services.answer({dial(0), dial(1), dial(2)});
    } catch (const Error& e) {
      error = e.what();
    }
    std::size_t flipped = 0, link = 0;
    for (const CuttingProxy& proxy : proxies) {
      flipped += proxy.flipped();
      if (!flip) passed[link] = {proxy.passed(false), proxy.passed(true)};
      ++link;
    }
    EXPECT_EQ(flipped, flip ? 1u : 0u);
    return std::pair(error, answer);
  };
  EXPECT_EQ(ask(0, std::nullopt), std::pair(std::string(), good));
  struct Place {
    std::size_t link;
    CuttingProxy::Flip flip;
  };
  std::vector<Place> places;
  for (std::size_t link = 0; link < 3; ++link) {
    for (const bool from_target : {false, true}) {
      const std::size_t all = passed[link][from_target ? 1 : 0];
      ASSERT_GT(all, 500u);
      for (const std::size_t at : {std::size_t{3}, std::size_t{200}, all / 3, all / 2, all * 3 / 4, all * 9 / 10})
        places.push_back({link, {from_target, at}});
    }
  }
  std::atomic<std::size_t> next = 0, errors = 0;
  {
    std::vector<std::jthread> threads;  // some sessions wait for a patience to end; a user may have 16
    for (int t = 0; t < 12; ++t) {
      threads.emplace_back([&] {
        for (std::size_t i; (i = next++) < places.size();) {
          const auto& [link, flip] = places[i];
          const auto [error, answer] = ask(link, flip);
          EXPECT_TRUE(!error.empty() || answer == good)
              << "link " << link << ", byte " << flip.at << (flip.from_target ? " to" : " from")
              << " the user: a wrong answer";
          errors += error.empty() ? 0 : 1;
        }
      });
    }
  }
  const std::size_t tried = places.size();
  EXPECT_GT(errors, tried * 3 / 4);  // a flip in a party's last words may come when the answer is there
  EXPECT_EQ(services.answer(), good);
  fmt::print("{} flipped bits: {} errors, {} right answers\n", tried, errors.load(), tried - errors);
}

// The control of what is recorded above.
TEST(SpentMasksTest, tells_two_messages_under_one_mask_and_lets_the_same_one_pass) {
  const auto spend = [](std::uint8_t seed, Bytes message) {
    AesCoins coins(seed_of(seed));
    coins.spend({Use::one_hot, Site::prompt_embed}, 3, Ring{32});
    SpentMasks::all().sent({41, 0, 0, std::move(message)}, 0);
  };
  const std::size_t before = SpentMasks::all().twice();
  spend(200, {1, 2, 3});
  spend(200, {1, 2, 3});
  spend(201, {1, 2, 4});
  EXPECT_EQ(SpentMasks::all().twice(), before);
  SpentMasks control;
  AesCoins coins(seed_of(202));
  control.burnt(coins, {Use::one_hot, Site::prompt_embed});
  control.sent({41, 0, 0, {1}}, 0);
  control.burnt(coins, {Use::one_hot, Site::prompt_embed});
  control.sent({41, 0, 0, {2}}, 0);
  EXPECT_EQ(control.count(), 1u);
  EXPECT_EQ(control.twice(), 1u);
}

}  // namespace
}  // namespace permllm::test
