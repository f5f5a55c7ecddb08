// Several machines that hold a model's matrices together: of each matrix every machine has a run of rows. Sums in a ring are exact and a row's sum
// is made on one machine, so products are the same words as on one machine alone.
//
// While a model is loaded all machines make the same calls in the same order (complete, add, raise, all). From then on machine 0 leads: it asks, and
// the others do what it asks (serve) until it ends.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "ring/executor.h"
#include "ring/ring.h"

namespace permllm {

class IntMatrix;

// What machine 0 has for all goes to each of them as it is up to so many bytes; of more each gets a part, and they pass the parts on to each other.
constexpr std::size_t k_broadcast_whole = std::size_t{16} << 10;

// Errors of all: resource, with Reason::busy, where a machine does not answer; from then on of every call.
class Machines {
 public:
  virtual ~Machines() = default;
  Machines(const Machines&) = delete;
  Machines& operator=(const Machines&) = delete;
  std::size_t own() const { return own_; }
  std::size_t count() const { return count_; }

  // Rows [first, end) of a matrix of so many: whole blocks of k_block, as many on each machine as that allows.
  struct Rows {
    std::size_t first = 0, end = 0;
    std::size_t count() const { return end - first; }
  };
  Rows rows(std::size_t machine, std::size_t of) const;

  // Of one entry a row each machine has those of its own rows; then all have all.
  template <class T>
  void complete(std::span<T> by_row) {
    complete({reinterpret_cast<std::uint8_t*>(by_row.data()), by_row.size_bytes()}, by_row.size(), 1);
  }
  // Likewise, of so many entries for each block of k_block rows.
  static constexpr std::size_t k_block = 32;
  template <class T>
  void complete_blocks(std::span<T> by_block, std::size_t rows) {
    complete({reinterpret_cast<std::uint8_t*>(by_block.data()), by_block.size_bytes()}, rows, k_block);
  }
  // The sum over machines, and the greatest.
  void add(std::span<std::uint64_t> sums);
  void raise(std::span<float> greatest);
  bool all(bool of_own);
  // That all have the same text, of what they load. Errors: mismatch.
  void agree(const std::string& text);

  // At machine 0, which from now on asks the others.
  void lead() { leads_ = true; }
  bool leads() const { return leads_; }
  // At the others: does what machine 0 asks of matrices, which have these numbers, until it ends.
  void serve(std::span<IntMatrix* const> matrices, Executor& executor);
  void end();

  // What machine 0 asks of matrix w's rows on the other machines; from any thread. y: whole vectors, of which the others' rows are written.
  // meanwhile: machine 0's own part.
  void product(const IntMatrix& w, Ring ring, std::span<const Word* const> x, std::span<Word* const> y,
               const std::function<void()>& meanwhile);
  void product(const IntMatrix& w, std::span<const float> x, std::span<float> y);
  void row(const IntMatrix& w, std::size_t r, std::span<std::int32_t> out);
  // `out` lies within what another machine has packed, from `offset` of that on.
  void packed(const IntMatrix& w, std::size_t machine, std::uint64_t offset, std::span<std::uint8_t> out);
  // Has the others coarsen it too (IntMatrix::coarsen): each of them calls complete and add then, as the caller is to do in `own`.
  void coarsen(const IntMatrix& w, int bits, const std::function<void()>& own);

  // Called once, in the thread that finds it, when a machine does not answer. To be set before anything is asked.
  void when_lost(std::function<void()> call) { lost_call_ = std::move(call); }
  bool lost() const { return lost_; }

 protected:
  Machines(std::size_t own, std::size_t count) : own_(own), count_(count) {}
  // How bytes travel. Each throws (fail) where another machine does not answer; while a model is loaded there is no deadline.
  // From machine 0 to each other, who waits in `hear` without using its processor.
  virtual void tell(std::span<const std::uint8_t> command) = 0;
  virtual void hear(std::span<std::uint8_t> command) = 0;
  // From machine 0 to all.
  virtual void broadcast(std::span<std::uint8_t> bytes) = 0;
  // To machine 0, into `all`, one machine's behind the other's, `sizes` of them; `all` is empty elsewhere.
  virtual void gather(std::span<const std::uint8_t> own, std::span<std::uint8_t> all,
                      std::span<const std::size_t> sizes) = 0;
  [[noreturn]] void fail(const std::string& what);

 private:
  struct Command;
  class Exchange;
  void lose() noexcept;
  void ask(const Command& command);
  void answer(const Command& command, IntMatrix& w, Executor& executor);
  void answer_product(const Command& command, const IntMatrix& w, Executor& executor);
  void answer_real_product(const Command& command, const IntMatrix& w, Executor& executor);
  void complete(std::span<std::uint8_t> bytes, std::size_t rows, std::size_t step);
  // Machine 0's view of what all have, one behind the other.
  std::vector<std::uint8_t> gathered(std::span<const std::uint8_t> own, std::span<const std::size_t> sizes);

  const std::size_t own_, count_;
  std::atomic<bool> leads_ = false, lost_ = false;
  std::function<void()> lost_call_;
  Mutex exchange_;  // one at a time: a command and what follows it
};

}  // namespace permllm
