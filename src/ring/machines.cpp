#include "ring/machines.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <numeric>

#include "permllm/error.h"
#include "ring/int_matrix.h"
#include "ring/pack.h"

namespace permllm {
namespace {

template <class T>
std::span<std::uint8_t> bytes_of(std::span<T> values) {
  return {reinterpret_cast<std::uint8_t*>(values.data()), values.size_bytes()};
}
template <class T>
std::span<const std::uint8_t> bytes_of(std::span<const T> values) {
  return {reinterpret_cast<const std::uint8_t*>(values.data()), values.size_bytes()};
}

std::size_t sum(std::span<const std::size_t> sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), std::size_t{0});
}

}  // namespace

struct Machines::Command {
  enum class Task : std::uint32_t { product, real_product, row, packed, coarsen, end } task;
  std::uint32_t matrix = 0;
  std::uint32_t bits = 0;             // of the ring, or that are taken away
  std::uint32_t count = 0;            // of vectors, or the machine that is asked
  std::uint64_t first = 0, size = 0;  // a row, or bytes
};

Machines::Rows Machines::rows(std::size_t machine, std::size_t of) const {
  const std::size_t blocks = (of + k_block - 1) / k_block;
  const auto at = [&](std::size_t m) { return std::min(of, blocks * m / count_ * k_block); };
  return {at(machine), at(machine + 1)};
}

void Machines::lose() noexcept {
  if (!lost_.exchange(true) && lost_call_) lost_call_();
}

void Machines::fail(const std::string& what) {
  lose();
  throw Error(Code::resource, Reason::busy, "machines", what);
}

// A command and what follows it. Left by an exception between the two, as for want of memory, what the others answer would be taken for the answer to the
// next command, of another session.
class Machines::Exchange {
 public:
  explicit Exchange(Machines& machines) : machines_(machines) {}
  ~Exchange() {
    if (std::uncaught_exceptions() > before_) machines_.lose();
  }
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

 private:
  Machines& machines_;
  const int before_ = std::uncaught_exceptions();
};

// --- While a model is loaded ----------------------------------------------------------------------------------------------

std::vector<std::uint8_t> Machines::gathered(std::span<const std::uint8_t> own, std::span<const std::size_t> sizes) {
  std::vector<std::uint8_t> all(own_ == 0 ? sum(sizes) : 0);
  gather(own, all, sizes);
  return all;
}

void Machines::complete(std::span<std::uint8_t> bytes, std::size_t of, std::size_t step) {
  const auto steps = [&](std::size_t n) { return (n + step - 1) / step; };
  const std::size_t each = of == 0 ? 0 : bytes.size() / steps(of);
  std::vector<std::size_t> sizes;
  for (std::size_t m = 0; m < count_; ++m) sizes.push_back(steps(rows(m, of).count()) * each);
  const std::vector<std::uint8_t> all = gathered(bytes.subspan(steps(rows(own_, of).first) * each, sizes[own_]), sizes);
  std::copy(all.begin(), all.end(), bytes.begin());
  broadcast(bytes);
}

void Machines::add(std::span<std::uint64_t> sums) {
  const std::vector<std::uint8_t> all =
      gathered(bytes_of(sums), std::vector<std::size_t>(count_, sums.size() * sizeof(std::uint64_t)));
  if (own_ == 0) {
    std::fill(sums.begin(), sums.end(), 0);
    for (std::size_t i = 0; i < count_ * sums.size(); ++i) {
      std::uint64_t one;
      std::memcpy(&one, &all[i * sizeof one], sizeof one);
      sums[i % sums.size()] += one;
    }
  }
  broadcast(bytes_of(sums));
}

void Machines::raise(std::span<float> greatest) {
  const std::vector<std::uint8_t> all =
      gathered(bytes_of(greatest), std::vector<std::size_t>(count_, greatest.size() * sizeof(float)));
  for (std::size_t i = 0; own_ == 0 && i < count_ * greatest.size(); ++i) {
    float one;
    std::memcpy(&one, &all[i * sizeof one], sizeof one);
    greatest[i % greatest.size()] = std::max(greatest[i % greatest.size()], one);
  }
  broadcast(bytes_of(greatest));
}

bool Machines::all(bool of_own) {
  std::uint64_t without = of_own ? 0 : 1;
  add({&without, 1});
  return without == 0;
}

void Machines::agree(const std::string& text) {
  std::uint64_t size = text.size();
  broadcast(bytes_of(std::span(&size, 1)));
  std::string first = text;
  first.resize(size);
  broadcast({reinterpret_cast<std::uint8_t*>(first.data()), first.size()});
  if (!all(first == text)) {
    throw Error(Code::mismatch, "machines",
                "not all of them have the same model file, the same options and the same release");
  }
}

// --- Machine 0 asks -------------------------------------------------------------------------------------------------------

void Machines::ask(const Command& command) {
  PERMLLM_ASSERT(leads_);
  if (lost_) fail("a machine was lost");
  tell({reinterpret_cast<const std::uint8_t*>(&command), sizeof command});
}

void Machines::end() {
  const Lock lock(exchange_);
  const Exchange exchange(*this);
  ask({Command::Task::end});
  leads_ = false;
}

void Machines::product(const IntMatrix& w, Ring ring, std::span<const Word* const> x, std::span<Word* const> y,
                       const std::function<void()>& meanwhile) {
  const Lock lock(exchange_);
  const Exchange exchange(*this);
  const std::size_t n = x.size(), bytes = ring.bytes();
  std::vector<std::uint8_t> sent(n * w.cols() * bytes);
  for (std::size_t v = 0; v < n; ++v) pack(std::span(x[v], w.cols()), ring, &sent[v * w.cols() * bytes]);
  ask({Command::Task::product, w.number(), static_cast<std::uint32_t>(ring.bits), static_cast<std::uint32_t>(n)});
  broadcast(sent);
  meanwhile();
  std::vector<std::size_t> sizes{0};
  for (std::size_t m = 1; m < count_; ++m) sizes.push_back(n * rows(m, w.rows()).count() * bytes);
  const std::vector<std::uint8_t> all = gathered({}, sizes);
  const std::uint8_t* at = all.data();
  for (std::size_t m = 1; m < count_; ++m) {
    const Rows of = rows(m, w.rows());
    for (std::size_t v = 0; v < n; ++v, at += of.count() * bytes)
      unpack(at, ring, std::span(y[v] + of.first, of.count()));
  }
}

void Machines::product(const IntMatrix& w, std::span<const float> x, std::span<float> y) {
  const Lock lock(exchange_);
  const Exchange exchange(*this);
  const std::size_t n = x.size() / w.cols();
  ask({Command::Task::real_product, w.number(), 0, static_cast<std::uint32_t>(n)});
  std::vector<float> sent(x.begin(), x.end());
  broadcast(bytes_of(std::span(sent)));
  std::vector<std::size_t> sizes{0};
  for (std::size_t m = 1; m < count_; ++m) sizes.push_back(n * rows(m, w.rows()).count() * sizeof(float));
  const std::vector<std::uint8_t> all = gathered({}, sizes);
  const std::uint8_t* at = all.data();
  for (std::size_t m = 1; m < count_; ++m) {
    const Rows of = rows(m, w.rows());
    for (std::size_t v = 0; v < n; ++v, at += of.count() * sizeof(float))
      std::memcpy(&y[v * w.rows() + of.first], at, of.count() * sizeof(float));
  }
}

void Machines::row(const IntMatrix& w, std::size_t r, std::span<std::int32_t> out) {
  const Lock lock(exchange_);
  const Exchange exchange(*this);
  std::vector<std::size_t> sizes(count_);
  for (std::size_t m = 1; m < count_; ++m) {
    const Rows of = rows(m, w.rows());
    if (r >= of.first && r < of.end) sizes[m] = out.size_bytes();
  }
  ask({Command::Task::row, w.number(), 0, 0, r, out.size_bytes()});
  gather({}, bytes_of(out), sizes);
}

void Machines::packed(const IntMatrix& w, std::size_t machine, std::uint64_t offset, std::span<std::uint8_t> out) {
  const Lock lock(exchange_);
  const Exchange exchange(*this);
  std::vector<std::size_t> sizes(count_);
  sizes[machine] = out.size();
  ask({Command::Task::packed, w.number(), 0, static_cast<std::uint32_t>(machine), offset, out.size()});
  gather({}, out, sizes);
}

void Machines::coarsen(const IntMatrix& w, int bits, const std::function<void()>& own) {
  const Lock lock(exchange_);
  const Exchange exchange(*this);
  ask({Command::Task::coarsen, w.number(), static_cast<std::uint32_t>(bits)});
  own();
}

// --- The others answer ------------------------------------------------------------------------------------------------------

void Machines::serve(std::span<IntMatrix* const> matrices, Executor& executor) {
  PERMLLM_ASSERT(own_ != 0);
  for (;;) {
    Command command{};
    hear({reinterpret_cast<std::uint8_t*>(&command), sizeof command});
    if (command.task == Command::Task::end) return;
    answer(command, *matrices[command.matrix], executor);
  }
}

void Machines::answer(const Command& command, IntMatrix& w, Executor& executor) {
  const Rows own = rows(own_, w.rows());
  switch (command.task) {
    case Command::Task::product:
      return answer_product(command, w, executor);
    case Command::Task::real_product:
      return answer_real_product(command, w, executor);
    case Command::Task::row: {
      const bool here = command.first >= own.first && command.first < own.end;
      std::vector<std::int32_t> row(here ? command.size / sizeof(std::int32_t) : 0);
      if (here) w.row(command.first, row);
      return gather(bytes_of(std::span<const std::int32_t>(row)), {}, {});
    }
    case Command::Task::packed:
      return gather(
          command.count == own_ ? w.packed().subspan(command.first, command.size) : std::span<const std::uint8_t>(), {},
          {});
    case Command::Task::coarsen:
      return w.coarsen(static_cast<int>(command.bits), executor);
    case Command::Task::end:
      return;
  }
}

void Machines::answer_product(const Command& command, const IntMatrix& w, Executor& executor) {
  const Ring ring{static_cast<int>(command.bits)};
  const std::size_t n = command.count, own = rows(own_, w.rows()).count();
  std::vector<std::uint8_t> bytes(n * w.cols() * ring.bytes());
  broadcast(bytes);
  std::vector<Word> x(n * w.cols()), y(n * own);
  unpack(bytes.data(), ring, x);
  product_of_own_rows(w, ring, x, y, executor);
  bytes.resize(y.size() * ring.bytes());
  pack(std::span<const Word>(y), ring, bytes.data());
  gather(bytes, {}, {});
}

void Machines::answer_real_product(const Command& command, const IntMatrix& w, Executor& executor) {
  std::vector<float> x(command.count * w.cols()), y(command.count * rows(own_, w.rows()).count());
  broadcast(bytes_of(std::span(x)));
  product_of_own_rows(w, x, y, executor);
  gather(bytes_of(std::span<const float>(y)), {}, {});
}

}  // namespace permllm
