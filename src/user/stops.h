// The texts at which an answer ends.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace permllm {

// Lets text through up to the first stop text; holds back what may become one.
class Stops {
 public:
  explicit Stops(const std::vector<std::string>& texts) : texts_(texts) {}

  std::string push(std::string_view piece) {
    if (stopped_) return {};
    held_ += piece;
    std::size_t end = std::string::npos;
    for (const std::string& text : texts_) {
      const std::size_t at = held_.find(text);
      if (at < end) by_ = &text;
      end = std::min(end, at);
    }
    stopped_ = end != std::string::npos;
    if (!stopped_) {
      end = held_.size();
      for (const std::string& text : texts_) {
        for (std::size_t size = std::min(text.size() - 1, held_.size()); size > 0; --size) {
          if (!held_.ends_with(std::string_view(text).substr(0, size))) continue;
          end = std::min(end, held_.size() - size);
          break;
        }
      }
    }
    std::string out = held_.substr(0, end);
    held_.erase(0, end);
    return out;
  }
  std::string finish() { return stopped_ ? std::string() : std::exchange(held_, {}); }
  bool stopped() const { return stopped_; }
  const std::string& by() const { return *by_; }  // which of them, once it has stopped

 private:
  const std::vector<std::string>& texts_;
  std::string held_;
  bool stopped_ = false;
  const std::string* by_ = nullptr;
};

}  // namespace permllm
