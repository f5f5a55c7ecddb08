// The user's check of every product that the provider makes in profile open (Plan::checked).                       docs/protocol.md 4.14
//
// It follows the transformer's page (page/open_page.h): what the user hands over, what it is shown, and so what went into each matrix and what came
// of it, as integers. What is added to the residual is known as the difference of two rows that are shown.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "page/transformer.h"
#include "session/product_keys.h"

namespace permllm {

class ProductChecks {
 public:
  // All references outlive the object.
  ProductChecks(const Plan& plan, const ProductKeys& keys, Executor& executor);

  // A pass begins, with these embedding rows of its tokens, as they are handed over.
  void begin(const Words& rows);
  // What is handed over for the matrix that comes next, whose constants (empty: none) the provider adds.
  void hand(const Words& values, Ring ring, const LinearShape& matrix, const std::vector<float>& constants = {});
  // A row of the residual is handed over anew.
  void hand_residual(const Words& rows);
  // What is shown: where there is a residual with it, what was handed over before has been added to that, and `matrix` is of the residual. Else what
  // the matrix puts out for which values were handed over. Of the last rows alone, where fewer are shown.
  void see(const ShownPair& shown, const LinearShape& matrix);

  // Ends a pass. Errors: mismatch, wrong_product, naming layer and matrix, where a product is another. Rings are the provider's choice, so that one which
  // W x may have left excuses nobody; the text says so.
  void end();
  // That all of this took so far.
  double seconds() const { return seconds_; }

 private:
  void look(const ShownPair& shown, const LinearShape& matrix);
  // Rows of x and y, the last of the pass; bits of their rings.
  void check(const LinearShape& matrix, std::span<const std::int64_t> x, int x_bits, std::span<const std::int64_t> y,
             int bits);
  // What was added to the residual since it was last known, where something was handed over; and that nothing else was. What it is now.
  void settle(std::span<const std::int64_t> rows);
  // sure: the product cannot have left its ring.
  void fail(const LinearShape& matrix, bool sure);

  const Plan& plan_;
  const ProductKeys& keys_;
  Executor& executor_;
  // [token][size]: the residual as it was last known, in its whole ring; what was handed over.
  std::vector<std::int64_t> residual_, input_;
  int input_bits_ = 64;
  struct Pending {
    LinearShape matrix;
    std::vector<std::int64_t> constants;  // encoded, by row; empty: none
  };
  std::optional<Pending> pending_;  // the matrix that takes input_
  double seconds_ = 0;
  std::string wrong_;  // what the first product is that is another; empty: none
};

}  // namespace permllm
