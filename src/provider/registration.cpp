#include "provider/registration.h"

#include <fmt/format.h>

#include <algorithm>
#include <future>
#include <vector>

#include "base/reason.h"
#include "session/masked_model.h"

namespace permllm {
namespace {

struct Registration {
  const OfferedModel& model;
  Executor& executor;
  Clock::duration patience;
  const DialHelper& dial;
  const std::function<void(double)>& progress;
  ModelOffer offer;
  MaskedModel v;
  std::vector<Digest> sent;  // hashes by chunk; zeros: not yet
  bool advanced = false;     // over the connection that is open
};

// Chunks missing[first] and those that follow, as many as are made together.
std::vector<ModelChunk> make_chunks(const Registration& registration, std::span<const std::uint32_t> missing,
                                    std::size_t first) {
  std::vector<ModelChunk> chunks(std::min<std::size_t>(2 * registration.executor.threads(), missing.size() - first));
  registration.executor.parallel(chunks.size(), [&](std::size_t i) {
    ModelChunk& chunk = chunks[i];
    chunk.number = missing[first + i];
    chunk.bytes.resize(registration.offer.chunk_bytes(chunk.number));
    registration.v.fill(std::uint64_t{chunk.number} * registration.offer.chunk, chunk.bytes);
    chunk.hash = chunk_hash(chunk.bytes);
  });
  return chunks;
}

void send_chunks(Registration& registration, std::span<const std::uint32_t> missing, Channel& helper) {
  std::size_t sent = 0, taken = 0;
  const auto await_taken = [&](std::size_t most) {  // until at most so many are under way
    for (; sent - taken > most; ++taken) {
      const std::uint32_t number = helper.receive(ModelTaken{}).number;
      if (number != missing[taken])
        throw Error(Code::malformed, "ModelTaken.number", fmt::format("{}, expected {}", number, missing[taken]));
      registration.advanced = true;
      if (registration.progress)
        registration.progress(static_cast<double>(taken + 1) / static_cast<double>(missing.size()));
    }
  };
  // The next ones are made while these are sent.
  const auto make = [&](std::size_t first) {
    return std::async(std::launch::async, [&, first] { return make_chunks(registration, missing, first); });
  };
  std::future<std::vector<ModelChunk>> next = make(0);
  while (sent < missing.size()) {
    std::vector<ModelChunk> chunks = next.get();
    if (sent + chunks.size() < missing.size()) next = make(sent + chunks.size());
    for (ModelChunk& chunk : chunks) {
      await_taken(ModelTaken::k_window - 1);
      registration.sent[chunk.number] = chunk.hash;
      if (registration.model.record) registration.model.record->set_sent(chunk.number, chunk.hash);
      helper.send(std::move(chunk));
      helper.flush();
      ++sent;
    }
  }
  await_taken(0);
}

void send(Registration& registration) {
  const ModelOffer& offer = registration.offer;
  const std::unique_ptr<Link> link = registration.dial();
  Channel helper(*link, 0, registration.patience);
  helper.send(offer);
  helper.flush();
  std::vector<std::uint32_t> missing;
  for (std::uint32_t first = 0; first < offer.chunks();) {
    const auto held = helper.receive(ModelHeld{}).hashes;
    const std::size_t expected = std::min<std::size_t>(ModelHeld::k_step, offer.chunks() - first);
    if (held.size() != expected)
      throw Error(Code::malformed, "ModelHeld.hashes", fmt::format("{} of them, expected {}", held.size(), expected));
    for (const Digest& hash : held) {
      if (hash == Digest{} || hash != registration.sent[first]) missing.push_back(first);
      ++first;
    }
  }
  try {
    send_chunks(registration, missing, helper);
    helper.send(ModelEnd{model_digest(offer, registration.sent)});
    helper.flush();
    helper.receive(ModelStored{});
  } catch (const Error& error) {
    if (error.code() != Code::closed) throw;
    for (;;) helper.receive(ModelTaken{});  // until the helper's refusal, if it made one
  }
  link->close();
}

}  // namespace

void register_at_helper(const OfferedModel& model, Executor& executor, Clock::duration patience, const DialHelper& dial,
                        const OnEvent& on_event, const std::function<void(double)>& progress) {
  Registration registration{model,
                            executor,
                            patience,
                            dial,
                            progress,
                            model_offer(model),
                            MaskedModel(model.weights, model.plan, model.mask_seed),
                            {}};
  registration.sent = model.record ? model.record->sent() : std::vector<Digest>(registration.offer.chunks());
  for (;;) {
    registration.advanced = false;
    try {
      return reach(Reason::helper_unreachable, [&] { send(registration); });
    } catch (const Error& error) {
      if (!registration.advanced || (error.code() != Code::closed && error.code() != Code::timeout)) throw;
      on_event(fmt::format("the connection to the helper was lost, registration goes on: {}", error.what()));
    }
  }
}

}  // namespace permllm
