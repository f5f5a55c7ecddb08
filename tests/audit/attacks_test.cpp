// The other measures of the audit, on tiny models: each finds what is there to be found, and not what is not.
#include <gtest/gtest.h>

#include "audit/deviating.h"
#include "audit/fine_tune.h"
#include "audit/shown.h"
#include "audit/sorting.h"
#include "model/load.h"
#include "plan/calibrate.h"
#include "session/masked_model.h"
#include "session/model_mask.h"
#include "support/tiny_models.h"
#include "support/tiny_plan.h"

namespace permllm::test {
namespace {

struct Audited {
  Executor executor{2};
  TinyModel model;
  IntWeights weights;
  Plan plan;
  explicit Audited(const std::string& name, Profile profile = Profile::paper)
      : model(tiny_model(name)),
        weights(load_int_weights(ModelFile::open(model.path), executor)),
        plan(Plan::make(weights, calibrate(weights, model.prompts.back().ids, executor), 40, profile)) {}
  AuditSubject subject() { return {weights, plan, executor, model.prompts.back().ids}; }
};

TEST(Attacks, who_deviates_reads_the_matrices) {
  for (const char* name : {"llama", "qwen2", "gpt2"}) {
    Audited a(name);
    const Deviating found = probe_rows(a.subject());
    EXPECT_EQ(found.rows.gate_up, 3 * a.plan.config.width + 1) << name;
    EXPECT_GT(found.gate_up_right, a.plan.config.gated ? 0.95 : 0.7) << name;  // by two numbers of a neuron, or one
    EXPECT_EQ(found.down_right, 1) << name;  // the user's own bits tell which numbers are a unit above
  }
}

// V, which the helper holds, and U, which any user expands: all weights, exact, without one row.
TEST(Attacks, the_helper_and_a_user_have_the_weights) {
  Audited a("llama");
  const Seed seed = coin_seed(7);
  const ReadableStream stream(seed);
  std::vector<std::uint8_t> held(masked_model_bytes(a.plan));
  MaskedModel(a.weights, a.plan, seed).fill(0, held);
  const Weights<RingMatrix> v = view_masked_model(a.plan, held);
  const Weights<StreamedMatrix> u = expansion_of(stream, a.plan);
  const IntMatrix& w = a.weights.layer(0).o;
  std::vector<std::int32_t> row(w.cols());
  for (const std::size_t column : {std::size_t{0}, w.cols() - 1}) {
    Words x(w.cols()), of_helper(w.rows()), of_user(w.rows());
    x[column] = 1;
    product(v.layer(0).o, x, of_helper, a.executor);
    product(u.layer(0).o, x, of_user, a.executor);
    for (std::size_t i = 0; i < w.rows(); ++i) {
      w.row(i, row);
      EXPECT_EQ(centre(of_helper[i] + of_user[i], a.plan.o(0)), row[column]);
    }
  }
}

TEST(Attacks, sorting_fails_at_the_bits_of_the_plan_and_does_not_where_more_are_shown) {
  Audited a("llama");
  const Sorting now = align_by_sorting(a.subject(), 1000, 0), finer = align_by_sorting(a.subject(), 1000, 8);
  EXPECT_GT(now.error, 0.5);
  EXPECT_LT(finer.error, 0.5);
  EXPECT_GE(finer.rows_aligned, now.rows_aligned);
}

TEST(Attacks, small_fine_tunes_are_found_and_large_ones_are_not) {
  Audited a("llama");
  const auto found = recover_fine_tunes(a.subject(), 400, std::array{0.003, 0.5});
  ASSERT_EQ(found.size(), 2u);
  EXPECT_NEAR(found[0].size, 0.003, 1e-6);
  EXPECT_LT(found[0].error, 0.7);
  EXPECT_GT(found[0].matched, 0.9);
  EXPECT_GT(found[1].error, 0.7);
  EXPECT_LT(found[0].error, found[1].error);
}

TEST(Attacks, a_base_of_another_shape_is_refused_and_the_model_itself_differs_by_nothing) {
  Audited a("llama"), other("gpt2");
  EXPECT_THROW(recover_fine_tune(a.subject(), 100, other.weights), Error);
  EXPECT_EQ(recover_fine_tune(a.subject(), 100, a.weights).size, 0);
}

TEST(Attacks, logits_and_embedding_rows_are_known_by_their_values) {
  Audited a("llama");
  const Logits logits = follow_logits(a.subject(), 8);
  EXPECT_GT(logits.again.top, 0.5);
  EXPECT_GT(logits.again.all, logits.near.all);
  EXPECT_LT(logits.again.moves, logits.near.moves);
  const Embeddings embeddings = name_embeddings(a.subject());
  EXPECT_GT(embeddings.tokens, 100u);
  EXPECT_EQ(embeddings.named, 1);
}

}  // namespace
}  // namespace permllm::test
