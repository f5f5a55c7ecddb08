// The user's check of products in profile open (docs/protocol.md 4.14): a provider that computes otherwise than the registered model is caught at every
// matrix, and one that does not never is.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "model/load.h"
#include "plan/calibrate.h"
#include "support/errors.h"
#include "support/links.h"
#include "support/model.h"
#include "support/rig.h"
#include "support/tiny_models.h"

namespace permllm::test {
namespace {

const auto go_on = [](TokenId) { return true; };

struct Subject {
  IntWeights weights;
  Plan plan;
  std::vector<TokenId> ids;
};
Subject subject(const std::string& name) {
  const TinyModel tiny = tiny_model(name);
  Subject s{load_int_weights(ModelFile::open(tiny.path), executor()), {}, tiny.prompts.front().ids};
  s.plan = Plan::make(s.weights, calibrate(s.weights, tiny.prompts.back().ids, executor()), 40, Profile::open);
  s.plan.checked = true;
  s.plan.check();
  return s;
}

// A prompt and two tokens more. Empty: all products were right; else which was not.
std::string fault_of(Rig& rig, const std::vector<TokenId>& ids) {
  rig.deal_for_request(ids.size(), 3);
  try {
    rig.user().prompt(ids, greedy);
    rig.user().advance(go_on, greedy);
    rig.user().advance(go_on, greedy);
  } catch (const Error& error) {
    EXPECT_EQ(error.reason(), Reason::wrong_product) << error.what();
    const std::string text = error.what(), begin = "the provider's product for ", end = " is not that of the model";
    const std::size_t from = text.find(begin), to = text.find(end);
    if (from == std::string::npos || to == std::string::npos) return text;
    return text.substr(from + begin.size(), to - from - begin.size());
  }
  EXPECT_EQ(rig.user().beyond(), 0u);
  return "";
}

// The same matrix with another weight in its first row and column, which views `storage`.
IntMatrix with_another_weight(const IntMatrix& w, Bytes& storage) {
  storage.assign(w.packed().begin(), w.packed().end());
  storage.resize(storage.size() + 64);
  const std::size_t skip = (64 - reinterpret_cast<std::uintptr_t>(storage.data()) % 64) % 64;
  std::copy(w.packed().begin(), w.packed().end(), storage.begin() + static_cast<std::ptrdiff_t>(skip));
  const auto packed = std::span<const std::uint8_t>(storage).subspan(skip, w.packed().size());
  IntMatrix other(w.rows(), w.cols(), w.packing(), w.shifts(), w.row_shifts(), packed);
  for (std::size_t bit = 0; bit < 8 * 64; ++bit) {
    storage[skip + bit / 8] ^= static_cast<std::uint8_t>(1 << bit % 8);
    if (other.at(0, 0) != w.at(0, 0)) return other;
    storage[skip + bit / 8] ^= static_cast<std::uint8_t>(1 << bit % 8);
  }
  ADD_FAILURE() << "no bit is of the first weight";
  return other;
}

class Checked : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Architectures, Checked, testing::ValuesIn(tiny_model_names()), [](const auto& of) {
  std::string name = of.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST_P(Checked, one_other_weight_is_seen_in_every_matrix_and_none_where_there_is_none) {
  const Subject s = subject(GetParam());
  Rig honest(s.weights, s.plan, executor());
  EXPECT_EQ(fault_of(honest, s.ids), "");
  IntWeights other = subject(GetParam()).weights;  // the provider's
  const auto expect_caught = [&](const std::string& name, IntMatrix& changed) {
    Bytes storage;
    IntMatrix before = std::exchange(changed, with_another_weight(changed, storage));
    Rig rig(s.weights, s.plan, executor(), 1, nullptr, nullptr, nullptr, &other);
    EXPECT_EQ(fault_of(rig, s.ids), name);
    changed = std::move(before);
  };
  for (std::size_t l = 0; l < s.weights.layers.size(); ++l) {
    const auto name = [&](const char* matrix) { return fmt::format("layer {}, {}", l, matrix); };
    expect_caught(name("qkv"), other.layers[l].qkv);
    expect_caught(name("o"), other.layers[l].o);
    expect_caught(name("gate and up"), other.layers[l].up);
    expect_caught(name("down"), other.layers[l].down);
  }
  expect_caught("the logits", other.head);
}

// In the prompt's pass and in a token's, of the first and the last word of each block, its least and its greatest bit.
TEST_P(Checked, one_other_bit_is_seen_wherever_it_is) {
  const Subject s = subject(GetParam());
  std::size_t shown = 0, caught = 0;
  const auto with_flip = [&](std::size_t k, bool last, int bit) {
    std::size_t seen = 0;
    const auto flip = [&](std::unique_ptr<Link> link) -> std::unique_ptr<Link> {
      return std::make_unique<Changing>(std::move(link), [&, last, bit, k](Frame frame) {
        if (frame.tag == static_cast<std::uint16_t>(Tag::shown_rows) && seen++ == k)
          frame.payload[last ? frame.payload.size() - 1 : 0] ^= static_cast<std::uint8_t>(bit);
        return std::vector<Frame>{std::move(frame)};
      });
    };
    std::string fault;
    {
      Rig rig(s.weights, s.plan, executor(), 1, nullptr, flip);
      fault = fault_of(rig, s.ids);
    }
    if (seen <= k) return false;
    ++shown;
    caught += fault.empty() ? 0 : 1;
    EXPECT_NE(fault, "") << "frame " << k << (last ? ", last byte" : ", first byte");
    return true;
  };
  for (const bool last : {false, true}) {
    for (std::size_t k = 0; with_flip(k, last, last ? 128 : 1); ++k) {
    }
  }
  EXPECT_GE(shown, 12 * s.plan.config.layers);
  EXPECT_EQ(caught, shown);
}

// Rings are the provider's choice: in narrow ones whatever it computed could be said to have wrapped.
TEST(CheckedRanges, a_product_that_may_have_wrapped_ends_the_answer_and_is_told_as_that) {
  std::size_t told = 0;
  for (const std::string& name : tiny_model_names()) {
    Subject s = subject(name);
    for (const double by : {2e3, 1e5, 1e7}) {
      Ranges small = s.plan.ranges;
      small.residual /= by;
      small.logit /= by;
      small.logit_raw /= by;
      for (LayerRanges& r : small.layers) {
        for (double* range : {&r.qk, &r.v, &r.o, &r.down, &r.gate_up, &r.gate_up_raw, &r.qkv_raw}) *range /= by;
      }
      Plan plan;
      try {
        plan = Plan::make(s.weights, small, 40, Profile::open);
        plan.checked = true;
        plan.check();
      } catch (const Error&) {  // no such rings: values before the matrices would not fit them
        continue;
      }
      Rig rig(s.weights, plan, executor());
      rig.deal_for_request(s.ids.size(), 2);
      const auto fault = caught([&] { rig.user().prompt(s.ids, greedy); });
      ASSERT_TRUE(fault) << name << " " << by;
      EXPECT_EQ(fault->reason(), Reason::wrong_product) << name << " " << by;
      EXPECT_NE(std::string(fault->what()).find("or it left the ring"), std::string::npos) << fault->what();
      ++told;
    }
  }
  EXPECT_GT(told, tiny_model_names().size());
}

// The checks say nothing to the provider before a pass has ended: it has sent all of it.
TEST(CheckedPass, ends_behind_its_last_message) {
  const Subject s = subject("llama");
  IntWeights other = subject("llama").weights;
  Bytes storage;
  const IntMatrix before = std::exchange(other.layers[0].qkv, with_another_weight(other.layers[0].qkv, storage));
  const auto sent = [&](const IntWeights& of_provider) {
    std::vector<Frame> frames;
    Rig rig(
        s.weights, s.plan, executor(), 1,
        [&](std::unique_ptr<Link> link) { return std::make_unique<Recording>(std::move(link), frames); }, nullptr,
        nullptr, &of_provider);
    rig.deal_for_pass(s.ids.size(), true);
    try {
      rig.user().prompt(s.ids, greedy);
    } catch (const Error&) {
    }
    std::vector<std::pair<std::uint16_t, std::size_t>> sizes;
    for (const Frame& frame : frames) sizes.emplace_back(frame.tag, frame.payload.size());
    return sizes;
  };
  EXPECT_EQ(sent(other), sent(s.weights));
}

// --- Real models ------------------------------------------------------------------------------------------------------

TEST(CheckedAnswers, smollm2_is_answered_to_the_end_of_its_context_and_as_without_checks) {
  Plan plan = smollm2_plan({Profile::open, false}), checked = plan;
  checked.checked = true;
  checked.check();
  for (const std::size_t which : {0u, 4u}) {
    const GreedyCase c = greedy_cases()[which];
    const std::size_t answer = which == 0 ? plan.slots - c.prompt_ids.size() : 12;
    std::vector<TokenId> ids[2];
    for (const bool with : {false, true}) {
      Rig rig(smollm2().weights, with ? checked : plan, executor());
      const std::size_t tokens = with ? answer : 12;
      rig.deal_for_request(c.prompt_ids.size(), tokens);
      rig.user().prompt(c.prompt_ids, greedy);
      while (ids[with].size() + 1 < tokens) ids[with].push_back(rig.user().advance(go_on, greedy));
      EXPECT_EQ(rig.user().beyond(), 0u);
    }
    // Roundings differ, and so does a choice between tokens that are nearly as good: the first ones are sure.
    for (auto& one : ids) one.resize(8);
    EXPECT_EQ(ids[0], ids[1]);
  }
}

// Ten megabytes once, at 6B size; and what is declared is what comes.
TEST(CheckedCost, keys_are_as_many_bytes_as_declared) {
  const Subject s = subject("gemma3");
  std::uint64_t bytes = 0;
  make_product_keys(s.weights, s.plan, seed_of(1), executor(), [&](ProductKeyWords words) {
    Writer writer;
    words.visit(writer);
    bytes += writer.size();
  });
  EXPECT_EQ(bytes, product_key_bytes(s.plan));
}

}  // namespace
}  // namespace permllm::test
