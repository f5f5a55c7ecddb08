// What the provider receives in real sessions: the same sizes for every prompt of a length, and uniform words. The harness is
// seen to flag a session in which one mask is left out.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>

#include "support/gguf_writer.h"
#include "support/model.h"
#include "support/rig.h"

namespace permllm::test {
namespace {

// Keeps a copy of what the provider's end of a link receives.
class Recording : public Link {
 public:
  Recording(std::unique_ptr<Link> link, std::vector<Frame>& frames) : link_(std::move(link)), frames_(frames) {}
  void send(Frame frame) override {
    frames_.push_back(frame);
    link_->send(std::move(frame));
  }
  void flush() override { link_->flush(); }
  Frame receive(Clock::time_point deadline, const char* awaited) override { return link_->receive(deadline, awaited); }
  void close() override { link_->close(); }

 private:
  std::unique_ptr<Link> link_;
  std::vector<Frame>& frames_;
};

// Statistics that a uniform source stays within, save once in millions.
struct Uniformity {
  double chi_square_bytes, top_bit, low_bit, correlation;
  bool good() const { return chi_square_bytes < 6 && top_bit < 6 && low_bit < 6 && correlation < 6; }
};
// In standard deviations from what uniform bytes give.
Uniformity uniformity(const Bytes& bytes) {
  const double n = static_cast<double>(bytes.size());
  std::array<double, 256> count{};
  double top = 0, low = 0, product = 0, sum = 0, squares = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    ++count[bytes[i]];
    top += bytes[i] >> 7;
    low += bytes[i] & 1;
    const double centred = bytes[i] - 127.5;
    sum += centred;
    squares += centred * centred;
    if (i > 0) product += centred * (bytes[i - 1] - 127.5);
  }
  double chi = 0;
  for (const double c : count) chi += (c - n / 256) * (c - n / 256) / (n / 256);
  const double bit = std::sqrt(n) / 2;
  return {std::fabs(chi - 255) / std::sqrt(510.0), std::fabs(top - n / 2) / bit, std::fabs(low - n / 2) / bit,
          std::fabs(product / squares) * std::sqrt(n)};
}

// All payloads of a message in one row of bytes; only whole-byte rings, where every bit is a coin's.
std::map<std::uint16_t, Bytes> by_tag(const std::vector<Frame>& frames) {
  std::map<std::uint16_t, Bytes> all;
  for (const Frame& f : frames) all[f.tag].insert(all[f.tag].end(), f.payload.begin(), f.payload.end());
  return all;
}

// The words of one kind of message in a ring of whole bytes: 32-bit norm answers, 16-bit one-hots, and so on. Rings of other
// widths have constant zero bits on top; their bytes are checked below the top byte.
Bytes without_top_bytes(const Bytes& bytes, std::size_t word) {
  Bytes kept;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (i % word != word - 1) kept.push_back(bytes[i]);
  }
  return kept;
}

struct Session {
  std::vector<Frame> online;
  Bytes from_helper, from_user;
};

Session run(const std::vector<TokenId>& ids, std::uint8_t seed, const std::function<void(Frame&)>& sabotage = nullptr) {
  const OfferedModel& model = smollm2();
  Session session;
  Rig rig(model.weights, model.plan, executor(), seed, [&](std::unique_ptr<Link> link) -> std::unique_ptr<Link> {
    return std::make_unique<Recording>(std::move(link), session.online);
  });
  rig.deal_for_pass(ids.size(), true);
  rig.user().prompt(ids, greedy);
  session.from_helper = rig.offline(Stock::Source::helper);
  session.from_user = rig.offline(Stock::Source::user);
  if (sabotage) {
    for (Frame& f : session.online) sabotage(f);
  }
  return session;
}

TEST(Views, the_provider_receives_uniform_words_of_the_same_sizes_whatever_the_prompt_is) {
  const auto cases = greedy_cases();
  const std::vector<TokenId> a(cases[4].prompt_ids.begin(), cases[4].prompt_ids.begin() + 5), b(5, 198);
  const Session one = run(a, 11), two = run(b, 21);
  ASSERT_EQ(one.online.size(), two.online.size());
  for (std::size_t i = 0; i < one.online.size(); ++i) {
    EXPECT_EQ(one.online[i].tag, two.online[i].tag);
    EXPECT_EQ(one.online[i].payload.size(), two.online[i].payload.size());
  }
  EXPECT_EQ(one.from_helper.size(), two.from_helper.size());
  EXPECT_EQ(one.from_user.size(), two.from_user.size());
  const auto check = [](const char* what, const Bytes& bytes) {
    const Uniformity u = uniformity(bytes);
    EXPECT_TRUE(u.good()) << what << ": chi-square " << u.chi_square_bytes << ", top bit " << u.top_bit << ", low bit " << u.low_bit
                          << ", correlation " << u.correlation << " standard deviations";
  };
  for (const Session* s : {&one, &two}) {
    auto tags = by_tag(s->online);
    check("one-hots", tags[static_cast<std::uint16_t>(Tag::prompt_one_hots)]);  // 16 bits
    check("re-masked rows", tags[static_cast<std::uint16_t>(Tag::remask)]);      // 16 and 48 bits
    // Rings of six bytes: 43 to 48 bits.
    check("rotated q and k", without_top_bytes(tags[static_cast<std::uint16_t>(Tag::rotated_remask)], 6));
    check("scores", without_top_bytes(tags[static_cast<std::uint16_t>(Tag::masked_scores)], 6));
    check("p.v", without_top_bytes(tags[static_cast<std::uint16_t>(Tag::masked_mix)], 6));
    check("lifted v", without_top_bytes(tags[static_cast<std::uint16_t>(Tag::reshared_values)], 8));
  }
}

TEST(Views, a_session_without_one_mask_is_flagged) {
  const auto cases = greedy_cases();
  const std::vector<TokenId> a(cases[4].prompt_ids.begin(), cases[4].prompt_ids.begin() + 5);
  // As if the one-hots were sent as they are.
  Bytes bare(a.size() * 49152 * 2);
  for (std::size_t i = 0; i < a.size(); ++i) bare[(i * 49152 + a[i]) * 2] = 1;
  EXPECT_FALSE(uniformity(bare).good());
  // As if the same mask protected two prompts: their difference is bare.
  const Session one = run(a, 31), two = run(std::vector<TokenId>(5, 198), 31);
  Bytes difference;
  for (std::size_t i = 0; i < one.online.size(); ++i) {
    for (std::size_t k = 0; k < one.online[i].payload.size(); ++k) {
      difference.push_back(static_cast<std::uint8_t>(one.online[i].payload[k] - two.online[i].payload[k]));
    }
  }
  EXPECT_FALSE(uniformity(difference).good());
}

// What crosses on the wire under fixed seeds, as one hash a direction and message. A change of the wire is a change of
// tests/data/wire.baseline in the same commit.
TEST(Views, the_wire_is_what_the_baseline_says) {
  Executor own(1);
  OfferedModel model;
  {
    const Gguf file = Gguf::parse(tiny_llama().finish());
    model.weights = load_int_weights(file, own);
  }
  Ranges ranges{.residual = 30, .qk = 10, .v = 5, .score = 50, .gate_up = std::vector<double>(2, 20.0), .activation = 100, .logit = 30};
  const Plan plan = Plan::make(model.weights, ranges, 16);
  std::vector<Frame> to_provider, to_user;
  Rig rig(model.weights, plan, own, 1, [&](std::unique_ptr<Link> link) -> std::unique_ptr<Link> {
    return std::make_unique<Recording>(std::move(link), to_provider);
  }, [&](std::unique_ptr<Link> link) -> std::unique_ptr<Link> { return std::make_unique<Recording>(std::move(link), to_user); });
  rig.deal_for_request(3, 3);
  rig.user().prompt(std::vector<TokenId>{5, 6, 7}, [](auto) { return std::size_t{11}; });
  rig.user().advance([](TokenId) { return true; }, [](auto) { return std::size_t{12}; });
  rig.user().retrieve_last();
  std::string text;
  const auto add = [&](const std::string& name, const Bytes& bytes) {
    text += fmt::format("{} {} {:.16}\n", name, bytes.size(), hash_hex("wire baseline", bytes));
  };
  add("helper>provider offline", rig.offline(Stock::Source::helper));
  add("user>provider offline", rig.offline(Stock::Source::user));
  for (const auto& [tag, bytes] : by_tag(to_provider)) add(fmt::format("user>provider {}", name_of(static_cast<Tag>(tag))), bytes);
  for (const auto& [tag, bytes] : by_tag(to_user)) add(fmt::format("provider>user {}", name_of(static_cast<Tag>(tag))), bytes);
  const std::string path = std::string(PERMLLM_TEST_DATA) + "/wire.baseline";
  if (std::getenv("PERMLLM_WRITE_BASELINE") != nullptr) std::ofstream(path) << text;
  std::ifstream in(path);
  const std::string baseline((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  EXPECT_EQ(text, baseline);
}

}  // namespace
}  // namespace permllm::test
