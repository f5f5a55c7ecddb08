#include "service/signals.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "permllm/error.h"

namespace permllm {
namespace {

std::atomic<int> lost = -1;  // a signal's handler has nothing but globals

// Wakes the thread of Signals, which may say what is the matter.
void on_bus_error(int) {
  const std::uint64_t one = 1;
  if (write(lost, &one, sizeof one) == sizeof one) poll(nullptr, 0, 5000);
  _exit(1);
}

}  // namespace

Signals::Signals(std::function<void(int)> handle) {
  signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, number);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signals_ = signalfd(-1, &set, SFD_CLOEXEC);
  stop_ = eventfd(0, EFD_CLOEXEC);
  lost_ = eventfd(0, EFD_CLOEXEC);
  if (signals_ < 0 || stop_ < 0 || lost_ < 0) throw Error(Code::resource, "signals", "the system gave no descriptor");
  thread_ = std::jthread([this, handle = std::move(handle)] {
    for (;;) {
      pollfd ready[3]{{signals_, POLLIN, 0}, {stop_, POLLIN, 0}, {lost_, POLLIN, 0}};
      if (poll(ready, 3, -1) < 0) continue;
      if (ready[2].revents != 0) {
        std::uint64_t ignored;
        if (read(lost_, &ignored, sizeof ignored) == sizeof ignored) handle(SIGBUS);
      }
      if (ready[1].revents != 0) return;
      if (ready[0].revents == 0) continue;
      signalfd_siginfo info;
      if (read(signals_, &info, sizeof info) == sizeof info) handle(static_cast<int>(info.ssi_signo));
    }
  });
}

Signals::~Signals() {
  const std::uint64_t one = 1;
  if (write(stop_, &one, sizeof one) == sizeof one) thread_.join();
  int own = lost_;
  if (lost.compare_exchange_strong(own, -1)) signal(SIGBUS, SIG_DFL);
  for (const int descriptor : {signals_, stop_, lost_}) close(descriptor);
}

void Signals::watch_mapped_files() {
  lost = lost_;
  signal(SIGBUS, on_bus_error);
}

void notify_manager(const std::string& state) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  sockaddr_un address{};
  if (path == nullptr || (path[0] != '/' && path[0] != '@') || std::strlen(path) >= sizeof address.sun_path) return;
  address.sun_family = AF_UNIX;
  const std::size_t length = std::strlen(path);
  std::memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = 0;  // a name of the abstract kind
  const int socket_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (socket_fd < 0) return;
  // A manager that does not read holds nobody up: not at all for a mere status.
  const timeval patience{5, 0};
  setsockopt(socket_fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  sendto(socket_fd, state.data(), state.size(), MSG_NOSIGNAL | (state.starts_with("STATUS=") ? MSG_DONTWAIT : 0),
         reinterpret_cast<const sockaddr*>(&address), static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length));
  close(socket_fd);
}

void notify_reloading() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  notify_manager(
      fmt::format("RELOADING=1\nMONOTONIC_USEC={}", static_cast<long long>(now.tv_sec) * 1000000 + now.tv_nsec / 1000));
}

}  // namespace permllm
