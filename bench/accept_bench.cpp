// What connections cost a service before it knows who is there: the processor's time of a bare one, and how long a proper user's handshake takes
// beside 400 of them a second from one address.
#include <arpa/inet.h>
#include <benchmark/benchmark.h>
#include <pthread.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <thread>

#include "service/server.h"
#include "support/parties.h"

namespace permllm::test {
namespace {

class Service {
 public:
  Service()
      : server_(listener_,
                {[](const Peer&) {}, [](std::unique_ptr<Link> link, const Peer&) { link->close(); }, 1 << 20}, {}, log_,
                metrics_),
        thread_([this] { server_.run(); }) {}
  ~Service() {
    server_.drain();
    thread_.join();
  }
  // Of the thread that accepts; a bare connection is seen by no other.
  double cpu_seconds() {
    clockid_t clock{};
    timespec time{};
    if (pthread_getcpuclockid(thread_.native_handle(), &clock) != 0 || clock_gettime(clock, &time) != 0) return 0;
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  }
  std::uint16_t port() const { return listener_.port(); }
  bool idle() const { return server_.count().handshakes == 0; }
  void shake_hands() {
    tls_connect(parties_.of(Role::user), "127.0.0.1:" + std::to_string(port()), Role::provider,
                Clock::now() + std::chrono::seconds(15));
  }

 private:
  Parties parties_;
  Log log_{"bench", {"text", "off"}};
  Metrics metrics_{Role::provider};
  TlsListener listener_{[this] { return parties_.of(Role::provider); }, "127.0.0.1:0"};
  Server server_;
  std::jthread thread_;
};

// From an address of its own, so that the proper user's is another's.
int bare_connection(std::uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in from{}, to{};
  from.sin_family = to.sin_family = AF_INET;
  inet_pton(AF_INET, "127.7.7.7", &from.sin_addr);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(port);
  if (bind(fd, reinterpret_cast<sockaddr*>(&from), sizeof from) != 0 ||
      connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0)
    std::abort();
  return fd;
}

void bare_connections(benchmark::State& state) {
  Service service;
  const double before = service.cpu_seconds();
  std::size_t count = 0;
  for (auto _ : state) {
    for (int i = 0; i < 100; ++i, ++count) close(bare_connection(service.port()));
    while (!service.idle()) std::this_thread::yield();
  }
  state.counters["ms_of_service_a_connection"] = 1000 * (service.cpu_seconds() - before) / static_cast<double>(count);
}
BENCHMARK(bare_connections)->Unit(benchmark::kMillisecond);

void handshake_beside_400_a_second(benchmark::State& state) {
  Service service;
  std::atomic<bool> stop = false;
  std::jthread flood([&] {
    std::deque<int> held;
    for (Clock::time_point next = Clock::now(); !stop; next += std::chrono::microseconds(2500)) {
      std::this_thread::sleep_until(next);
      held.push_back(bare_connection(service.port()));
      if (held.size() <= 400) continue;
      close(held.front());
      held.pop_front();
    }
    for (const int fd : held) close(fd);
  });
  double worst = 0;
  for (auto _ : state) {
    const Clock::time_point begin = Clock::now();
    service.shake_hands();
    worst = std::max(worst, std::chrono::duration<double>(Clock::now() - begin).count());
  }
  stop = true;
  flood.join();
  state.counters["worst_ms"] = 1000 * worst;
}
BENCHMARK(handshake_beside_400_a_second)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace permllm::test
