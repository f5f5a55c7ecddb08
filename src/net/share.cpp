#include "net/share.h"

#include <algorithm>

#include "wire/frame.h"

namespace permllm {

Clock::time_point SharedBandwidth::reserve(std::size_t bytes) {
  const Lock lock(mutex_);
  const std::chrono::duration<double> takes(8 * static_cast<double>(bytes) / bits_per_second_);
  free_ = std::max(free_, Clock::now()) + std::chrono::duration_cast<Clock::duration>(takes);
  return free_ - k_burst;
}

void Throttled::send(Frame frame) {
  const Clock::time_point until = out_->reserve(k_frame_header_bytes + frame.payload.size());
  if (until > Clock::now()) {
    flush();  // what was sent before is not held up
    wait(until);
  }
  PassingLink::send(std::move(frame));
}

Frame Throttled::receive(Clock::time_point deadline, const char* awaited, std::size_t most) {
  Frame frame = PassingLink::receive(deadline, awaited, most);
  wait(in_->reserve(k_frame_header_bytes + frame.payload.size()));
  return frame;
}

void Throttled::close() {
  {
    const Lock lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
  PassingLink::close();
}

void Throttled::wait(Clock::time_point until) {
  Lock lock(mutex_);
  changed_.wait_until(lock, until, [&]() REQUIRES(mutex_) { return closed_; });
}

std::unique_ptr<Link> BandwidthByUser::throttled(std::unique_ptr<Link> link, const std::string& user) {
  if (bits_per_second_ == 0) return link;
  const Lock lock(mutex_);
  std::erase_if(shares_, [](const auto& share) { return share.second.in.expired(); });
  Share& share = shares_[user];
  std::shared_ptr<SharedBandwidth> out = share.out.lock(), in = share.in.lock();
  if (!in || !out) {
    share.out = out = std::make_shared<SharedBandwidth>(bits_per_second_);
    share.in = in = std::make_shared<SharedBandwidth>(bits_per_second_);
  }
  return std::make_unique<Throttled>(std::move(link), std::move(out), std::move(in));
}

}  // namespace permllm
