#include "mpi/join.h"

#include <fmt/format.h>
#include <mpi.h>
#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <limits>
#include <thread>
#include <vector>

#include "mpi/launched.h"
#include "permllm/error.h"

namespace permllm {
namespace {

constexpr int k_command = 1, k_part = 2, k_gathered = 3;  // tags

int to_count(std::size_t bytes) {
  PERMLLM_ASSERT(bytes <= static_cast<std::size_t>(std::numeric_limits<int>::max()));
  return static_cast<int>(bytes);
}

// Between two looks at whether something has come: at first at once, later after a small part of the time that it took so far, so that who waits
// long leaves the processor to others.
class Pause {
 public:
  void rest() {
    const Clock::duration waited = Clock::now() - begin_;
    if (waited < k_spinning) return;
    if (waited < k_yielding) {
      sched_yield();
      return;
    }
    std::this_thread::sleep_for(std::min<Clock::duration>(waited / 32, k_longest));
  }
  Clock::duration waited() const { return Clock::now() - begin_; }

 private:
  static constexpr Clock::duration k_spinning = std::chrono::microseconds(5), k_yielding = std::chrono::milliseconds(1),
                                   k_longest = std::chrono::milliseconds(1);
  const Clock::time_point begin_ = Clock::now();
};

class MpiMachines : public Machines {
 public:
  MpiMachines(std::size_t own, std::size_t count, Clock::duration patience)
      : Machines(own, count), patience_(patience) {
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    // Of those that are not machine 0.
    check(MPI_Comm_split(MPI_COMM_WORLD, own == 0 ? MPI_UNDEFINED : 0, static_cast<int>(own), &others_));
    if (own != 0) MPI_Comm_set_errhandler(others_, MPI_ERRORS_RETURN);
  }
  // Where this process ends by an error, or has lost another, the launcher ends the others.
  ~MpiMachines() override {
    if (lost() || std::uncaught_exceptions() > exceptions_) return;
    if (own() == 0 && leads()) {
      try {
        end();
      } catch (const Error&) {
        return;
      }
    }
    MPI_Finalize();
  }

 private:
  void check(int code) {
    if (code == MPI_SUCCESS) return;
    std::array<char, MPI_MAX_ERROR_STRING> text{};
    int length = 0;
    MPI_Error_string(code, text.data(), &length);
    fail(std::string(text.data(), static_cast<std::size_t>(length)));
  }

  // names[i]: the machine of requests[i].
  void wait(std::span<MPI_Request> requests, std::span<const std::size_t> names) {
    for (Pause pause;; pause.rest()) {
      int done = 0;
      check(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE));
      if (done != 0) return;
      if (own() != 0 || !leads() || pause.waited() < patience_) continue;
      for (std::size_t i = 0; i < requests.size(); ++i) {
        MPI_Test(&requests[i], &done, MPI_STATUS_IGNORE);
        if (done == 0)
          fail(fmt::format("machine {} of the provider has not answered for {:g} s: the provider starts again",
                           names[i], seconds_of(patience_)));
      }
    }
  }

  void tell(std::span<const std::uint8_t> command) override { send_to_all(command, k_command); }
  void send_to_all(std::span<const std::uint8_t> bytes, int tag) {
    std::vector<MPI_Request> requests(count() - 1);
    std::vector<std::size_t> names;
    for (std::size_t m = 1; m < count(); ++m) {
      check(MPI_Isend(bytes.data(), to_count(bytes.size()), MPI_BYTE, static_cast<int>(m), tag, MPI_COMM_WORLD,
                      &requests[m - 1]));
      names.push_back(m);
    }
    wait(requests, names);
  }
  void receive(std::span<std::uint8_t> bytes, int tag) {
    MPI_Request request;
    check(MPI_Irecv(bytes.data(), to_count(bytes.size()), MPI_BYTE, 0, tag, MPI_COMM_WORLD, &request));
    constexpr std::size_t k_first = 0;
    wait({&request, 1}, {&k_first, 1});
  }
  void hear(std::span<std::uint8_t> command) override { receive(command, k_command); }

  void broadcast(std::span<std::uint8_t> bytes) override {
    const std::size_t others = count() - 1;
    if (others == 1 || bytes.size() <= k_broadcast_whole)
      return own() == 0 ? send_to_all(bytes, k_part) : receive(bytes, k_part);
    std::vector<int> sizes, places;
    for (std::size_t i = 0; i < others; ++i) {
      places.push_back(to_count(bytes.size() * i / others));
      sizes.push_back(to_count(bytes.size() * (i + 1) / others) - places.back());
    }
    if (own() != 0) {
      receive(bytes.subspan(static_cast<std::size_t>(places[own() - 1]), static_cast<std::size_t>(sizes[own() - 1])),
              k_part);
      MPI_Request request;
      check(MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_BYTE, bytes.data(), sizes.data(), places.data(), MPI_BYTE, others_,
                            &request));
      return wait({&request, 1}, {});
    }
    std::vector<MPI_Request> requests(others);
    std::vector<std::size_t> names;
    for (std::size_t i = 0; i < others; ++i) {
      check(MPI_Isend(bytes.data() + places[i], sizes[i], MPI_BYTE, static_cast<int>(i + 1), k_part, MPI_COMM_WORLD,
                      &requests[i]));
      names.push_back(i + 1);
    }
    wait(requests, names);
  }

  void gather(std::span<const std::uint8_t> own_bytes, std::span<std::uint8_t> all,
              std::span<const std::size_t> sizes) override {
    if (own() != 0) {
      if (own_bytes.empty()) return;
      MPI_Request request;
      check(MPI_Isend(own_bytes.data(), to_count(own_bytes.size()), MPI_BYTE, 0, k_gathered, MPI_COMM_WORLD, &request));
      constexpr std::size_t k_first = 0;
      return wait({&request, 1}, {&k_first, 1});
    }
    std::vector<MPI_Request> requests;
    std::vector<std::size_t> names;
    std::size_t at = sizes[0];
    std::copy(own_bytes.begin(), own_bytes.end(), all.begin());
    for (std::size_t m = 1; m < count(); at += sizes[m], ++m) {
      if (sizes[m] == 0) continue;
      check(MPI_Irecv(all.data() + at, to_count(sizes[m]), MPI_BYTE, static_cast<int>(m), k_gathered, MPI_COMM_WORLD,
                      &requests.emplace_back()));
      names.push_back(m);
    }
    wait(requests, names);
  }

  const Clock::duration patience_;
  const int exceptions_ = std::uncaught_exceptions();
  MPI_Comm others_ = MPI_COMM_NULL;
};

}  // namespace

std::size_t machine_number() { return launched_number(); }

std::unique_ptr<Machines> join_machines(Clock::duration patience) {
  if (launched_machines() == 1) return nullptr;
  // A process that nobody may look into (prctl(2), PR_SET_DUMPABLE) lets nobody copy out of its memory.
  setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
  int threads = 0, own = 0, count = 0;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &threads) != MPI_SUCCESS ||
      threads < MPI_THREAD_SERIALIZED)
    throw Error(Code::resource, "machines", "MPI does not begin");
  prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0);  // pauses are as short as they are meant to be
  MPI_Comm_rank(MPI_COMM_WORLD, &own);
  MPI_Comm_size(MPI_COMM_WORLD, &count);
  return std::make_unique<MpiMachines>(static_cast<std::size_t>(own), static_cast<std::size_t>(count), patience);
}

}  // namespace permllm
