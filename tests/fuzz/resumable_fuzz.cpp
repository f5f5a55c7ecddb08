// A resumable link, on either side, with a peer that says and cuts what it likes, beside a model of what may come of it: every frame is delivered
// once and in order, the peer gets each frame as it was made and each connection's from the step that it asked for on, nobody resumes another's
// session, and what is kept has its bound.
//
// An input: a byte that tells the side, then a run of operations of two bytes, what and how much.
#include <algorithm>
#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <utility>

#include "fuzz/target.h"
#include "net/resumable.h"
#include "wire/message.h"

namespace permllm::test {
namespace {

constexpr std::uint64_t k_session = 7;
const ResumeLimits k_limits{
    .grace = std::chrono::milliseconds(20), .kept_bytes = k_ack_bytes, .patience = std::chrono::milliseconds(20)};
constexpr std::size_t k_most_frame = 100 << 10;
constexpr std::uint16_t k_tag = 40;

enum Operation : std::uint8_t {
  owner_sends,
  owner_flushes,
  owner_receives,
  peer_sends,
  peer_acknowledges,
  peer_cuts,
  peer_resumes,
  peer_leaves,
  peer_refuses,
  owner_settles,
  k_operations
};

// As bytes of their step: what is sent again can be told.
Bytes content(std::uint32_t step, std::uint8_t size) {
  Bytes bytes(size < 128 ? size : (size - 128u) * (k_most_frame / 128));
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(31 * step + 7 * i);
  return bytes;
}

// One connection, as its far end sees it.
struct Wire {
  std::deque<Frame> to_owner;
  std::vector<Frame> from_owner;
  std::size_t looked = 0;                 // at so many of those
  bool cut = false, fresh = false;        // fresh: the peer has not said anything anew since it resumed
  std::optional<std::uint32_t> expected;  // the next step of the owner's that it should bring
};

class Connection : public Link {
 public:
  explicit Connection(std::shared_ptr<Wire> wire) : wire_(std::move(wire)) {}
  ~Connection() override { wire_->cut = true; }
  void send(Frame frame) override {
    if (wire_->cut) throw Error(Code::closed, "link", "the peer closed the connection");
    wire_->from_owner.push_back(std::move(frame));
  }
  void flush() override {}
  // Nobody waits: what is not there comes too late.
  Frame receive(Clock::time_point, const char* awaited, std::size_t most) override {
    if (wire_->to_owner.empty()) throw Error(wire_->cut ? Code::closed : Code::timeout, awaited, "nothing came");
    check_length(wire_->to_owner.front().tag, wire_->to_owner.front().payload.size(), most, awaited);
    Frame frame = std::move(wire_->to_owner.front());
    wire_->to_owner.pop_front();
    return frame;
  }
  void close() override { wire_->cut = true; }

 private:
  std::shared_ptr<Wire> wire_;
};

class Model {
 public:
  Model(std::span<const std::uint8_t> input, bool dials)
      : input_(input), dials_(dials), wire_(std::make_shared<Wire>()) {
    wires_.push_back(wire_);
    link_ = std::make_shared<ResumableLink>(std::make_unique<Connection>(wire_), k_limits,
                                            dials ? [this] { return dial(); } : ResumableLink::Dial());
    // What begins the session.
    wire_->expected = 0;
    if (dials) send(0);
    give(peer_next_, 1);
    PERMLLM_ASSERT(receive());
    if (dials) {
      link_->begin(k_session);
    } else {
      kept_.reset(new ResumableSessions::Kept(sessions_.keep(link_, k_session, k_alice)));
      send(0);
    }
  }
  void run() {
    while (input_.size() >= 2 && !ended_) {
      const std::uint8_t what = input_[0], value = input_[1];
      input_ = input_.subspan(2);
      try {
        step(static_cast<Operation>(what % k_operations), what / k_operations, value);
      } catch (const Error& error) {
        ended_ = error.code() != Code::timeout || error.field() == "connection";
      }
      check();
    }
  }

 private:
  static const Peer k_alice, k_bob;

  void step(Operation operation, int variant, std::uint8_t value) {
    const auto off = [&] {
      return variant % 2 == 0 ? 0u : static_cast<std::uint32_t>(static_cast<std::int8_t>(value));
    };  // an honest peer, or not
    switch (operation) {
      case owner_sends:
        return send(value);
      case owner_flushes:
        return link_->flush();
      case owner_receives:
        receive();
        return;
      case peer_sends:
        return give(variant % 2 == 0 ? peer_next_ : peer_next_ + off(), value);
      case peer_acknowledges:
        return say({static_cast<std::uint16_t>(Tag::ack), k_session + (variant == 3), next_of_owner() + off(),
                    variant == 5 ? Bytes(1) : Bytes()});
      case peer_cuts:
        wire_->cut = true;
        return;
      case peer_resumes:
        if (!dials_) resume(next_of_owner() + off(), variant % 8 == 7 ? k_bob : k_alice);
        return;
      case peer_leaves:
        return say({static_cast<std::uint16_t>(variant % 2 == 0 ? Tag::leave : Tag::resume),
                    k_session,
                    next_of_owner() + off(),
                    {}});
      case peer_refuses: {
        Writer writer;
        Refusal{value, value, "", "no"}.visit(writer);
        Bytes payload = writer.take();
        if (variant % 2 == 1) payload.resize(value % payload.size());
        return say({static_cast<std::uint16_t>(Tag::refusal), k_session, peer_next_, std::move(payload)});
      }
      default:
        link_->settle();
        return;
    }
  }
  void say(Frame frame) {
    if (!wire_->cut) wire_->to_owner.push_back(std::move(frame));
  }
  void give(std::uint32_t number, std::uint8_t size) {
    if (wire_->cut) return;
    if (std::exchange(wire_->fresh, false)) number += heard_by_owner() - std::exchange(peer_next_, heard_by_owner());
    say({k_tag, k_session, number, content(number, size)});
    if (number == peer_next_) ++peer_next_;
  }
  void send(std::uint8_t size) {
    const auto number = static_cast<std::uint32_t>(sent_.size());
    sent_.push_back(content(number, size));
    try {
      link_->send({k_tag, k_session, number, sent_.back()});
    } catch (const Error&) {
      ended_ = true;  // there would be a gap
      throw;
    }
  }
  bool receive() {
    const Frame frame =
        link_->receive(Clock::now() + (dials_ ? std::chrono::milliseconds(20) : std::chrono::milliseconds(0)),
                       "a frame", k_max_payload);
    PERMLLM_ASSERT(frame.step == received_ && frame.session == k_session);
    ++received_;
    if (frame.tag != k_tag) return true;  // a refusal is a frame like others to the link
    for (std::size_t i = 0; i < frame.payload.size(); ++i)
      PERMLLM_ASSERT(frame.payload[i] == static_cast<std::uint8_t>(31 * frame.step + 7 * i));
    return true;
  }
  // What the peer has of the owner, over all connections.
  std::uint32_t next_of_owner() {
    check();
    return has_;
  }
  // Of an accepting side.
  void resume(std::uint32_t from, const Peer& peer) {
    const auto wire = std::make_shared<Wire>();
    wires_.push_back(wire);
    wire->to_owner.push_back({static_cast<std::uint16_t>(Tag::resume), k_session, from, {}});
    ResumableLink first(std::make_unique<Connection>(wire), k_limits);
    try {
      PERMLLM_ASSERT(sessions_.resumed(first, peer, Clock::now()) && peer.key == k_alice.key);
    } catch (const Error&) {
      PERMLLM_ASSERT(wire->from_owner.empty());
      return;
    }
    wire->expected = from;
    wire->fresh = true;
    wire_ = wire;
    has_ = from;
  }
  // Of a dialling side: what the next operations say is how it is answered.
  std::unique_ptr<Link> dial() {
    const auto next = [&] {
      const std::uint8_t byte = input_.empty() ? 0 : input_[0];
      input_ = input_.subspan(input_.empty() ? 0 : 1);
      return byte;
    };
    const std::uint8_t how = next(), value = next();
    if (how % 8 == 1) throw Error(Code::closed, "link", "nobody listens there");
    wire_ = std::make_shared<Wire>();
    wires_.push_back(wire_);
    const std::uint32_t from =
        next_of_owner() + (how % 4 == 3 ? static_cast<std::uint32_t>(static_cast<std::int8_t>(value)) : 0);
    if (how % 8 != 5) {
      say({static_cast<std::uint16_t>(how % 8 == 6 ? value : static_cast<std::uint16_t>(Tag::ack)),
           k_session + (how % 16 == 15),
           from,
           {}});
      wire_->expected = has_ = from;
      wire_->fresh = true;
    }
    return std::make_unique<Connection>(wire_);
  }
  // The next step that the owner expects, as it said last.
  std::uint32_t heard_by_owner() const {
    for (auto wire = wires_.rbegin(); wire != wires_.rend(); ++wire) {
      for (auto frame = (*wire)->from_owner.rbegin(); frame != (*wire)->from_owner.rend(); ++frame) {
        if (is_of_link(frame->tag)) return frame->step;
      }
    }
    return 1;
  }
  void check() {
    PERMLLM_ASSERT(link_->kept_bytes() <= k_limits.kept_bytes + k_most_frame + 24);
    for (const auto& wire : wires_) {
      for (; wire->looked < wire->from_owner.size(); ++wire->looked) look_at(*wire, wire->from_owner[wire->looked]);
    }
  }
  void look_at(Wire& wire, const Frame& frame) {
    PERMLLM_ASSERT(frame.session == k_session);
    if (is_of_link(frame.tag)) {
      PERMLLM_ASSERT(frame.payload.empty() && frame.step >= acknowledged_);
      acknowledged_ = frame.step;
      return;
    }
    PERMLLM_ASSERT(wire.expected && frame.step == *wire.expected && frame.step < sent_.size() &&
                   frame.payload == sent_[frame.step]);
    has_ = std::max(has_, ++*wire.expected);
  }

  std::span<const std::uint8_t> input_;
  const bool dials_;
  std::shared_ptr<Wire> wire_;  // the last one
  std::list<std::shared_ptr<Wire>> wires_;
  ResumableSessions sessions_;
  std::shared_ptr<ResumableLink> link_;
  std::unique_ptr<ResumableSessions::Kept> kept_;
  std::vector<Bytes> sent_;  // by step
  std::uint32_t received_ = 0, peer_next_ = 0, has_ = 0, acknowledged_ = 0;
  bool ended_ = false;
};
const Peer Model::k_alice{Role::user, "alice", "a1", "p"}, Model::k_bob{Role::user, "bob", "b2", "p"};

}  // namespace

std::vector<std::vector<std::uint8_t>> seeds() {
  const auto of = [](std::uint8_t side, std::initializer_list<std::uint8_t> bytes) {
    Bytes seed{side};
    seed.insert(seed.end(), bytes);
    return seed;
  };
  return {of(0, {owner_sends,       10,  owner_flushes, 0,   peer_sends,    5,   owner_receives, 0,   peer_cuts,      0,
                 owner_sends,       200, peer_resumes,  0,   owner_flushes, 0,   peer_sends,     9,   owner_receives, 0,
                 peer_acknowledges, 0,   owner_sends,   255, owner_sends,   255, owner_sends,    255, peer_resumes,   0,
                 owner_sends,       255, owner_settles, 0}),
          of(1, {owner_sends,    10, peer_sends,     3, peer_sends, 4, owner_receives, 0, peer_cuts,         0,
                 owner_receives, 0,  owner_receives, 0, 2,          0, owner_sends,    7, peer_acknowledges, 0,
                 owner_settles,  0}),
          of(0, {peer_sends + k_operations, 1, owner_receives, 0}),
          of(0, {peer_refuses, 5, peer_cuts, 0, owner_receives, 0}),
          of(1, {peer_leaves, 0, owner_receives, 0}),
          of(0, {peer_resumes + 7 * k_operations, 0, owner_sends, 1, owner_flushes, 0})};
}

}  // namespace permllm::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  permllm::test::Model({data + 1, size - 1}, data[0] % 2 == 1).run();
  return 0;
}
