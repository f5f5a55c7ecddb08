#include "structured/thoughts.h"

#include <algorithm>
#include <utility>

namespace permllm {
namespace {

constexpr std::string_view k_open = "<think>", k_close = "</think>", k_blanks = " \t\r\n";

std::size_t first_word(std::string_view text) { return std::min(text.find_first_not_of(k_blanks), text.size()); }

}  // namespace

bool has_thoughts(std::string_view chat_template) { return chat_template.find(k_close) != std::string_view::npos; }

bool begins_thought(std::string_view end_of_prompt) {
  return end_of_prompt.substr(0, end_of_prompt.find_last_not_of(k_blanks) + 1).ends_with(k_open);
}

ThoughtReader::Parts ThoughtReader::push(std::string_view piece) {
  held_ += piece;
  return take(false);
}
ThoughtReader::Parts ThoughtReader::finish() { return take(true); }

ThoughtReader::Parts ThoughtReader::take(bool ended) {
  Parts out;
  if (where_ == Where::before) {
    const std::string_view text = std::string_view(held_).substr(first_word(held_));
    if (text.starts_with(k_open)) {
      held_.erase(0, held_.size() - text.size() + k_open.size());
      where_ = Where::within;
    } else if (ended || !k_open.starts_with(text)) {
      where_ = Where::behind;
    }
  }
  if (where_ == Where::within) {
    const std::size_t end = held_.find(k_close);
    std::size_t sure = end;
    if (end == std::string::npos) {
      sure = held_.size();
      for (std::size_t size = ended ? 0 : std::min(k_close.size() - 1, held_.size()); size > 0; --size) {
        if (!held_.ends_with(k_close.substr(0, size))) continue;
        sure -= size;
        break;
      }
    }
    while (sure > 0 && k_blanks.find(held_[sure - 1]) != std::string_view::npos) --sure;  // perhaps before the mark
    const std::size_t from = begun_ ? 0 : std::min(sure, first_word(held_));
    out.thought = held_.substr(from, sure - from);
    begun_ = begun_ || !out.thought.empty();
    if (end != std::string::npos) {
      held_.erase(0, end + k_close.size());
      where_ = Where::behind_mark;
    } else if (begun_) {
      held_.erase(0, sure);
    }
    if (ended && end == std::string::npos) held_.clear();
  }
  if (where_ == Where::behind_mark) {
    held_.erase(0, first_word(held_));
    if (!held_.empty()) where_ = Where::behind;
  }
  if (where_ == Where::behind) out.text = std::exchange(held_, {});
  return out;
}

}  // namespace permllm
