#include "net/resumable.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "wire/frame.h"
#include "wire/message.h"

namespace permllm {
namespace {

constexpr auto k_first_pause = std::chrono::milliseconds(100);
constexpr auto k_longest_pause = std::chrono::seconds(2);
constexpr auto k_last_words = std::chrono::milliseconds(200);
constexpr auto k_answer_patience = std::chrono::seconds(10);
constexpr std::size_t k_flush_bytes = std::size_t{1} << 20;  // re-sent together
constexpr std::size_t k_goodbye_bytes = std::size_t{64} << 10;

std::size_t size_of(const Frame& frame) { return k_frame_header_bytes + frame.payload.size(); }
bool has_tag(const Frame& frame, Tag tag) { return frame.tag == static_cast<std::uint16_t>(tag); }

}  // namespace

ResumableLink::ResumableLink(std::unique_ptr<Link> connection, ResumeLimits limits, Dial dial)
    : limits_(std::move(limits)), dial_(std::move(dial)), connection_(std::move(connection)) {
  PERMLLM_ASSERT(limits_.kept_bytes >= k_ack_bytes);
}

ResumableLink::~ResumableLink() { leave(); }

void ResumableLink::begin(std::uint64_t session, bool outlasts) {
  begun_ = true;
  session_ = session;
  unacknowledged_frames_ = unacknowledged_bytes_ = 0;
  outlasts_ = outlasts;
}

void ResumableLink::outlast() {
  {
    const Lock lock(mutex_);
    outlasts_ = true;
  }
  changed_.notify_all();
}

void ResumableLink::end(const Error& why) {
  {
    const Lock lock(mutex_);
    if (!failure_) failure_ = std::make_exception_ptr(why);
    for (Link* link : {connection_.get(), pending_.get()}) {
      if (link != nullptr) link->close();
    }
  }
  changed_.notify_all();
}

std::optional<Clock::time_point> ResumableLink::waits_since() const {
  const Lock lock(mutex_);
  return waits_since_;
}

std::size_t ResumableLink::kept_bytes() const {
  const Lock lock(mutex_);
  return kept_bytes_;
}

// False: the connection is lost, and the session waits for another.
template <class Operation>
bool ResumableLink::attempt(Operation operation) {
  if (connection_ == nullptr || hears_out_) return false;
  try {
    operation(*connection_);
    return true;
  } catch (const Error& error) {
    if (error.code() != Code::closed) throw;
    hear_out();
    check_refusal();
    const Lock lock(mutex_);
    if (!keeps()) fail(error);
  }
  const Lock lock(mutex_);
  connection_.reset();
  lost_since_ = Clock::now();
  return false;
}

void ResumableLink::check_refusal() {
  const auto refusal =
      std::find_if(arrived_.begin(), arrived_.end(), [](const Frame& frame) { return has_tag(frame, Tag::refusal); });
  if (refusal == arrived_.end()) return;
  const Lock lock(mutex_);
  failure_ = std::make_exception_ptr(refusal_of(*refusal));
  std::rethrow_exception(failure_);
}

// What the peer said on the lost connection, its refusal above all, has come before its end.
void ResumableLink::hear_out() {
  hears_out_ = true;
  try {
    const Clock::time_point deadline = Clock::now() + k_last_words;
    while (arrived_bytes_ <= limits_.kept_bytes) absorb(connection_->receive(deadline, "the last frames", k_cut_bytes));
  } catch (const Error&) {
    // No more.
  }
  hears_out_ = false;
}

void ResumableLink::check() const {
  if (failure_) std::rethrow_exception(failure_);
  if (closed_) throw Error(Code::closed, "link", "this side closed it");
}

void ResumableLink::fail(const Error& error) {
  if (!failure_) failure_ = std::make_exception_ptr(error);
  changed_.notify_all();
  std::rethrow_exception(failure_);
}

void ResumableLink::give_up() {
  const Clock::duration lost = Clock::now() - lost_since_;
  const std::string why = fmt::format("was lost and did not come back for {:.1f} s", seconds_of(lost));
  fail(Error(lost < limits_.grace ? Code::timeout : Code::closed, "connection", why));
}

// The peer has all steps before the frame's.
void ResumableLink::confirm(const Frame& frame) {
  if (!frame.payload.empty() || frame.session != session_) {
    fail(Error(Code::malformed, name_of(static_cast<Tag>(frame.tag)), "expected a header alone, of this session"));
  }
  if (!keeps()) return;
  const auto least = next_send_ - static_cast<std::uint32_t>(kept_.size());
  if (frame.step < least || frame.step > next_send_) {
    fail(Error(Code::malformed, std::string(name_of(static_cast<Tag>(frame.tag))) + ".step",
               fmt::format("{}, expected {} to {}", frame.step, least, next_send_)));
  }
  for (; !kept_.empty() && kept_.front().step != frame.step; kept_.pop_front())
    kept_bytes_ -= kept_.front().room ? 0 : size_of(kept_.front());
}

void ResumableLink::send(Frame frame) {
  std::shared_ptr<void> room = keeps() ? await_room(size_of(frame)) : nullptr;
  {
    const Lock lock(mutex_);
    check();
    PERMLLM_ASSERT(frame.step == next_send_);
    ++next_send_;
    if (keeps()) {
      if (!room) kept_bytes_ += size_of(frame);
      kept_.push_back(frame);
      kept_.back().room = std::move(room);
    }
  }
  if (adopt()) return;  // which sent this frame, too
  attempt([&](Link& link) {
    unflushed_bytes_ += size_of(frame);
    link.send(std::move(frame));
  });
}

void ResumableLink::flush() {
  adopt();
  attempt([&](Link& link) {
    link.flush();
    unflushed_bytes_ = 0;
  });
}

Frame ResumableLink::receive(Clock::time_point deadline, const char* awaited, std::size_t most) {
  await_frame(deadline, awaited, most);
  check_length(arrived_.front().tag, arrived_.front().payload.size(), most,
               awaited);  // it may have come when another was awaited
  Frame frame = std::move(arrived_.front());
  arrived_.pop_front();
  arrived_bytes_ -= size_of(frame);
  return frame;
}

void ResumableLink::await_frame(Clock::time_point deadline, const char* awaited, std::size_t most) {
  if (!arrived_.empty()) return;
  struct Waiting {
    ResumableLink& link;
    void set(std::optional<Clock::time_point> since) {
      const Lock lock(link.mutex_);
      link.waits_since_ = since;
    }
    ~Waiting() { set({}); }
  } waiting{*this};
  waiting.set(Clock::now());
  while (arrived_.empty()) step_on(deadline, awaited, most);
}

void ResumableLink::look() {
  adopt();
  while (connection_ != nullptr && arrived_bytes_ <= limits_.kept_bytes && connection_->has_come())
    step_on(Clock::now() + limits_.patience, "what the peer says unasked", k_cut_bytes);
  check_refusal();
  if (connection_ == nullptr && dial_ && Clock::now() >= next_dial_) dial_once(lost_since_ + limits_.grace);
}

void ResumableLink::close() {
  {
    const Lock lock(mutex_);
    closed_ = true;
    for (Link* link : {connection_.get(), pending_.get()}) {
      if (link != nullptr) link->close();
    }
  }
  changed_.notify_all();
}

std::shared_ptr<void> ResumableLink::await_room(std::size_t size) {
  const Clock::time_point deadline = Clock::now() + limits_.patience;
  try {
    while (kept_bytes() > limits_.kept_bytes) {
      if (std::shared_ptr<void> room = limits_.room ? limits_.room->try_take(size) : nullptr) return room;
      if (arrived_bytes_ > limits_.kept_bytes)
        throw Error(Code::resource, "link", "both sides send and neither receives");
      step_on(deadline, "an acknowledgement", k_cut_bytes);
    }
  } catch (const Error& error) {  // a frame that was not sent would leave a gap
    const Lock lock(mutex_);
    fail(error);
  }
  return nullptr;
}

// One frame further, or one connection.
void ResumableLink::step_on(Clock::time_point deadline, const char* awaited, std::size_t most) {
  adopt();
  if (connection_ == nullptr) return dial_ ? redial(deadline) : await_connection(deadline);
  std::optional<Frame> frame;
  attempt([&](Link& link) { frame = link.receive(deadline, awaited, most); });
  unflushed_bytes_ = 0;
  if (frame) absorb(std::move(*frame));
}

void ResumableLink::absorb(Frame frame) {
  {
    const Lock lock(mutex_);
    if (pending_ != nullptr) return;  // the peer sends it again over that
    if (begun_ && is_of_link(frame.tag)) {
      confirm(frame);
      if (has_tag(frame, Tag::resume)) fail(Error(Code::malformed, "frame.tag", "Resume begins a connection"));
      if (has_tag(frame, Tag::leave)) fail(Error(Code::closed, "session", "the peer has left"));
      return;
    }
    if (frame.step != next_expected_) {
      throw Error(Code::malformed, "frame.step", fmt::format("{}, expected {}", frame.step, next_expected_));
    }
    ++next_expected_;
    ++unacknowledged_frames_;
    unacknowledged_bytes_ += size_of(frame);
  }
  pause_ = {};
  arrived_bytes_ += size_of(frame);
  arrived_.push_back(std::move(frame));
  if (!begun_ || (unacknowledged_frames_ < k_ack_frames && unacknowledged_bytes_ < k_ack_bytes)) return;
  unacknowledged_frames_ = unacknowledged_bytes_ = 0;
  attempt([&](Link& link) { link.send(own(Tag::ack)); });  // goes out with the answer, or when the owner waits again
}

// Changes to a connection that was handed over, if there is one.
bool ResumableLink::adopt() {
  {
    const Lock lock(mutex_);
    check();
    if (pending_ == nullptr) return false;
    connection_ = std::move(pending_);
    unacknowledged_frames_ = unacknowledged_bytes_ = 0;
  }
  resend();
  return true;
}

void ResumableLink::resend() {
  unflushed_bytes_ = 0;
  for (std::size_t i = 0;; ++i) {
    std::optional<Frame> frame;
    {
      const Lock lock(mutex_);
      // Fewer than before where a connection that was lost at once has brought what the peer has.
      if (pending_ != nullptr || i >= kept_.size()) return;
      frame = kept_[i];
      frame->room = nullptr;
    }
    const bool sent = attempt([&](Link& link) {
      unflushed_bytes_ += size_of(*frame);
      link.send(std::move(*frame));
      if (unflushed_bytes_ < k_flush_bytes) return;
      link.flush();
      unflushed_bytes_ = 0;
    });
    if (!sent) return;
  }
}

void ResumableLink::await_connection(Clock::time_point deadline) {
  Lock lock(mutex_);
  changed_.wait_until(lock, std::min(deadline, lost_since_ + limits_.grace),
                      [&]() REQUIRES(mutex_) { return pending_ != nullptr || closed_ || failure_; });
  check();
  if (pending_ == nullptr) give_up();
}

void ResumableLink::redial(Clock::time_point deadline) {
  const Clock::time_point end = std::min(deadline, lost_since_ + limits_.grace);
  do {
    Lock lock(mutex_);
    changed_.wait_until(lock, std::min(end, next_dial_), [&]() REQUIRES(mutex_) { return closed_; });
    check();
    if (Clock::now() >= end) give_up();
  } while (!dial_once(end));
}

// False: nobody was there.
bool ResumableLink::dial_once(Clock::time_point end) {
  pause_ = std::clamp<Clock::duration>(2 * pause_, k_first_pause, k_longest_pause);
  std::unique_ptr<Link> connection;
  Frame answer;
  try {
    connection = dial_();
    connection->send(own(Tag::resume));
    answer =
        connection->receive(std::min(end, Clock::now() + k_answer_patience), "the answer to Resume", k_least_payload);
    if (has_tag(answer, Tag::refusal)) throw refusal_of(answer);
    if (!has_tag(answer, Tag::ack)) throw Error(Code::malformed, "frame.tag", "expected the answer to Resume");
  } catch (const Error& error) {
    next_dial_ = Clock::now() + pause_;
    const bool refused = has_tag(answer, Tag::refusal);
    if (!refused && (error.code() == Code::closed || error.code() == Code::timeout)) return false;
    const Lock lock(mutex_);
    fail(error);
  }
  next_dial_ = Clock::now() + pause_;
  {
    const Lock lock(mutex_);
    check();
    confirm(answer);
    connection_ = std::move(connection);
    unacknowledged_frames_ = unacknowledged_bytes_ = 0;
  }
  resend();
  return true;
}

void ResumableLink::take_over(std::unique_ptr<Link>& connection, const Frame& resume) {
  {
    Lock lock(mutex_);
    // Its first pass may be in what came before the cut, and not yet looked at.
    changed_.wait_for(lock, k_last_words, [&]() REQUIRES(mutex_) { return closed_ || failure_ || outlasts_; });
    if (closed_ || failure_ || !keeps())
      throw Error(Code::closed, Reason::session_ended, "Resume.session", "no such session");
    // The one before may seem alive: its peer does not use it any more.
    if (connection_ != nullptr) connection_->close();
    pending_.reset();
    try {
      confirm(resume);
    } catch (const Error&) {
      changed_.notify_all();
      throw;
    }
    // By this thread, because the owner may be at work and not at the link. A header fits into any new connection's buffer.
    connection->send(own(Tag::ack));
    connection->flush();
    pending_ = std::move(connection);
  }
  changed_.notify_all();
}

void ResumableLink::settle() noexcept {
  try {
    const Clock::time_point deadline = Clock::now() + limits_.grace;
    while (kept_bytes() > 0 && arrived_.empty()) step_on(deadline, "the end", k_least_payload);
  } catch (const std::exception&) {
    // It has left, or is gone.
  }
}

void ResumableLink::leave() noexcept {
  try {
    bool over = false;
    {
      const Lock lock(mutex_);
      over = closed_ || failure_ || !begun_;
      if (pending_ != nullptr) connection_ = std::move(pending_);
    }
    // Where much lies unsent the end would take as long as that: the peer waits for its time of grace instead.
    if (!over && unflushed_bytes_ <= k_goodbye_bytes) {
      attempt([&](Link& link) {
        link.send(own(Tag::leave));
        link.flush();
      });
    }
  } catch (const std::exception&) {
    // The peer finds out by itself.
  }
  close();
}

ResumableSessions::Kept ResumableSessions::keep(std::shared_ptr<ResumableLink> link, std::uint64_t session,
                                                const Peer& peer, bool outlasts) {
  link->begin(session, outlasts);
  {
    const Lock lock(mutex_);
    const bool fresh = sessions_.emplace(session, Entry{std::move(link), peer.key}).second;
    PERMLLM_ASSERT(fresh);
  }
  return Kept(*this, session);
}

void ResumableSessions::remember_end(std::uint64_t session, const std::string& key, const Error& why) {
  const Lock lock(mutex_);
  ended_.push_back({session, key, why});
  if (ended_.size() > k_ends_remembered) ended_.pop_front();
}

ResumableSessions::Kept::~Kept() {
  const Lock lock(sessions_.mutex_);
  sessions_.sessions_.erase(session_);
}

bool ResumableSessions::resumed(ResumableLink& link, const Peer& peer, Clock::time_point deadline) {
  Frame first;
  try {
    first = link.connection_->receive(deadline, "Hello", k_first_payload);
  } catch (const Error& error) {
    if (error.code() == Code::closed) link.close();  // a refusal would be the last word of a session that may live on
    throw;
  }
  if (!has_tag(first, Tag::resume)) {
    link.absorb(std::move(first));
    return false;
  }
  std::shared_ptr<ResumableLink> session;
  {
    const Lock lock(mutex_);
    for (const Ended& ended : ended_) {
      if (ended.session == first.session && ended.key == peer.key) throw ended.why;
    }
    const auto found = sessions_.find(first.session);
    if (found != sessions_.end() && found->second.key == peer.key) session = found->second.link;
  }
  if (session == nullptr) throw Error(Code::closed, Reason::session_ended, "Resume.session", "no such session");
  session->take_over(link.connection_, first);
  return true;
}

}  // namespace permllm
