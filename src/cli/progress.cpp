#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>

namespace permllm {
namespace {

constexpr double k_silence = 2;  // seconds

}  // namespace

ProgressBar::ProgressBar(std::string what, bool quiet)
    : what_(std::move(what)), quiet_(quiet), terminal_(isatty(STDERR_FILENO) != 0) {}

void ProgressBar::show(double fraction, double seconds) {
  if (quiet_) return;
  const double left = fraction > 0.02 ? seconds / fraction * (1 - fraction) : 0;
  if (terminal_) {
    const int filled = static_cast<int>(fraction * 30);
    std::fputs(
        fmt::format("\r{:<34} [{:<30}] {:3.0f} %  {}\033[K", what_, std::string(static_cast<std::size_t>(filled), '#'),
                    fraction * 100, fraction > 0.02 && fraction < 1 ? fmt::format("{:.0f} s left", left) : "")
            .c_str(),
        stderr);
    open_ = true;
  } else if (seconds > told_ + k_silence) {
    told_ = seconds;
    std::fputs(fmt::format("{}: {:.0f} %{}\n", what_, fraction * 100,
                           fraction > 0.02 ? fmt::format(", {:.0f} s left", left) : "")
                   .c_str(),
               stderr);
  }
}

void ProgressBar::finish() {
  show(1, 0);
  close();
}

void ProgressBar::close() {
  if (open_) std::fputs("\n", stderr);
  open_ = false;
  told_ = 0;
}

std::function<void(double)> late_bar(std::string what, bool quiet) {
  return [bar = std::make_shared<ProgressBar>(std::move(what), quiet), begin = Clock::now()](double fraction) {
    const double seconds = seconds_since(begin);
    if (seconds < 1) return;
    if (fraction < 1) return bar->show(fraction, seconds);
    bar->finish();
  };
}

void show_progress(MeasuredConversation::Request& request, bool quiet) {
  const auto making = std::make_shared<ProgressBar>("Offline material for this request", quiet);
  request.on_material = [making](const OfflineProgress& made) { making->show(made.fraction, made.seconds); };
  request.on_ready = [making, then = std::move(request.on_ready)] {
    making->finish();
    if (then) then();
  };
  request.on_read = [quiet, bar = std::function<void(double)>()](double share) mutable {
    if (!bar) bar = late_bar("Reading the prompt", quiet);
    bar(share);
    if (share >= 1) bar = nullptr;
  };
}

}  // namespace permllm
