// The server's limits and its drain, over real sockets with a handler in place of a service.
#include "service/server.h"

#include <gtest/gtest.h>

#include <fstream>
#include <list>
#include <thread>

#include "support/parties.h"
#include "support/raw_peers.h"
#include "wire/message.h"

namespace permllm::test {
namespace {

using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;

Clock::time_point in(std::chrono::milliseconds time) { return Clock::now() + time; }

struct Ping {
  static constexpr Tag tag = Tag::accepted;
  template <class Io>
  void visit(Io&) {}
};

std::size_t threads() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    std::size_t count = 0;
    if (word == "Threads:" && status >> count) return count;
  }
  return 0;
}

std::span<const std::uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

// A server whose service answers each ping until the peer goes.
class World {
 public:
  explicit World(const Limits& limits, const char* log_level = "off")
      : log_("test", {"json", log_level}),
        server_(listener_, handler(), limits, log_, metrics_),
        thread_([this] { all_ended_ = server_.run(); }) {}
  ~World() {
    server_.drain();
    thread_.join();
  }
  std::unique_ptr<TlsLink> connect(Role role = Role::user) {
    return tls_connect(parties_.of(role), "127.0.0.1:" + std::to_string(port()), Role::provider, in(5000ms));
  }
  std::uint16_t port() const { return listener_.port(); }
  Server& server() { return server_; }
  std::string metrics() { return metrics_.text(); }
  // Waits for the thread in run.
  bool join() {
    thread_.join();
    thread_ = std::jthread([] {});
    return all_ended_;
  }
  void wait_for(std::size_t handshakes, std::size_t served) {
    const auto deadline = in(5000ms);
    for (;;) {
      const Server::Count count = server_.count();
      if (count.handshakes == handshakes && count.served == served) return;
      ASSERT_LT(Clock::now(), deadline) << count.handshakes << " handshakes, " << count.served << " served";
      std::this_thread::sleep_for(2ms);
    }
  }

 private:
  Server::Handler handler() {
    return {[](const Peer& peer) {
              if (peer.role == Role::helper) throw Error(Code::mismatch, "certificate", "not here");
            },
            [](std::unique_ptr<Link> link, const Peer&) {
              Channel channel(*link, 0, 10s);
              try {
                for (;;) {
                  channel.receive(Ping{});
                  channel.send(Ping{});
                  channel.flush();
                }
              } catch (const Error&) {
                // The peer went.
              }
            },
            std::size_t{4} << 20};
  }
  Parties parties_;
  Log log_;
  Metrics metrics_{Role::provider};
  TlsListener listener_{[this] { return parties_.of(Role::provider); }, "127.0.0.1:0"};
  Server server_;
  bool all_ended_ = false;
  std::jthread thread_;
};

std::string ping(Link& link) {
  Channel channel(link, 0, 5s);
  try {
    channel.send(Ping{});
    channel.receive(Ping{});
    return "served";
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(Server, a_thousand_silent_connections_do_not_keep_a_user_out) {
  World world({.connections = 64, .handshakes = 16});
  std::list<RawTcp> silent;
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(silent.emplace_back(world.port()).connected());
  EXPECT_EQ(ping(*world.connect()), "served");
  EXPECT_LE(world.server().count().handshakes, 16u);
  // The others have been sent away by now, or are about to be.
  const auto crowded = [&] {
    return world.metrics().find("permllm_refused_handshakes_total{reason=\"crowded\"} 98") != std::string::npos;
  };
  for (int i = 0; i < 500 && !crowded(); ++i) std::this_thread::sleep_for(10ms);
  EXPECT_TRUE(crowded()) << world.metrics();
}

TEST(Server, a_peer_of_one_byte_a_second_has_ten_seconds) {
  World world({});
  const RawTcp slow(world.port());
  ASSERT_TRUE(slow.connected());
  const Clock::time_point begin = Clock::now();
  // The head of a TLS record of 512 bytes, then its bytes.
  const std::string head("\x16\x03\x01\x02\x00\x01", 6);
  std::size_t sent = 0;
  while (!slow.has_ended() && Clock::now() - begin < 20s) {
    slow.write(bytes_of({sent < head.size() ? head[sent] : '\x00'}));
    ++sent;
    std::this_thread::sleep_for(1000ms);
  }
  EXPECT_GE(Clock::now() - begin, 9s);
  EXPECT_LE(Clock::now() - begin, 13s);
  world.wait_for(0, 0);
  EXPECT_NE(world.metrics().find("permllm_refused_handshakes_total{reason=\"timeout\"} 1"), std::string::npos)
      << world.metrics();
}

// Nothing, half a ClientHello, or the head of one that never comes: each takes a descriptor, and the process no thread more.
TEST(Server, a_connection_has_no_thread_before_its_client_hello_is_there) {
  constexpr std::size_t k_peers = 60;
  World world({.connections = 256, .handshakes = 4 * k_peers});
  EXPECT_EQ(ping(*world.connect()), "served");
  world.wait_for(0, 0);
  const Bytes hello = client_hello();
  const std::size_t before = threads();
  std::list<RawTcp> peers;
  for (std::size_t i = 0; i < k_peers; ++i) {
    peers.emplace_back(world.port());
    ASSERT_TRUE(peers.emplace_back(world.port()).write(std::span(hello).first(hello.size() / 2)));
    ASSERT_TRUE(
        peers.emplace_back(world.port()).write(bytes_of(std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 9))));
  }
  world.wait_for(3 * k_peers, 0);
  EXPECT_EQ(ping(*world.connect()), "served");
  EXPECT_LE(threads(), before + 1);
}

// In pieces it is a ClientHello all the same: the server answers once the last byte is there.
TEST(Server, a_client_hello_may_come_byte_by_byte) {
  World world({});
  const Bytes hello = client_hello();
  RawTcp slow(world.port());
  world.wait_for(1, 0);
  const std::size_t before = threads();
  for (std::size_t i = 0; i + 1 < hello.size(); ++i) ASSERT_TRUE(slow.write(std::span(hello).subspan(i, 1)));
  std::uint8_t answer[5];
  EXPECT_EQ(ping(*world.connect()), "served");  // behind those bytes
  world.wait_for(1, 0);
  EXPECT_LE(threads(), before + 1);
  EXPECT_EQ(recv(slow.descriptor(), answer, sizeof answer, MSG_DONTWAIT), -1);
  ASSERT_TRUE(slow.write(std::span(hello).last(1)));
  ASSERT_EQ(recv(slow.descriptor(), answer, sizeof answer, MSG_WAITALL), 5);
  EXPECT_EQ(answer[0], 22);  // a ServerHello
}

TEST(Server, what_is_no_client_hello_is_sent_away_at_once) {
  World world({});
  std::list<RawTcp> peers;
  const std::string texts[] = {"GET / HTTP/1.1\r\n\r\n", std::string("\x16\x02", 2),
                               std::string("\x16\x03\x01\x00\x10\x02", 6),
                               std::string("\x16\x03\x01\x02\x00\x01\x00\x02\x00", 9),   // longer than its record
                               std::string("\x16\x03\x01\x40\x01\x01\x00\x01\x00", 9)};  // a record longer than may be
  for (const std::string& text : texts) ASSERT_TRUE(peers.emplace_back(world.port()).write(bytes_of(text)));
  for (RawTcp& peer : peers) EXPECT_TRUE(peer.ended());
  world.wait_for(0, 0);
  EXPECT_NE(world.metrics().find("permllm_refused_handshakes_total{reason=\"mismatch\"} 5\n"), std::string::npos)
      << world.metrics();
}

// Refusals of one peer leave room in the log for another's, and for those before the handshake.
TEST(Server, refusals_are_logged_at_a_bounded_rate) {
  testing::internal::CaptureStderr();
  {
    World world({.per_user = 1}, "info");
    for (int i = 0; i < 40; ++i) EXPECT_EQ(ping(*world.connect(Role::helper)), "peer: certificate: not here");
    const auto served = world.connect();
    EXPECT_EQ(ping(*served), "served");
    EXPECT_NE(ping(*world.connect()), "served");
    for (int i = 0; i < 40; ++i) {
      RawTcp stranger(world.port());
      EXPECT_TRUE(stranger.write(bytes_of("no")));
      EXPECT_TRUE(stranger.ended());
    }
    for (int i = 0; i < 500 && world.metrics().find("{reason=\"mismatch\"} 40\n") == std::string::npos; ++i)
      std::this_thread::sleep_for(10ms);
  }
  const std::string log = testing::internal::GetCapturedStderr();
  const auto lines_with = [&](const std::string& text) {
    std::size_t lines = 0;
    for (std::size_t at = log.find(text); at != std::string::npos; at = log.find(text, at + 1)) ++lines;
    return lines;
  };
  EXPECT_EQ(lines_with("\"role\":\"helper\""), 20u) << log;
  EXPECT_EQ(lines_with("1 are open already"), 1u) << log;
  EXPECT_EQ(lines_with("\"address\":\"127.0.0.1\""), 20u) << log;
}

TEST(Server, who_is_one_too_many_is_told) {
  World world({.connections = 8, .handshakes = 16, .per_user = 3});  // 6 behind the handshake
  std::vector<std::unique_ptr<TlsLink>> links;
  for (int i = 0; i < 3; ++i) {
    links.push_back(world.connect());
    EXPECT_EQ(ping(*links.back()), "served");
  }
  EXPECT_NE(ping(*world.connect()).find("3 are open already, the limit for one user"), std::string::npos);
  for (int i = 0; i < 3; ++i) {
    links.push_back(world.connect(Role::provider));
    EXPECT_EQ(ping(*links.back()), "served");
  }
  EXPECT_NE(ping(*world.connect(Role::provider)).find("as many are open as may be"), std::string::npos);
  EXPECT_NE(world.metrics().find("permllm_refused_connections_total 2"), std::string::npos) << world.metrics();
  // One that leaves makes room, and other limits hold from now on.
  links.pop_back();
  world.wait_for(0, 5);
  EXPECT_EQ(ping(*world.connect(Role::provider)), "served");
  world.wait_for(0, 5);
  world.server().set_limits({.connections = 256, .per_user = 4});
  EXPECT_EQ(ping(*world.connect()), "served");
}

TEST(Server, whom_the_handler_does_not_admit_is_told) {
  World world({});
  EXPECT_EQ(ping(*world.connect(Role::helper)), "peer: certificate: not here");
}

TEST(Server, drains_when_the_last_connection_ends) {
  World world({.drain_seconds = 30});
  auto link = world.connect();
  EXPECT_EQ(ping(*link), "served");
  const RawTcp silent(world.port());
  EXPECT_TRUE(silent.connected());
  world.wait_for(1, 1);
  world.server().drain();
  // What is under way goes on, and may connect again.
  EXPECT_EQ(ping(*world.connect()), "served");
  const Clock::time_point begin = Clock::now();
  link.reset();
  EXPECT_TRUE(world.join());
  EXPECT_LT(Clock::now() - begin, 5s);
}

TEST(Server, closes_what_has_not_ended_in_time) {
  World world({.drain_seconds = 1});
  const auto link = world.connect();
  EXPECT_EQ(ping(*link), "served");
  const Clock::time_point begin = Clock::now();
  world.server().drain();
  EXPECT_TRUE(world.join());
  EXPECT_GE(Clock::now() - begin, 1s);
  EXPECT_LT(Clock::now() - begin, 4s);
  EXPECT_THROW(link->receive(in(5000ms), "the end", k_max_payload), Error);
}

}  // namespace
}  // namespace permllm::test
