// Links: TLS with identities, deadlines and hostile peers; the decorators.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>
#include <tuple>

#include "net/memory_link.h"
#include "net/meter.h"
#include "net/shaped.h"
#include "net/share.h"
#include "net/tls.h"
#include "net/units.h"
#include "support/parties.h"
#include "wire/frame.h"
#include "wire/message.h"

namespace permllm {
namespace {

Clock::time_point in(std::chrono::milliseconds time) { return Clock::now() + time; }
using std::chrono_literals::operator""ms;
using test::Parties;

Frame frame(std::uint32_t step, std::size_t size) {
  return {40, 7, step, Bytes(size, static_cast<std::uint8_t>(step))};
}

struct Pair {
  std::unique_ptr<Link> server, client;
  Peer seen_by_server, seen_by_client;
};
Pair tls_pair(const Parties& parties, Role client_role = Role::user) {
  TlsListener listener([&] { return parties.of(Role::provider); }, "127.0.0.1:0");
  Pair pair;
  std::jthread server([&] {
    auto link = listener.accept(in(5000ms));
    pair.seen_by_server = link->handshake(in(5000ms));
    pair.server = std::move(link);
  });
  auto client =
      tls_connect(parties.of(client_role), "127.0.0.1:" + std::to_string(listener.port()), Role::provider, in(5000ms));
  pair.seen_by_client = client->peer();
  pair.client = std::move(client);
  server.join();
  return pair;
}

template <class F>
Error error_of(F f) {
  try {
    f();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error";
  return Error(Code::resource, "", "");
}

// By its header: the payload is neither awaited nor taken.
TEST(Links, a_payload_over_what_may_come_is_refused_by_name) {
  const Parties parties;
  for (const bool tls : {true, false}) {
    const auto answer = [&](std::size_t size, std::size_t most) -> std::string {
      Pair pair;
      if (tls) {
        pair = tls_pair(parties);
      } else {
        std::tie(pair.server, pair.client) = memory_links();
      }
      pair.client->send({41, 7, 0, Bytes(size)});
      pair.client->flush();
      try {
        return std::to_string(pair.server->receive(in(5000ms), "PassBegin", most).payload.size());
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), Code::malformed);
        return error.what();
      }
    };
    EXPECT_EQ(answer(5000, 5000), "5000");
    EXPECT_EQ(answer(5001, 5000),
              "frame.length: PromptOneHots (41) of 5001 bytes, the limit is 5000 where this is awaited: PassBegin");
    EXPECT_EQ(answer(k_least_payload, 0), "1024") << "a refusal may come in place of anything";
    EXPECT_EQ(answer(k_least_payload + 1, 0),
              "frame.length: PromptOneHots (41) of 1025 bytes, the limit is 1024 where this is awaited: PassBegin");
  }
}

// Two links of a peer share room for one and a half frames.
TEST(Tls, what_a_peer_sends_waits_for_room_over_all_its_links) {
  const Parties parties;
  Pair one = tls_pair(parties), other = tls_pair(parties);
  const auto room = std::make_shared<Room>(300'000);
  for (Pair* pair : {&one, &other}) {
    dynamic_cast<TlsLink&>(*pair->server).share(room);
    pair->client->send(frame(0, 200'000));
    pair->client->send(frame(1, k_small_payload));
    pair->client->flush();
  }
  Frame held = one.server->receive(in(5000ms), "x", k_max_payload);
  EXPECT_EQ(room->used(), 200'000u);
  EXPECT_EQ(one.server->receive(in(5000ms), "x", k_max_payload).room, nullptr) << "a small frame waits for nothing";
  std::jthread waiter(
      [&] { EXPECT_EQ(other.server->receive(in(60000ms), "x", k_max_payload).payload.size(), 200'000u); });
  held = {};
  waiter.join();
  EXPECT_EQ(room->used(), 0u);
  one.client->send(frame(2, 200'000));
  one.client->flush();
  const Room::Held all = room->take(300'000, in(5000ms), "x");
  EXPECT_EQ(error_of([&] { one.server->receive(in(50ms), "MapAnswer", k_max_payload); }).code(), Code::timeout);
}

TEST(Tls, carries_frames_both_ways_and_tells_who_is_there) {
  const Parties parties;
  Pair pair = tls_pair(parties);
  EXPECT_EQ(pair.seen_by_server.role, Role::user);
  EXPECT_EQ(pair.seen_by_server.name, "alice");
  EXPECT_EQ(pair.seen_by_server.provider, parties.provider.certificate.pin());
  EXPECT_EQ(pair.seen_by_client.role, Role::provider);
  EXPECT_EQ(pair.seen_by_client.name, "acme");
  std::jthread server([&] {
    for (std::uint32_t step = 0; step < 20; ++step)
      pair.server->send(pair.server->receive(in(5000ms), "a frame", k_max_payload));
    pair.server->flush();
  });
  for (std::uint32_t step = 0; step < 20; ++step) pair.client->send(frame(step, step == 7 ? 5'000'000 : step * 1000));
  for (std::uint32_t step = 0; step < 20; ++step) {
    const Frame back = pair.client->receive(in(5000ms), "an echo", k_max_payload);
    EXPECT_EQ(back.payload, frame(step, step == 7 ? 5'000'000 : step * 1000).payload);
    EXPECT_EQ(back.session, 7u);
  }
}

TEST(Tls, nobody_there_gives_an_error_at_once) {
  const Parties parties;
  std::uint16_t port = 0;
  {
    port = TlsListener([&] { return parties.of(Role::provider); }, "127.0.0.1:0").port();
  }
  const Error error = error_of(
      [&] { tls_connect(parties.of(Role::user), "127.0.0.1:" + std::to_string(port), Role::provider, in(5000ms)); });
  EXPECT_NE(std::string(error.what()).find("nobody listens there"), std::string::npos);
  EXPECT_EQ(error.reason(), Reason::provider_unreachable);
  EXPECT_EQ(error_of([&] {
              tls_connect(parties.of(Role::user), "127.0.0.1:" + std::to_string(port), Role::helper, in(5000ms));
            }).reason(),
            Reason::helper_unreachable);
  EXPECT_EQ(
      error_of([&] { tls_connect(parties.of(Role::user), "nobody.invalid:1", Role::helper, in(5000ms)); }).reason(),
      Reason::helper_unreachable);
  EXPECT_EQ(error_of([&] { tls_connect(parties.of(Role::user), "nonsense", Role::provider, in(100ms)); }).code(),
            Code::usage);
}

TEST(Tls, a_deadline_ends_every_wait) {
  const Parties parties;
  Pair pair = tls_pair(parties);
  const Clock::time_point begin = Clock::now();
  const Error error = error_of([&] { pair.client->receive(in(50ms), "PassBegin", k_max_payload); });
  EXPECT_EQ(error.code(), Code::timeout);
  EXPECT_STREQ(error.what(), "PassBegin: did not arrive before the deadline");
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(5));
}

TEST(Tls, a_peer_that_goes_away_is_noticed) {
  const Parties parties;
  Pair pair = tls_pair(parties);
  pair.server.reset();
  EXPECT_EQ(error_of([&] { pair.client->receive(in(5000ms), "a frame", k_max_payload); }).code(), Code::closed);
}

TEST(Tls, close_wakes_a_waiting_thread) {
  const Parties parties;
  Pair pair = tls_pair(parties);
  std::jthread waiter([&] {
    EXPECT_EQ(error_of([&] { pair.client->receive(in(60000ms), "a frame", k_max_payload); }).code(), Code::closed);
  });
  std::this_thread::sleep_for(20ms);
  pair.client->close();
}

TEST(Tls, a_frame_out_of_turn_is_refused) {
  const Parties parties;
  Pair pair = tls_pair(parties);
  pair.server->send(frame(0, 10));
  pair.server->send(frame(0, 10));  // replayed
  pair.server->flush();
  Channel channel(*pair.client, 7, 5000ms);
  channel.receive_any("a frame", k_max_payload);
  EXPECT_STREQ(error_of([&] { channel.receive_any("a frame", k_max_payload); }).what(), "frame.step: 0, expected 1");
}

TEST(Tls, garbage_and_silence_on_the_port_harm_nobody_else) {
  const Parties parties;
  TlsListener listener([&] { return parties.of(Role::provider); }, "127.0.0.1:0", 100ms);
  for (const bool speaks : {true, false}) {
    const int plain = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(listener.port());
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(connect(plain, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    if (speaks) {
      ASSERT_GT(write(plain, "GET / HTTP/1.1\r\n\r\n", 18), 0);
    }
    EXPECT_EQ(listener.next(in(5000ms)).kind, TlsListener::Arrival::Kind::came);
    const auto left = listener.next(in(5000ms));
    EXPECT_EQ(left.kind, TlsListener::Arrival::Kind::left);
    EXPECT_EQ(left.address, "127.0.0.1");
    EXPECT_EQ(left.error->code(), speaks ? Code::mismatch : Code::timeout) << left.error->what();
    close(plain);
  }
  std::jthread server([&] { listener.accept(in(5000ms))->handshake(in(5000ms)); });
  EXPECT_NO_THROW(
      tls_connect(parties.of(Role::user), "127.0.0.1:" + std::to_string(listener.port()), Role::provider, in(5000ms)));
}

TEST(Frame, headers_that_do_not_fit_are_refused_by_name) {
  std::array<std::uint8_t, k_frame_header_bytes> header;
  encode_header(frame(3, 10), header);
  EXPECT_EQ(decode_header(header).length, 10u);
  auto other = header;
  other[0] ^= 1;
  EXPECT_EQ(error_of([&] { decode_header(other); }).field(), "frame.magic");
  other = header;
  other[4] = 99;
  EXPECT_EQ(error_of([&] { decode_header(other); }).reason(), Reason::version);
  EXPECT_STREQ(error_of([&] { decode_header(other); }).what(),
               ("frame.version: the peer has wire version 99, this side " + std::to_string(k_wire_version)).c_str());
}

TEST(Meter, counts_payload_frames_and_round_trips) {
  auto [a, b] = memory_links();
  Traffic traffic;
  Meter meter(std::move(a), traffic);
  for (std::uint32_t round = 0; round < 3; ++round) {
    meter.send(frame(0, 10));
    meter.send(frame(0, 5));
    b->send(frame(0, 7));
    b->send(frame(0, 1));
    meter.receive(in(100ms), "x", k_max_payload);
    meter.receive(in(100ms), "x", k_max_payload);  // no new round trip
  }
  EXPECT_EQ(traffic.sent.payload_bytes, 45u);
  EXPECT_EQ(traffic.received.payload_bytes, 24u);
  EXPECT_EQ(traffic.round_trips, 3u);
  EXPECT_EQ(traffic.header_bytes(), 12 * k_frame_header_bytes);
}

// Two connections of a user share its bandwidth, another user's has its own.
TEST(Bandwidth, is_shared_by_the_connections_of_a_user) {
  BandwidthByUser shares(8e6);  // 1 MB/s
  std::vector<std::unique_ptr<Link>> near, far;
  for (const char* user : {"alice", "alice", "bob"}) {
    auto [a, b] = memory_links();
    near.push_back(shares.throttled(std::move(a), user));
    far.push_back(std::move(b));
  }
  const Clock::time_point begin = Clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  near[0]->send(frame(0, 250'000));
  near[1]->send(frame(0, 250'000));
  EXPECT_GE(seconds(), 0.25);  // half a second's worth, less the burst
  EXPECT_LT(seconds(), 2);
  const double sent = seconds();
  near[2]->send(frame(0, 150'000));
  EXPECT_LT(seconds(), sent + 0.1);
  far[0]->send(frame(0, 400'000));  // the other direction has its own share
  EXPECT_EQ(near[0]->receive(in(5000ms), "x", k_max_payload).payload.size(), 400'000u);
  EXPECT_GE(seconds(), sent + 0.15);
  // Closed by another thread, a long wait ends.
  const std::jthread closer([&] {
    std::this_thread::sleep_for(50ms);
    near[0]->close();
  });
  EXPECT_THROW(near[0]->send(frame(1, 100'000'000)), Error);
  EXPECT_LT(seconds(), 20);
}

TEST(Shaped, delivers_after_half_a_round_trip_and_the_time_on_the_wire) {
  auto [a, b] = memory_links();
  Shaped sender(std::move(a), 20ms, 8e6), receiver(std::move(b), 20ms, 8e6);  // 1 MB/s
  const Clock::time_point begin = Clock::now();
  sender.send(frame(0, 10'000 - 24));
  sender.send(frame(1, 10'000 - 24));
  EXPECT_EQ(receiver.receive(in(5000ms), "x", k_max_payload).payload.size(), 10'000u - 24);
  EXPECT_GE(Clock::now() - begin, 20ms);  // 10 ms on the wire, 10 ms on the way
  receiver.receive(in(5000ms), "x", k_max_payload);
  EXPECT_GE(Clock::now() - begin, 30ms);
  EXPECT_LT(Clock::now() - begin, 500ms);
  sender.send(frame(2, 10));
  EXPECT_EQ(error_of([&] { receiver.receive(in(2ms), "x", k_max_payload); }).code(), Code::timeout);
}

TEST(Shaped, may_have_another_bandwidth_each_way) {
  const LinkShape home{"52ms", "100mbit/40mbit"};
  EXPECT_EQ(home.to_user(), 100e6);
  EXPECT_EQ(home.from_user(), 40e6);
  EXPECT_EQ(home.at_service().to_user(), 40e6);
  EXPECT_EQ(home.at_service().rtt, "52ms");
  const LinkShape one{"0", "1gbit"};
  EXPECT_EQ(one.from_user(), 1e9);
  EXPECT_EQ(one.at_service().to_user(), 1e9);
  EXPECT_FALSE(one.none());
  for (const char* bandwidth : {"100mbit/", "/40mbit", "1mbit/2mbit/3mbit", "0/40mbit", "100mbit/0"})
    EXPECT_THROW((void)(LinkShape{"0", bandwidth}.none()), Error) << bandwidth;
}

TEST(Shaped, holds_up_no_sender) {
  auto [a, b] = memory_links();
  Shaped sender(std::move(a), std::chrono::seconds(100), 8);  // a byte a second
  const Clock::time_point begin = Clock::now();
  sender.send(frame(0, 100));
  sender.send(frame(1, 100));
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(10));
}

TEST(Units, are_understood_or_refused_with_an_example) {
  EXPECT_EQ(parse_duration("10ms", "rtt"), 10ms);
  EXPECT_EQ(parse_duration("0", "rtt"), 0ms);
  EXPECT_EQ(parse_bandwidth("1gbit", "bandwidth"), 1e9);
  for (const char* bad : {"", "10", "ms", "-1ms", "1e99s", "10 ms", "nan"}) {
    const Error error = error_of([&] { parse_duration(bad, "rtt"); });
    EXPECT_EQ(error.code(), Code::usage);
    EXPECT_NE(std::string(error.what()).find("10ms"), std::string::npos);
  }
}

}  // namespace
}  // namespace permllm
