#include "net/memory_link.h"

#include <condition_variable>
#include <deque>

#include "base/mutex.h"
#include "permllm/error.h"
#include "wire/frame.h"

namespace permllm {
namespace {

struct Queue {
  Mutex mutex;
  std::condition_variable changed;
  std::deque<Frame> frames GUARDED_BY(mutex);
  bool closed GUARDED_BY(mutex) = false;
};

class MemoryLink : public Link {
 public:
  MemoryLink(std::shared_ptr<Queue> out, std::shared_ptr<Queue> in) : out_(std::move(out)), in_(std::move(in)) {}
  ~MemoryLink() override { close(); }

  void send(Frame frame) override {
    {
      const Lock lock(out_->mutex);
      if (out_->closed) throw Error(Code::closed, "link", "the peer closed the connection");
      out_->frames.push_back(std::move(frame));
    }
    out_->changed.notify_one();
  }
  void flush() override {}
  Frame receive(Clock::time_point deadline, const char* awaited, std::size_t most) override {
    Lock lock(in_->mutex);
    if (!in_->changed.wait_until(lock, deadline,
                                 [&]() REQUIRES(in_->mutex) { return in_->closed || !in_->frames.empty(); })) {
      throw Error(Code::timeout, awaited, "did not arrive before the deadline");
    }
    if (in_->frames.empty()) throw Error(Code::closed, awaited, "the peer closed the connection");
    check_length(in_->frames.front().tag, in_->frames.front().payload.size(), most, awaited);
    Frame frame = std::move(in_->frames.front());
    in_->frames.pop_front();
    return frame;
  }
  bool has_come() override {
    const Lock lock(in_->mutex);
    return in_->closed || !in_->frames.empty();
  }
  void close() override {
    for (const auto& queue : {out_, in_}) {
      {
        const Lock lock(queue->mutex);
        queue->closed = true;
      }
      queue->changed.notify_all();
    }
  }

 private:
  std::shared_ptr<Queue> out_, in_;
};

}  // namespace

std::pair<std::unique_ptr<Link>, std::unique_ptr<Link>> memory_links() {
  const auto a = std::make_shared<Queue>(), b = std::make_shared<Queue>();
  return {std::make_unique<MemoryLink>(a, b), std::make_unique<MemoryLink>(b, a)};
}

}  // namespace permllm
