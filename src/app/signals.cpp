#include "app/signals.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "permllm/error.h"

namespace permllm {

Signals::Signals(std::function<void(int)> handle) {
  signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, number);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signals_ = signalfd(-1, &set, SFD_CLOEXEC);
  stop_ = eventfd(0, EFD_CLOEXEC);
  if (signals_ < 0 || stop_ < 0) throw Error(Code::resource, "signals", "the system gave no descriptor");
  thread_ = std::jthread([this, handle = std::move(handle)] {
    for (;;) {
      pollfd ready[2]{{signals_, POLLIN, 0}, {stop_, POLLIN, 0}};
      if (poll(ready, 2, -1) < 0) continue;
      if (ready[1].revents != 0) return;
      signalfd_siginfo info;
      if (read(signals_, &info, sizeof info) == sizeof info) handle(static_cast<int>(info.ssi_signo));
    }
  });
}

Signals::~Signals() {
  const std::uint64_t one = 1;
  if (write(stop_, &one, sizeof one) == sizeof one) thread_.join();
  close(signals_);
  close(stop_);
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
  sendto(socket_fd, state.data(), state.size(), MSG_NOSIGNAL | (state.starts_with("STATUS=") ? MSG_DONTWAIT : 0), reinterpret_cast<const sockaddr*>(&address),
         static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length));
  close(socket_fd);
}

void notify_reloading() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  notify_manager(fmt::format("RELOADING=1\nMONOTONIC_USEC={}", static_cast<long long>(now.tv_sec) * 1000000 + now.tv_nsec / 1000));
}

}  // namespace permllm
