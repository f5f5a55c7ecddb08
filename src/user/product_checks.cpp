#include "user/product_checks.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/clock.h"

namespace permllm {
namespace {

std::vector<std::int64_t> integers_of(const Words& words, Ring ring) {
  std::vector<std::int64_t> integers(words.size());
  std::transform(words.begin(), words.end(), integers.begin(), [&](Word word) { return centre(word, ring); });
  return integers;
}

std::string name_of(const LinearShape& matrix) {
  switch (matrix.site) {
    case Site::qkv:
      return fmt::format("layer {}, qkv", matrix.layer);
    case Site::o:
      return fmt::format("layer {}, o", matrix.layer);
    case Site::up:
      return fmt::format("layer {}, gate and up", matrix.layer);
    case Site::down:
      return fmt::format("layer {}, down", matrix.layer);
    default:
      return "the logits";
  }
}

}  // namespace

ProductChecks::ProductChecks(const Plan& plan, const ProductKeys& keys, Executor& executor)
    : plan_(plan), keys_(keys), executor_(executor) {
  PERMLLM_ASSERT(plan.checked && keys.matrices.size() == 4 * plan.config.stored_layers() + 1);
}

void ProductChecks::begin(const Words& rows) {
  pending_ = std::nullopt;
  wrong_.clear();
  hand_residual(rows);
}

void ProductChecks::hand(const Words& values, Ring ring, const LinearShape& matrix,
                         const std::vector<float>& constants) {
  input_ = integers_of(values, ring);
  input_bits_ = ring.bits;
  pending_ = Pending{matrix, {}};
  for (const float constant : constants)
    pending_->constants.push_back(static_cast<std::int64_t>(encode(double{constant}, matrix.out)));
}

void ProductChecks::hand_residual(const Words& rows) { residual_ = integers_of(rows, plan_.residual); }

void ProductChecks::see(const ShownPair& shown, const LinearShape& matrix) {
  const Clock::time_point begin = Clock::now();
  look(shown, matrix);
  seconds_ += seconds_since(begin);
}

void ProductChecks::look(const ShownPair& shown, const LinearShape& matrix) {
  if (shown.x.size != 0) {
    settle(shown.x.integers);
    return check(matrix, residual_, plan_.residual.bits, shown.y.integers, matrix.out.ring.bits);
  }
  PERMLLM_ASSERT(pending_ && pending_->matrix.site == matrix.site && pending_->matrix.layer == matrix.layer);
  std::vector<std::int64_t> y = shown.y.integers;
  for (std::size_t j = 0; j < y.size() && !pending_->constants.empty(); ++j)
    y[j] = centre(static_cast<Word>(y[j]) - static_cast<Word>(pending_->constants[j % matrix.rows]), matrix.out.ring);
  check(matrix, input_, input_bits_, y, matrix.out.ring.bits);
  pending_ = std::nullopt;
}

void ProductChecks::settle(std::span<const std::int64_t> rows) {
  const std::size_t width = plan_.config.width, n = rows.size() / width;
  PERMLLM_ASSERT(rows.size() <= residual_.size());
  residual_.erase(residual_.begin(), residual_.end() - static_cast<std::ptrdiff_t>(rows.size()));
  const int keep = plan_.norm_reveal().keep;
  const int shift = pending_ ? plan_.residual_frac - pending_->matrix.out.frac : 0, bits = keep - shift;
  const Word no_product = pending_ ? Ring{shift + 1}.mask() >> 1 : Ring{keep}.mask();
  std::vector<std::int64_t> products(rows.size());
  Word beside = 0;  // bits in which the row has changed, and no product is
  for (std::size_t j = 0; j < rows.size(); ++j) {
    const Word before = static_cast<Word>(residual_[j]), difference = static_cast<Word>(rows[j]) - before;
    beside |= difference & no_product;
    if (!pending_) continue;
    const Word constant = pending_->constants.empty() ? 0 : static_cast<Word>(pending_->constants[j % width]);
    products[j] = centre((difference >> shift) - constant, Ring{bits});
    residual_[j] = centre(before + ((static_cast<Word>(products[j]) + constant) << shift), plan_.residual);
  }
  if (beside != 0) fail(pending_ ? pending_->matrix : qkv_shape(plan_, 0), true);
  if (!pending_) return;
  check(pending_->matrix, std::span(input_).last(n * pending_->matrix.cols), input_bits_, products, bits);
  pending_ = std::nullopt;
}

void ProductChecks::check(const LinearShape& matrix, std::span<const std::int64_t> x, int x_bits,
                          std::span<const std::int64_t> y, int bits) {
  const ProductKey& key = keys_.matrices[matrix_number(plan_, matrix)];
  const std::size_t n = y.size() / matrix.rows;
  PERMLLM_ASSERT(x.size() == n * matrix.cols && y.size() == n * matrix.rows);
  const auto in = [&](std::size_t i) { return x.subspan(i * matrix.cols, matrix.cols); };
  std::vector<std::uint8_t> right(n);
  const auto row = [&](std::size_t i) {
    const Word product = dot_modulo_prime(key.s, y.subspan(i * matrix.rows, matrix.rows), bits);
    right[i] = product == dot_modulo_prime(key.combined, in(i), x_bits) ? 1 : 0;
  };
  if (n == 1) {
    row(0);  // threads are woken for what takes longer
  } else {
    executor_.parallel(n, row);
  }
  for (std::size_t i = 0; i < n; ++i) {
    if (right[i] != 0) continue;
    fail(matrix, cannot_wrap(key.longest_row, in(i), bits));
  }
}

void ProductChecks::fail(const LinearShape& matrix, bool sure) {
  if (!wrong_.empty()) return;
  wrong_ = fmt::format("the provider's product for {} is not that of the model that was registered with the helper{}",
                       name_of(matrix),
                       sure ? "" : ", or it left the ring that the provider's plan has for it, which nobody can tell");
}

void ProductChecks::end() {
  if (wrong_.empty()) return;
  throw Error(Code::mismatch, Reason::wrong_product, "ShownRows",
              wrong_ + ": the answer ends before the token that it would have made");
}

}  // namespace permllm
