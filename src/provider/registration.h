// A model on its way to the helper.
#pragma once

#include <functional>
#include <memory>

#include "provider/offer.h"
#include "session/event.h"
#include "wire/link.h"

namespace permllm {

using DialHelper = std::function<std::unique_ptr<Link>()>;

// Sends V (public weights: W) to the helper, as far as it is not there. Where the connection is lost it goes on over another, as long as each gets something across.
// progress: fraction done of what had to be sent; may be null. Errors: the helper's refusals, among them resource where its disk has no room.
void register_at_helper(const OfferedModel& model, Executor& executor, Clock::duration patience, const DialHelper& dial,
                        const OnEvent& on_event, const std::function<void(double)>& progress);

}  // namespace permllm
