#include "offline/stock.h"

#include <fmt/format.h>

#include <numeric>

#include "permllm/error.h"

namespace permllm {

void Stock::put(Source source, std::uint8_t kind, std::uint32_t layer, Batch batch,
                const std::vector<std::size_t>& sizes, Bytes material) {
  PERMLLM_ASSERT(sizes.size() == batch.count);
  if (!deals(source, kind)) {
    throw Error(Code::malformed, "PackMaterial", source == Source::user ? "a user deals nothing where the weights are public" : "the helper deals no queries");
  }
  const std::size_t expected = std::accumulate(sizes.begin(), sizes.end(), std::size_t{0});
  if (material.size() != expected) {
    throw Error(Code::malformed, "PackMaterial.material",
                fmt::format("{} bytes, the plan says {}", material.size(), expected));
  }
  const auto shared = std::make_shared<const Bytes>(std::move(material));
  {
    const std::lock_guard lock(mutex_);
    Half& half = halves_[source == Source::helper ? 0 : 1];
    std::uint32_t& next = half.next[{kind, layer}];
    if (batch.first != next) {
      throw Error(Code::malformed, "PackMaterial.first", fmt::format("{}, expected {}", batch.first, next));
    }
    std::size_t offset = 0;
    for (std::size_t i = 0; i < batch.count; ++i) {
      half.pieces[{kind, layer, batch.index(i)}] = {shared, offset, sizes[i]};
      offset += sizes[i];
    }
    next += static_cast<std::uint32_t>(batch.count);
    bytes_ += expected;
  }
  arrived_.notify_all();
}

Pack Stock::take(std::uint8_t kind, std::uint32_t layer, std::uint32_t index, Clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  const Place place{kind, layer, index};
  const auto ready = [&] {
    return (!deals(Source::helper, kind) || halves_[0].pieces.contains(place)) && (!deals(Source::user, kind) || halves_[1].pieces.contains(place));
  };
  if (!arrived_.wait_until(lock, deadline, [&] { return ready() || failure_; })) {
    throw Error(Code::timeout, "stock", "no offline material arrived from helper and user before the deadline");
  }
  if (!ready()) std::rethrow_exception(failure_);
  Piece pieces[2];
  for (const Source source : {Source::helper, Source::user}) {
    if (!deals(source, kind)) continue;
    const std::size_t h = source == Source::helper ? 0 : 1;
    pieces[h] = halves_[h].pieces.extract(place).mapped();
    bytes_ -= pieces[h].size;
  }
  const auto reader = [](const char* name, const Piece& piece) {
    return piece.material ? Reader(name, std::span(*piece.material).subspan(piece.offset, piece.size)) : Reader(name, {});
  };
  return {reader("helper's pack", pieces[0]), reader("user's pack", pieces[1]), pieces[0].material, pieces[1].material};
}

void Stock::fail(std::exception_ptr error) {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::move(error);
  }
  arrived_.notify_all();
}

std::size_t Stock::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

}  // namespace permllm
