// Memory of a matrix: aligned for vectors, on large pages where it is large.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace permllm {

class LargeBytes {
 public:
  LargeBytes() = default;
  explicit LargeBytes(std::size_t size);  // not initialised
  std::uint8_t* data() { return memory_.get(); }
  const std::uint8_t* data() const { return memory_.get(); }
  std::size_t size() const { return size_; }
  operator std::span<std::uint8_t>() { return {data(), size_}; }              // NOLINT(google-explicit-constructor)
  operator std::span<const std::uint8_t>() const { return {data(), size_}; }  // NOLINT(google-explicit-constructor)

 private:
  struct Free {
    void operator()(std::uint8_t* memory) const;
  };
  std::size_t size_ = 0;
  std::unique_ptr<std::uint8_t[], Free> memory_;
};

}  // namespace permllm
