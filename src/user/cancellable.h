// What ends an answer before its first token.
#pragma once

#include <atomic>
#include <memory>

#include "permllm/error.h"
#include "wire/link.h"
#include "wire/tags.h"

namespace permllm {

// A link that gives up once the answer is cancelled, while there is no token yet by which it could end in order.
class Cancellable : public PassingLink {
 public:
  Cancellable(std::unique_ptr<Link> link, const std::atomic<bool>& cancelled, const std::atomic<bool>& answering)
      : PassingLink(std::move(link)), cancelled_(cancelled), answering_(answering) {}
  void send(Frame frame) override {
    if (cancelled_ && !answering_ && !is_of_link(frame.tag))
      throw Error(Code::usage, "answer", "cancelled");  // closed would be a cut that the link mends
    PassingLink::send(std::move(frame));
  }

 private:
  const std::atomic<bool>&cancelled_, &answering_;
};

}  // namespace permllm
