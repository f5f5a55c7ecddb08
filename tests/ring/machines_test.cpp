// What machine 0 makes of an exchange that did not come to its end.
#include "ring/machines.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <new>

#include "permllm/error.h"
#include "ring/int_matrix.h"
#include "ring/matrix.h"
#include "support/errors.h"

namespace permllm::test {
namespace {

// Another machine that answers all with zeros.
class Zeros : public Machines {
 public:
  Zeros() : Machines(0, 2) { lead(); }
  std::size_t answers = 0;

 private:
  void tell(std::span<const std::uint8_t>) override {}
  void hear(std::span<std::uint8_t>) override {}
  void broadcast(std::span<std::uint8_t>) override {}
  void gather(std::span<const std::uint8_t>, std::span<std::uint8_t> all, std::span<const std::size_t>) override {
    std::fill(all.begin(), all.end(), 0);
    ++answers;
  }
};

// Left between the command and what the others answer, their answer would be the next command's, of another session.
TEST(Machines, an_exchange_that_an_exception_leaves_loses_the_others) {
  const FloatMatrix real{64, 8, std::vector<float>(64 * 8, 1)};
  Executor executor(1);
  const IntMatrix w(real, {}, executor, 12);
  const std::vector<Word> x(8, 1);
  std::vector<Word> y(64, 7);
  const Word* in = x.data();
  Word* out = y.data();
  Zeros machines;
  int lost = 0;
  machines.when_lost([&] { ++lost; });
  machines.product(w, Ring{64}, {&in, 1}, {&out, 1}, [] {});
  EXPECT_EQ(machines.answers, 1u);
  EXPECT_EQ(y[63], 0u);
  EXPECT_THROW(machines.product(w, Ring{64}, {&in, 1}, {&out, 1}, [] { throw std::bad_alloc(); }), std::bad_alloc);
  EXPECT_TRUE(machines.lost());
  EXPECT_EQ(lost, 1);
  EXPECT_EQ(error_of([&] {
              machines.product(w, Ring{64}, {&in, 1}, {&out, 1}, [] {});
            }),
            "machines: a machine was lost");
  EXPECT_EQ(machines.answers, 1u);
}

}  // namespace
}  // namespace permllm::test
