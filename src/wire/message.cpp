#include "wire/message.h"

#include <fmt/format.h>

#include "base/text.h"

namespace permllm {

void check_tag(const Frame& frame, Tag expected) {
  if (frame.tag == static_cast<std::uint16_t>(expected)) return;
  throw Error(Code::malformed, "frame.tag",
              fmt::format("{} ({}), expected {}", frame.tag, name_of(static_cast<Tag>(frame.tag)), name_of(expected)));
}

Error refusal_of(const Frame& frame) {
  Refusal refusal;
  Reader reader(name_of(Tag::refusal), frame.payload);
  refusal.visit(reader);
  const bool code = refusal.code <= static_cast<std::uint16_t>(Code::resource),
             reason = refusal.reason <= static_cast<std::uint16_t>(k_last_reason);
  // An error's words are shown in many places, by programs that use the library too.
  return Error::of_a_peer(code ? static_cast<Code>(refusal.code) : Code::closed,
                          reason ? static_cast<Reason>(refusal.reason) : Reason::none, for_terminal(refusal.field),
                          for_terminal(refusal.text));
}

void Channel::send_payload(Tag tag, Bytes payload) {
  link_->send({static_cast<std::uint16_t>(tag), session_, next_step_++, std::move(payload)});
}

void Channel::send_whole(Tag tag, Bytes payload, const Bound& bound) {
  if (payload.size() > bound.bytes()) {
    throw Error(Code::resource, name_of(tag),
                fmt::format("it would have {} bytes, the limit is {}", payload.size(), bound.bytes()));
  }
  if (!bound.is_cut()) return send_payload(tag, std::move(payload));
  for (std::size_t begin = 0; begin < payload.size(); begin += k_cut_bytes) {
    const auto from = payload.begin() + static_cast<std::ptrdiff_t>(begin);
    send_payload(tag, Bytes(from, from + static_cast<std::ptrdiff_t>(std::min(k_cut_bytes, payload.size() - begin))));
  }
}

Frame Channel::receive_any(const char* awaited, std::size_t most, std::optional<Clock::duration> patience) {
  room_ = nullptr;
  const Clock::time_point begin = Clock::now();
  Frame frame = link_->receive(begin + patience.value_or(patience_), awaited, most);
  room_ = std::move(frame.room);
  waited_seconds_ += seconds_since(begin);
  if (frame.step != next_arrival_)
    throw Error(Code::malformed, "frame.step", fmt::format("{}, expected {}", frame.step, next_arrival_));
  ++next_arrival_;
  if (frame.session != session_) {
    throw Error(Code::malformed, "frame.session", "the frame belongs to another session");
  }
  if (frame.tag == static_cast<std::uint16_t>(Tag::refusal)) throw refusal_of(frame);
  if (may_be_cancelled_ && frame.tag == static_cast<std::uint16_t>(Tag::pass_cancel)) throw Cancelled{};
  return frame;
}

Frame Channel::receive_whole(Tag tag, const Bound& bound) {
  Frame whole = receive_any(name_of(tag), bound.is_cut() ? k_cut_bytes : bound.bytes());
  check_tag(whole, tag);
  for (std::size_t last = whole.payload.size();
       bound.is_cut() && last == k_cut_bytes && whole.payload.size() < bound.bytes();) {
    const Frame next = receive_any(name_of(tag), std::min(k_cut_bytes, bound.bytes() - whole.payload.size()));
    check_tag(next, tag);
    last = next.payload.size();
    whole.payload.insert(whole.payload.end(), next.payload.begin(), next.payload.end());
  }
  return whole;
}

void Channel::refuse(const Error& error) noexcept {
  try {
    // What another party said here is told as such.
    const std::string field = !error.by_peer()        ? error.field()
                              : error.field().empty() ? "peer"
                                                      : "peer: " + error.field();
    send(Refusal{static_cast<std::uint16_t>(error.code()), static_cast<std::uint16_t>(error.reason()),
                 field.substr(0, Refusal::k_field), error.message().substr(0, Refusal::k_text)});
    flush();
  } catch (const std::exception&) {
    // The link is gone already; the peer will see that.
  }
}

}  // namespace permllm
