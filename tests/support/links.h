// Links that look at what passes them, or change it.
#pragma once

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "wire/link.h"

namespace permllm::test {

// Keeps a copy of every frame that its owner sends.
class Recording : public PassingLink {
 public:
  Recording(std::unique_ptr<Link> link, std::vector<Frame>& frames) : PassingLink(std::move(link)), frames_(frames) {}
  void send(Frame frame) override {
    frames_.push_back(frame);
    PassingLink::send(std::move(frame));
  }

 private:
  std::vector<Frame>& frames_;
};

// What may happen to a frame on its way.
enum class Fault {
  cut,           // the connection ends in its place
  delayed_long,  // it and all behind it come after the patience
  delayed,       // they come late, but within it
  duplicated,
  dropped,
  swapped,     // comes behind the next one; where there is none, never
  shortened,   // by its last byte
  lengthened,  // by one byte
  flipped_first,
  flipped_middle,
  flipped_last,  // a bit of its payload
  flipped_tag,
  flipped_session,
  flipped_step,  // a bit of its header
};
inline constexpr std::array k_faults{
    Fault::cut,          Fault::delayed_long, Fault::delayed,         Fault::duplicated,    Fault::dropped,
    Fault::swapped,      Fault::shortened,    Fault::lengthened,      Fault::flipped_first, Fault::flipped_middle,
    Fault::flipped_last, Fault::flipped_tag,  Fault::flipped_session, Fault::flipped_step};
inline const char* name_of(Fault fault) {
  constexpr const char* names[] = {"cut",          "delayed_long", "delayed",         "duplicated",    "dropped",
                                   "swapped",      "shortened",    "lengthened",      "flipped_first", "flipped_middle",
                                   "flipped_last", "flipped_tag",  "flipped_session", "flipped_step"};
  return names[static_cast<std::size_t>(fault)];
}

// One fault to the k-th frame that its owner sends, counted from 0.
class Faulty : public PassingLink {
 public:
  Faulty(std::unique_ptr<Link> link, std::size_t k, Fault fault, Clock::duration patience)
      : PassingLink(std::move(link)), left_(k), fault_(fault), patience_(patience) {}

  void send(Frame frame) override {
    if (left_-- != 0) {
      PassingLink::send(std::move(frame));
      if (held_) PassingLink::send(*std::exchange(held_, std::nullopt));
      return;
    }
    const std::size_t size = frame.payload.size();
    const auto flip = [&](std::size_t at) {
      if (size > 0) frame.payload[at] ^= 4;
    };
    switch (fault_) {
      case Fault::cut:
        close();
        break;
      case Fault::delayed_long:
        std::this_thread::sleep_for(patience_ * 3 / 2);
        break;
      case Fault::delayed:
        std::this_thread::sleep_for(patience_ / 4);
        break;
      case Fault::duplicated:
        PassingLink::send(frame);
        break;
      case Fault::dropped:
        return;
      case Fault::swapped:
        held_ = std::move(frame);
        return;
      case Fault::shortened:
        frame.payload.resize(size - std::min<std::size_t>(size, 1));
        break;
      case Fault::lengthened:
        frame.payload.push_back(0);
        break;
      case Fault::flipped_first:
        flip(0);
        break;
      case Fault::flipped_middle:
        flip(size / 2);
        break;
      case Fault::flipped_last:
        flip(size - 1);
        break;
      case Fault::flipped_tag:
        frame.tag ^= 4;
        break;
      case Fault::flipped_session:
        frame.session ^= std::uint64_t{1} << 40;
        break;
      case Fault::flipped_step:
        frame.step ^= 4;
        break;
    }
    PassingLink::send(std::move(frame));
  }

 private:
  std::size_t left_;
  Fault fault_;
  Clock::duration patience_;
  std::optional<Frame> held_;
};

// Whatever `change` makes of the frames that its owner sends: any number for each.
class Changing : public PassingLink {
 public:
  using Change = std::function<std::vector<Frame>(Frame)>;
  Changing(std::unique_ptr<Link> link, Change change) : PassingLink(std::move(link)), change_(std::move(change)) {}
  void send(Frame frame) override {
    for (Frame& changed : change_(std::move(frame))) PassingLink::send(std::move(changed));
  }

 private:
  Change change_;
};

}  // namespace permllm::test
