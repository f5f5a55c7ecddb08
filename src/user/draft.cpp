#include "user/draft.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/no_denormals.h"
#include "permllm/error.h"

namespace permllm {

std::vector<TokenId> draft_by_lookup(std::span<const TokenId> history, std::size_t n) {
  PERMLLM_ASSERT(!history.empty());
  std::vector<TokenId> draft;
  for (std::size_t length = std::min<std::size_t>(3, history.size() - 1); length > 0 && draft.empty(); --length) {
    const auto suffix = history.last(length);
    for (std::size_t end = history.size() - 1; end >= length; --end) {
      if (!std::equal(suffix.begin(), suffix.end(), history.begin() + static_cast<std::ptrdiff_t>(end - length)))
        continue;
      const auto follows = history.subspan(end, std::min(n, history.size() - end));
      draft.assign(follows.begin(), follows.end());
      break;
    }
  }
  draft.resize(n, history.back());
  return draft;
}

KeptRows kept_rows(std::span<const TokenId> fed, const std::function<TokenId(std::size_t row)>& sample,
                   const std::function<bool(TokenId)>& more) {
  for (std::size_t rows = 1;; ++rows) {
    const TokenId sampled = sample(rows - 1);
    if (rows == fed.size() || sampled != fed[rows] || !more(sampled)) return {rows, sampled};
  }
}

std::size_t ModelDrafter::keep_common(std::span<const TokenId> history) {
  const auto most = static_cast<std::ptrdiff_t>(std::min(fed_.size(), history.size()));
  fed_.erase(std::mismatch(fed_.begin(), fed_.begin() + most, history.begin()).first, fed_.end());
  cache_.keep(fed_.size(), model_.config());
  return fed_.size();
}

std::vector<float> ModelDrafter::feed(std::span<const TokenId> tokens) {
  fed_.insert(fed_.end(), tokens.begin(), tokens.end());
  return model_.forward(tokens, cache_, executor_);
}

void ModelDrafter::wait() {
  if (ahead_.valid()) ahead_.get();
}

void ModelDrafter::forget() {
  wait();
  fed_ = {};
  cache_ = {};
}

void ModelDrafter::follow(std::span<const TokenId> history) {
  wait();
  const std::size_t common = keep_common(history);
  if (common == history.size()) return;
  ahead_ = std::async(std::launch::async,
                      [this, rest = std::vector(history.begin() + static_cast<std::ptrdiff_t>(common), history.end())] {
                        const NoDenormals no_denormals;
                        feed(rest);
                      });
}

// One token a step, whatever was kept of the last draft: its tokens are in the cache, and the history's last is not.
std::vector<TokenId> ModelDrafter::draft(std::span<const TokenId> history, std::size_t n) {
  wait();
  if (n == 0) return {};
  const std::size_t common = keep_common(history.first(history.size() - 1));
  std::vector<TokenId> draft;
  std::vector<float> logits = feed(history.subspan(common));
  for (;;) {
    draft.push_back(static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    if (draft.size() == n) return draft;
    logits = feed({&draft.back(), 1});
  }
}

void DraftLength::note(double seconds) {
  if (length_) return;
  double& least = passes_ < k_each ? without_ : with_;
  least = passes_ % k_each == 0 ? seconds : std::min(least, seconds);
  if (++passes_ < 2 * k_each) return;
  // A further drafted token costs the same each time, and is worth less and less. Acceptance may be less than is assumed: a draft has to win by some.
  const double each = std::max(0.0, with_ - without_) / k_most_chosen;
  double best = 0.9 * without_, tokens = 1, reach = 1;
  length_ = 0;
  for (std::size_t n = 1; n <= k_most_chosen; ++n) {
    tokens += reach *= acceptance_;
    const double token = (without_ + static_cast<double>(n) * each) / tokens;
    if (n % 2 != 0 || token >= best) continue;
    best = token;
    length_ = n;
  }
}

void check_drafts(bool takes_drafts, Profile profile, const char* field) {
  if (takes_drafts) return;
  throw Error(
      Code::usage, field,
      fmt::format(
          "needs profile open, or positions that are hidden from the provider, which this one does not do "
          "(--hidden-positions): in profile {} it rotates queries and keys by their position and would learn how "
          "many drafted tokens were kept",
          name_of(profile)));
}

Plan plan_of_session(const Plan& plan, HiddenPositions allowed, bool drafts) {
  if (drafts) check_drafts(plan.open() || allowed != HiddenPositions::off, plan.profile, "draft");
  return plan.with_positions(allowed == HiddenPositions::always || (drafts && !plan.open()));
}

Drafts drafts_of(const DraftModel* model, std::optional<std::size_t> length, Executor& executor) {
  Drafts drafts{nullptr, DraftLength::fixed(length.value_or(0))};
  if (model != nullptr) {
    drafts.by = std::make_unique<ModelDrafter>(*model, executor);
  } else {
    drafts.by = std::make_unique<LookupDrafter>();
  }
  if (!length) drafts.length = DraftLength::chosen(drafts.by->acceptance());
  return drafts;
}

}  // namespace permllm
