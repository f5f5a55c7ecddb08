// Sessions that outlive their connections: cuts at every frame, and peers that claim what is not so.
#include "net/resumable.h"

#include <gtest/gtest.h>

#include <atomic>
#include <list>
#include <semaphore>
#include <thread>

#include "net/meter.h"
#include "support/cuts.h"
#include "wire/message.h"

namespace permllm::test {
namespace {

using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;
constexpr std::uint64_t k_session = 7;
const Peer k_alice{Role::user, "alice", "a1", "p"}, k_bob{Role::user, "bob", "b2", "p"};

Clock::time_point in(Clock::duration time) { return Clock::now() + time; }

Frame frame(Tag tag, std::uint32_t step, std::size_t size, std::uint8_t fill = 0) {
  return {static_cast<std::uint16_t>(tag), k_session, step, Bytes(size, fill)};
}

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return std::string(name_of(error.code())) + ": " + error.what();
  }
  return "no error";
}

// Each side's frames of a turn, the user's first: single ones, runs of one side that take acknowledgements, and large ones.
struct Turn {
  std::size_t up, down, bytes;
};
const std::vector<Turn> k_short{{1, 1, 10}, {2, 1, 100}, {1, 3, 1000}, {1, 1, 300'000}, {3, 2, 50}};
const std::vector<Turn> k_long{{1, 1, 10}, {150, 1, 100}, {1, 150, 1000}, {2, 2, 300'000}, {40, 40, 10}};

Bytes content(Cuts::Direction direction, std::uint32_t step, std::size_t size) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::uint8_t>(7 * i + step + 100 * direction);
  return bytes;
}

// A provider that serves connections in threads, as ProviderService does, and says its lines.
class Provider {
 public:
  Provider(std::vector<Turn> turns, ResumeLimits limits) : turns_(std::move(turns)), limits_(limits) {}
  void serve(std::unique_ptr<Link> connection, const Peer& peer = k_alice) {
    threads_.emplace_back([this, peer, connection = std::move(connection)]() mutable {
      const auto link = std::make_shared<ResumableLink>(std::move(connection), limits_);
      Channel channel(*link, k_session, 5s);
      try {
        if (sessions.resumed(*link, peer, in(5s))) return;
      } catch (const Error& error) {
        return channel.refuse(error);
      }
      try {
        std::uint32_t up = 0, down = 0;
        const auto expect = [&](std::size_t size) {
          const Frame got = link->receive(in(5s), "a line", k_max_payload);
          EXPECT_EQ(got.step, up);
          EXPECT_EQ(got.payload, content(Cuts::up, up, size));
          ++up;
        };
        expect(1);
        const auto kept = sessions.keep(link, k_session, peer);
        link->send({40, k_session, down, content(Cuts::down, down, 1)});
        ++down;
        for (const Turn& turn : turns_) {
          for (std::size_t i = 0; i < turn.up; ++i) expect(turn.bytes);
          for (std::size_t i = 0; i < turn.down; ++i, ++down) {
            link->send({40, k_session, down, content(Cuts::down, down, turn.bytes)});
            most_kept = std::max(most_kept.load(), link->kept_bytes());
          }
          link->flush();
        }
        link->settle();
        ++finished;
      } catch (const Error& error) {
        {
          const std::lock_guard lock(mutex_);
          error_ = std::string(name_of(error.code())) + ": " + error.what();
        }
        channel.refuse(error);
      }
      link->leave();
    });
  }
  std::string error() {
    threads_.clear();  // joins
    const std::lock_guard lock(mutex_);
    return error_;
  }
  ResumableSessions sessions;
  std::atomic<int> finished = 0;
  std::atomic<std::size_t> most_kept = 0;

 private:
  std::vector<Turn> turns_;
  ResumeLimits limits_;
  std::mutex mutex_;
  std::string error_;
  std::list<std::jthread> threads_;
};

std::unique_ptr<ResumableLink> begin(const std::function<std::unique_ptr<Link>()>& dial, ResumeLimits limits) {
  auto link = std::make_unique<ResumableLink>(dial(), limits, dial);
  link->send({40, k_session, 0, content(Cuts::up, 0, 1)});
  EXPECT_EQ(link->receive(in(5s), "the beginning", k_max_payload).payload, content(Cuts::down, 0, 1));
  link->begin(k_session);
  return link;
}

void converse(ResumableLink& link, const std::vector<Turn>& turns) {
  std::uint32_t up = 1, down = 1;
  for (const Turn& turn : turns) {
    for (std::size_t i = 0; i < turn.up; ++i, ++up) link.send({40, k_session, up, content(Cuts::up, up, turn.bytes)});
    for (std::size_t i = 0; i < turn.down; ++i, ++down) {
      const Frame got = link.receive(in(5s), "an answer", k_max_payload);
      ASSERT_EQ(got.step, down);
      ASSERT_EQ(got.payload, content(Cuts::down, down, turn.bytes));
    }
  }
}

struct Outcome {
  std::size_t up, down, cuts;
};
// A whole conversation over connections that are cut so.
Outcome run(const std::vector<Turn>& turns, std::vector<Cuts::Cut> cut) {
  const auto cuts = Cuts::make(std::move(cut));
  {
    Provider provider(turns, {.grace = 5s});
    {
      auto link = begin(
          [&] {
            auto [near, far] = cuts->connect();
            provider.serve(std::move(far));
            return std::move(near);
          },
          {.grace = 5s});
      converse(*link, turns);
    }
    EXPECT_EQ(provider.error(), "");
    EXPECT_EQ(provider.finished, 1);
  }
  EXPECT_EQ(cuts->fault(), "");
  return {cuts->frames(Cuts::up), cuts->frames(Cuts::down), cuts->made()};
}

TEST(Resumable, a_cut_at_any_frame_leaves_the_conversation_as_it_is) {
  const Outcome whole = run(k_short, {});
  EXPECT_EQ(whole.up, 1 + 8 + 1 + 1u);  // the beginning; lines; an acknowledgement of the large one; Leave
  EXPECT_EQ(whole.down, 1 + 8 + 1u);
  for (const auto direction : {Cuts::up, Cuts::down}) {
    const std::size_t end =
        direction == Cuts::up ? whole.up - 1 : whole.down;  // Leave is the end, whether it arrives or not
    for (std::size_t at = 1; at < end; ++at) {
      for (const bool lost : {false, true}) {
        SCOPED_TRACE(testing::Message() << "direction " << direction << " frame " << at << (lost ? " lost" : ""));
        EXPECT_EQ(run(k_short, {{direction, at, lost}}).cuts, 1u);
      }
    }
  }
}

TEST(Resumable, a_cut_in_a_run_of_one_side_leaves_it_as_it_is) {
  const Outcome whole = run(k_long, {});
  for (const auto direction : {Cuts::up, Cuts::down}) {
    const std::size_t end = direction == Cuts::up ? whole.up - 1 : whole.down;
    for (std::size_t at = 1; at < end; at += 7) {
      SCOPED_TRACE(testing::Message() << "direction " << direction << " frame " << at);
      EXPECT_EQ(run(k_long, {{direction, at, true}}).cuts, 1u);
    }
  }
}

// The second and third cuts fall on Resume, on its answer, and on frames that are sent again.
TEST(Resumable, further_cuts_while_it_resumes_and_sends_again_leave_it_as_it_is) {
  for (const auto direction : {Cuts::up, Cuts::down}) {
    for (std::size_t at = 1; at < 8; at += 2) {
      for (std::size_t next = at + 1; next < at + 4; ++next) {
        for (const auto second : {Cuts::up, Cuts::down}) {
          SCOPED_TRACE(testing::Message()
                       << "direction " << direction << " frame " << at << ", then " << second << " frame " << next);
          EXPECT_EQ(run(k_short, {{direction, at, true}, {second, next, true}, {second, next + 1, false}}).cuts, 3u);
        }
      }
    }
  }
  // In the middle of 150 frames on their way again.
  EXPECT_EQ(run(k_long, {{Cuts::up, 60, true},
                         {Cuts::up, 70, true},
                         {Cuts::up, 75, false},
                         {Cuts::down, 100, true},
                         {Cuts::down, 110, true}})
                .cuts,
            5u);
}

// A peer that resumes twice, and is gone the second time before it is answered, in the middle of what is sent again the first time.
TEST(Resumable, a_connection_that_is_lost_at_once_disturbs_none_before_it) {
  ResumableSessions sessions;
  const auto link = std::make_shared<ResumableLink>(memory_links().second, ResumeLimits{.grace = 5s});
  const auto kept = sessions.keep(link, k_session, k_alice);
  for (std::uint32_t step = 0; step < 10; ++step) link->send({40, k_session, step, Bytes(1)});
  const auto resume = [&](std::unique_ptr<Link> connection) {
    ResumableLink arriving(std::move(connection), {.grace = 5s});
    return error_of([&] { EXPECT_TRUE(sessions.resumed(arriving, k_alice, in(5s))); });
  };
  class Second : public PassingLink {  // sends nothing
   public:
    using PassingLink::PassingLink;
    void send(Frame) override { throw Error(Code::closed, "link", "the peer closed the connection"); }
  };
  class First : public PassingLink {
   public:
    First(std::unique_ptr<Link> link, std::size_t& sent, std::function<void()> at_third)
        : PassingLink(std::move(link)), sent_(sent), at_third_(std::move(at_third)) {}
    void send(Frame frame) override {
      const bool third = !is_of_link(frame.tag) && ++sent_ == 3;
      PassingLink::send(std::move(frame));
      if (third) at_third_();
    }

   private:
    std::size_t& sent_;
    const std::function<void()> at_third_;
  };
  std::size_t sent = 0;
  auto [near, far] = memory_links();
  near->send(frame(Tag::resume, 0, 0));
  EXPECT_EQ(resume(std::make_unique<First>(std::move(far), sent,
                                           [&] {
                                             auto [user, provider] = memory_links();
                                             user->send(frame(Tag::resume, 10, 0));
                                             EXPECT_EQ(resume(std::make_unique<Second>(std::move(provider))),
                                                       "closed: link: the peer closed the connection");
                                           })),
            "no error");
  link->flush();
  EXPECT_EQ(sent, 3u);
  EXPECT_EQ(link->kept_bytes(), 0u);
}

TEST(Resumable, who_is_gone_before_its_first_word_hears_none) {
  ResumableSessions sessions;
  auto [near, far] = memory_links();
  class HalfClosed : public PassingLink {  // nothing comes, but what is sent arrives
   public:
    using PassingLink::PassingLink;
    Frame receive(Clock::time_point, const char* awaited, std::size_t) override {
      throw Error(Code::closed, awaited, "the peer closed the connection");
    }
  };
  ResumableLink arriving(std::make_unique<HalfClosed>(std::move(far)), {.grace = 5s});
  Channel channel(arriving, k_session, 5s);
  EXPECT_EQ(error_of([&] {
              try {
                sessions.resumed(arriving, k_alice, in(5s));
              } catch (const Error& error) {
                channel.refuse(error);
                throw;
              }
            }),
            "closed: Hello: the peer closed the connection");
  EXPECT_EQ(error_of([&, &near = near] { near->receive(in(5s), "a refusal", k_max_payload); }),
            "closed: a refusal: the peer closed the connection");
}

TEST(Resumable, acknowledgements_are_few_and_take_no_round_trip) {
  const auto cuts = Cuts::make();
  Traffic traffic;
  Provider provider(k_long, {.grace = 5s});
  {
    auto link = begin(
        [&]() -> std::unique_ptr<Link> {
          auto [near, far] = cuts->connect();
          provider.serve(std::move(far));
          return std::make_unique<Meter>(std::move(near), traffic);
        },
        {.grace = 5s});
    converse(*link, k_long);
  }
  EXPECT_EQ(provider.error(), "");
  EXPECT_EQ(traffic.round_trips, 1 + k_long.size());
  EXPECT_EQ(traffic.received.frames, 1 + 194 + 4u);
  EXPECT_EQ(traffic.sent.frames, 1 + 194 + 4 + 1u);
}

TEST(Resumable, nobody_there_again_ends_with_the_grace_and_says_how_long) {
  Provider provider(k_short, {.grace = 150ms});
  bool first = true;
  const auto cuts = Cuts::make({{Cuts::up, 2, true}});
  auto link = begin(
      [&] {
        if (!std::exchange(first, false)) throw Error(Code::closed, "the provider", "nobody listens there");
        auto [near, far] = cuts->connect();
        provider.serve(std::move(far));
        return std::move(near);
      },
      {.grace = 300ms});
  const Clock::time_point begun = Clock::now();
  EXPECT_EQ(error_of([&] { converse(*link, k_short); }),
            "closed: connection: was lost and did not come back for 0.3 s");
  EXPECT_LT(Clock::now() - begun, 2s);
  EXPECT_EQ(error_of([&] { link->receive(in(5s), "another", k_max_payload); }).substr(0, 7), "closed:") << "final";
  EXPECT_EQ(provider.error().substr(0, 28), "closed: connection: was lost");
}

TEST(Resumable, a_deadline_holds_over_all_connections) {
  Provider provider(k_short, {.grace = 100ms});
  bool first = true;
  const auto cuts = Cuts::make({{Cuts::up, 1, true}});
  auto link = begin(
      [&] {
        if (!std::exchange(first, false)) throw Error(Code::timeout, "the provider", "nobody answers");
        auto [near, far] = cuts->connect();
        provider.serve(std::move(far));
        return std::move(near);
      },
      {.grace = 30s});
  link->send({40, k_session, 1, Bytes(1)});
  const Clock::time_point begin = Clock::now();
  const std::string error = error_of([&] { link->receive(in(200ms), "an answer", k_max_payload); });
  EXPECT_TRUE(error.starts_with("timeout: connection: was lost and did not come back for ")) << error;
  EXPECT_GE(Clock::now() - begin, 190ms);
  EXPECT_LT(Clock::now() - begin, 10s);
}

TEST(Resumable, what_the_provider_refuses_is_final_at_once) {
  Provider provider(k_short, {.grace = 1ms});
  const auto cuts = Cuts::make({{Cuts::up, 2, true}});
  int dialled = 0;
  auto link = begin(
      [&] {
        if (dialled++ > 0) std::this_thread::sleep_for(100ms);  // its grace is over
        auto [near, far] = cuts->connect();
        provider.serve(std::move(far));
        return std::move(near);
      },
      {.grace = 30s});
  EXPECT_EQ(error_of([&] { converse(*link, k_short); }), "closed: peer: Resume.session: no such session");
  EXPECT_EQ(dialled, 2);
}

TEST(Resumable, a_certificate_that_is_refused_is_final_at_once) {
  Provider provider(k_short, {.grace = 10ms});
  bool first = true;
  const auto cuts = Cuts::make({{Cuts::up, 2, true}});
  auto link = begin(
      [&] {
        if (!std::exchange(first, false)) throw Error(Code::mismatch, "the provider", "its invite is revoked");
        auto [near, far] = cuts->connect();
        provider.serve(std::move(far));
        return std::move(near);
      },
      {.grace = 30s});
  EXPECT_EQ(error_of([&] { converse(*link, k_short); }), "mismatch: the provider: its invite is revoked");
}

// A user that says what it likes, over connections of its own.
struct Raw {
  explicit Raw(Provider& to, const Peer& as = k_alice) {
    auto [near, far] = memory_links();
    to.serve(std::move(far), as);
    link = std::move(near);
  }
  void begin() {
    link->send({40, k_session, 0, content(Cuts::up, 0, 1)});
    link->receive(in(5s), "the beginning", k_max_payload);
  }
  Frame resume(std::uint32_t expected, std::uint64_t session = k_session) {
    link->send({static_cast<std::uint16_t>(Tag::resume), session, expected, {}});
    return link->receive(in(5s), "the answer", k_max_payload);
  }
  std::string refusal(std::uint32_t expected, std::uint64_t session = k_session) {
    const Frame answer = resume(expected, session);
    return answer.tag == static_cast<std::uint16_t>(Tag::refusal) ? refusal_of(answer).what() : "none";
  }
  std::unique_ptr<Link> link;
};

TEST(Resumable, another_user_gets_no_session_and_disturbs_none) {
  Provider provider({{1, 1, 10}}, {.grace = 5s});
  Raw alice(provider);
  alice.begin();
  EXPECT_EQ(Raw(provider, k_bob).refusal(1), "peer: Resume.session: no such session");
  EXPECT_EQ(Raw(provider).refusal(1, 8), "peer: Resume.session: no such session");
  alice.link->send({40, k_session, 1, content(Cuts::up, 1, 10)});
  EXPECT_EQ(alice.link->receive(in(5s), "an answer", k_max_payload).step, 1u);
  alice.link->send(frame(Tag::leave, 2, 0));
  EXPECT_EQ(provider.error(), "");
}

TEST(Resumable, a_step_that_was_never_sent_or_is_dropped_ends_the_session) {
  {
    Provider provider({{1, 1, 10}}, {.grace = 5s});
    Raw first(provider);
    first.begin();
    EXPECT_EQ(Raw(provider).refusal(2), "peer: Resume.step: 2, expected 0 to 1");
    EXPECT_EQ(provider.error(), "malformed: Resume.step: 2, expected 0 to 1");
  }
  Provider provider({{1, 1, 10}, {1, 1, 10}}, {.grace = 5s});
  Raw first(provider);
  first.begin();
  first.link->send(frame(Tag::ack, 1, 0));
  first.link->send({40, k_session, 1, content(Cuts::up, 1, 10)});
  first.link->receive(in(5s), "an answer", k_max_payload);
  EXPECT_EQ(Raw(provider).refusal(0), "peer: Resume.step: 0, expected 1 to 2");
  EXPECT_EQ(provider.error(), "malformed: Resume.step: 0, expected 1 to 2");
}

TEST(Resumable, an_acknowledgement_of_what_was_never_sent_ends_the_session) {
  for (const Frame& bad : {frame(Tag::ack, 5, 0), frame(Tag::leave, 5, 0), frame(Tag::ack, 1, 1),
                           frame(Tag::resume, 1, 0), frame(Tag::ack, 0xffffffff, 0)}) {
    Provider provider({{1, 1, 10}}, {.grace = 5s});
    Raw raw(provider);
    raw.begin();
    raw.link->send(bad);
    EXPECT_EQ(provider.error().substr(0, 9), "malformed") << bad.tag << " " << bad.step;
  }
}

TEST(Resumable, a_providers_wrong_answer_is_malformed) {
  for (const Frame& answer : {frame(Tag::ack, 9, 0), frame(Tag::ack, 1, 1), frame(Tag::resume, 1, 0),
                              Frame{2, 8, 1, {}}, frame(Tag::hello, 0, 0)}) {
    std::list<std::unique_ptr<Link>> far_ends;
    const auto dial = [&] {
      auto [near, far] = memory_links();
      if (far_ends.empty()) far->send({40, k_session, 0, content(Cuts::down, 0, 1)});
      if (!far_ends.empty()) far->send(answer);
      far_ends.push_back(std::move(far));
      return std::move(near);
    };
    auto link = begin(dial, {.grace = 5s});
    far_ends.front()->close();
    EXPECT_EQ(error_of([&] { link->receive(in(5s), "an answer", k_max_payload); }).substr(0, 9), "malformed")
        << answer.tag << " " << answer.step;
  }
}

TEST(Resumable, a_second_connection_takes_over_from_one_that_seems_alive) {
  Provider provider({{1, 2, 10}, {1, 1, 10}}, {.grace = 5s});
  Raw first(provider);
  first.begin();
  first.link->send({40, k_session, 1, content(Cuts::up, 1, 10)});
  EXPECT_EQ(first.link->receive(in(5s), "an answer", k_max_payload).step, 1u);
  EXPECT_EQ(first.link->receive(in(5s), "an answer", k_max_payload).step, 2u);  // but the user says it lacks this one
  Raw second(provider);
  const Frame answer = second.resume(2);
  EXPECT_EQ(answer.tag, static_cast<std::uint16_t>(Tag::ack));
  EXPECT_EQ(answer.step, 2u);
  EXPECT_EQ(error_of([&] { first.link->receive(in(5s), "anything", k_max_payload); }).substr(0, 7), "closed:");
  EXPECT_EQ(second.link->receive(in(5s), "it again", k_max_payload).payload, content(Cuts::down, 2, 10));
  second.link->send({40, k_session, 2, content(Cuts::up, 2, 10)});
  EXPECT_EQ(second.link->receive(in(5s), "an answer", k_max_payload).step, 3u);
  second.link->send(frame(Tag::leave, 4, 0));
  EXPECT_EQ(provider.error(), "");
  EXPECT_EQ(provider.finished, 1);
}

// A connection that has just read a frame when it is closed.
class Late : public Link {
 public:
  void send(Frame) override {}
  void flush() override {}
  Frame receive(Clock::time_point, const char*, std::size_t) override {
    waiting = true;
    closed_.acquire();
    closed_.release();
    return frame(Tag::pass_begin, 0, 3, 1);
  }
  void close() override { closed_.release(); }
  std::atomic<bool> waiting = false;

 private:
  std::counting_semaphore<> closed_{0};
};

// Frames that arrive on a connection after another took over are the peer's old ones: it sends them again.
TEST(Resumable, frames_of_a_connection_that_was_taken_over_do_not_count) {
  auto late = std::make_unique<Late>();
  Late& first = *late;
  auto [next_near, next_far] = memory_links();
  ResumableSessions sessions;
  const auto link = std::make_shared<ResumableLink>(std::move(late), ResumeLimits{.grace = 5s});
  const auto kept = sessions.keep(link, k_session, k_alice);
  std::jthread owner([&] {
    EXPECT_EQ(link->receive(in(1s), "a frame", k_max_payload).step, 0u);
    EXPECT_EQ(link->receive(in(1s), "another", k_max_payload).step, 1u);
  });
  while (!first.waiting) std::this_thread::yield();
  next_near->send(frame(Tag::resume, 0, 0));
  ResumableLink accepted(std::move(next_far), {});
  EXPECT_TRUE(sessions.resumed(accepted, k_alice, in(1s)));
  EXPECT_EQ(next_near->receive(in(1s), "the answer", k_max_payload).step, 0u);
  next_near->send(frame(Tag::pass_begin, 0, 3, 1));
  next_near->send(frame(Tag::pass_begin, 1, 3, 1));
}

TEST(Resumable, what_is_kept_is_bounded_and_sending_waits_for_room) {
  const std::vector<Turn> turns{{1, 200, 50'000}};
  const auto cuts = Cuts::make();
  Provider provider(turns, {.grace = 5s, .kept_bytes = k_ack_bytes});
  auto link = begin(
      [&] {
        auto [near, far] = cuts->connect();
        provider.serve(std::move(far));
        return std::move(near);
      },
      {.grace = 5s});
  converse(*link, turns);
  link->leave();
  EXPECT_EQ(provider.error(), "");
  EXPECT_LE(provider.most_kept, k_ack_bytes + 50'000 + k_frame_header_bytes);
  EXPECT_GT(provider.most_kept, k_ack_bytes);
}

// Beyond its own bound a link keeps what finds room, which its peer's other links share.
TEST(Resumable, what_finds_room_is_kept_beyond_the_bound) {
  auto [near, far] = memory_links();
  const auto room = std::make_shared<Room>(120'000);
  ResumableLink link(std::move(near), {.grace = 5s, .kept_bytes = k_ack_bytes, .patience = 20ms, .room = room});
  link.begin(k_session);
  std::uint32_t sent = 0;
  EXPECT_EQ(error_of([&] {
              for (;; ++sent) link.send(frame(Tag::remask, sent, 50'000));
            }),
            "timeout: an acknowledgement: did not arrive before the deadline");
  EXPECT_EQ(sent, 6u + 2u) << "six pass the bound, two find room";
  EXPECT_EQ(room->used(), 2 * (50'000 + k_frame_header_bytes));
  auto [here, there] = memory_links();
  ResumableLink other(
      std::move(here),
      {.grace = 5s, .kept_bytes = k_ack_bytes, .patience = 5s, .room = std::make_shared<Room>(120'000)});
  other.begin(k_session);
  for (std::uint32_t step = 0; step < 8; ++step) other.send(frame(Tag::remask, step, 50'000));
  there->send(frame(Tag::ack, 8, 0));
  for (std::uint32_t step = 8; step < 16; ++step) other.send(frame(Tag::remask, step, 50'000));
}

TEST(Resumable, sending_to_a_peer_that_acknowledges_nothing_ends_with_the_patience) {
  Provider provider({{1, 200, 50'000}}, {.grace = 5s, .kept_bytes = k_ack_bytes, .patience = 100ms});
  Raw raw(provider);
  raw.begin();
  raw.link->send({40, k_session, 1, content(Cuts::up, 1, 50'000)});
  const std::string error = provider.error();
  EXPECT_EQ(error, "timeout: an acknowledgement: did not arrive before the deadline");
}

TEST(Resumable, who_leaves_is_not_waited_for) {
  Provider provider({{1, 1, 10}, {1, 1, 10}}, {.grace = 60s});
  const Clock::time_point begun = Clock::now();
  const auto cuts = Cuts::make();
  {
    auto link = begin(
        [&] {
          auto [near, far] = cuts->connect();
          provider.serve(std::move(far));
          return std::move(near);
        },
        {.grace = 60s});
  }
  EXPECT_EQ(provider.error(), "closed: session: the peer has left");
  EXPECT_LT(Clock::now() - begun, 5s);
}

// A connection on which nothing can be sent any more, and from which frames come without an end.
class Endless : public Link {
 public:
  Endless(std::size_t size, std::atomic<std::size_t>& came) : size_(size), came_(came) {}
  void send(Frame) override { throw Error(Code::closed, "x", "the peer closed the connection"); }
  void flush() override {}
  Frame receive(Clock::time_point, const char* awaited, std::size_t most) override {
    check_length(static_cast<std::uint16_t>(Tag::remask), size_, most, awaited);
    came_ += size_ + k_frame_header_bytes;
    return frame(Tag::remask, next_++, size_);
  }
  void close() override {}

 private:
  const std::size_t size_;
  std::uint32_t next_ = 0;
  std::atomic<std::size_t>& came_;
};

TEST(Resumable, what_is_heard_on_a_lost_connection_is_bounded) {
  for (const std::size_t size : {std::size_t{0}, std::size_t{1000}, k_cut_bytes, k_cut_bytes + 1}) {
    std::atomic<std::size_t> came = 0;
    ResumableLink link(std::make_unique<Endless>(size, came), {.grace = 50ms, .kept_bytes = k_ack_bytes});
    link.begin(k_session);
    EXPECT_NE(error_of([&] {
                link.send(frame(Tag::remask, 0, 10));
                link.receive(in(5s), "a frame", k_max_payload);
                for (;;) link.receive(in(5s), "a frame", k_max_payload);
              }),
              "no error");
    EXPECT_LE(came, size > k_cut_bytes ? 0 : k_ack_bytes + size + k_frame_header_bytes) << size;
  }
}

// While it waits for an acknowledgement: at most what it would keep itself, and one frame.
TEST(Resumable, what_comes_while_an_acknowledgement_is_awaited_is_bounded) {
  auto [near, far] = memory_links();
  ResumableLink link(std::move(near), {.grace = 5s, .kept_bytes = k_ack_bytes, .patience = 5s});
  link.begin(k_session);
  for (std::uint32_t step = 0; step < 100; ++step) far->send(frame(Tag::remask, step, 50'000));
  EXPECT_EQ(error_of([&] {
              for (std::uint32_t step = 0; step < 100; ++step) link.send(frame(Tag::remask, step, 50'000));
            }),
            "resource: link: both sides send and neither receives");
  auto [here, there] = memory_links();
  ResumableLink other(std::move(here), {.grace = 5s, .kept_bytes = k_ack_bytes, .patience = 5s});
  other.begin(k_session);
  there->send(frame(Tag::remask, 0, k_cut_bytes + 1));
  EXPECT_EQ(error_of([&] {
              for (std::uint32_t step = 0; step < 100; ++step) other.send(frame(Tag::remask, step, 50'000));
            }),
            "malformed: frame.length: Remask (42) of 2097153 bytes, the limit is 2097152 where this is awaited: an "
            "acknowledgement");
}

// A frame that came when more was allowed is looked at again when it is received.
TEST(Resumable, a_frame_that_came_early_is_no_longer_than_what_is_awaited) {
  auto [near, far] = memory_links();
  ResumableLink link(std::move(near), {.grace = 5s, .kept_bytes = k_ack_bytes, .patience = 5s});
  link.begin(k_session);
  far->send(frame(Tag::remask, 0, 5000));
  far->send(frame(Tag::ack, 6, 0));
  for (std::uint32_t step = 0; step < 8; ++step) link.send(frame(Tag::remask, step, 50'000));
  EXPECT_EQ(error_of([&] { link.receive(in(5s), "PassBegin", 13); }),
            "malformed: frame.length: Remask (42) of 5000 bytes, the limit is 1024 where this is awaited: PassBegin");
}

// However the peer's connection ends behind its refusal, who sends the next frame hears why.
TEST(Resumable, who_sends_to_a_peer_that_is_gone_hears_its_refusal) {
  for (const Clock::duration grace : {Clock::duration(0), Clock::duration(5s)}) {
    for (const bool leaves : {false, true}) {
      auto [near, far] = memory_links();
      ResumableLink link(std::move(near), {.grace = grace}, []() -> std::unique_ptr<Link> {
        ADD_FAILURE() << "it dials again";
        throw Error(Code::mismatch, "the peer", "is gone");
      });
      link.begin(k_session);
      Channel peer(*far, k_session, 5s);
      peer.refuse(Error(Code::resource, "tokens", "your allowance is used up"));
      if (leaves) far->send(frame(Tag::leave, 0, 0));
      far.reset();
      for (int i = 0; i < 2; ++i) {
        EXPECT_EQ(error_of([&] {
                    link.send(frame(Tag::remask, static_cast<std::uint32_t>(i), 10));
                    link.flush();
                    link.receive(in(5s), "a frame", k_max_payload);
                    link.receive(in(5s), "another", k_max_payload);
                  }),
                  "resource: peer: tokens: your allowance is used up");
      }
    }
  }
}

TEST(Resumable, close_wakes_a_side_that_waits_for_a_connection) {
  for (const bool dials : {false, true}) {
    auto [near, far] = memory_links();
    ResumableLink link(std::move(near), {.grace = 60s},
                       dials ? []() -> std::unique_ptr<Link> { throw Error(Code::closed, "x", "nobody"); }
                             : ResumableLink::Dial());
    link.begin(k_session);
    far.reset();
    std::jthread closer([&] {
      std::this_thread::sleep_for(50ms);
      link.close();
    });
    EXPECT_EQ(error_of([&] { link.receive(in(60s), "a frame", k_max_payload); }), "closed: link: this side closed it");
  }
}

TEST(Resumable, without_grace_a_cut_is_the_end_and_nothing_is_kept) {
  auto [near, far] = memory_links();
  ResumableLink link(std::move(near), {}, []() -> std::unique_ptr<Link> {
    ADD_FAILURE();
    return nullptr;
  });
  link.begin(k_session);
  link.send(frame(Tag::remask, 0, 1000));
  EXPECT_EQ(link.kept_bytes(), 0u);
  far.reset();
  EXPECT_EQ(error_of([&] { link.receive(in(5s), "a frame", k_max_payload); }),
            "closed: a frame: the peer closed the connection");
}

}  // namespace
}  // namespace permllm::test
