// What events add up to, and what logs make of them.
#include "service/metrics.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <list>

#include "service/log.h"
#include "service/status.h"
#include "support/tcp.h"

namespace permllm::test {
namespace {

TEST(Metrics, count_sessions_by_how_they_ended) {
  Metrics metrics(Role::provider);
  const OnEvent on_event = [&](const Event& event) { metrics.count(event); };
  SessionEvents ended(on_event, "a"), failed(on_event, "a"), refused(on_event, "a"), joined(on_event, "a"),
      left(on_event, "a"), open(on_event, "a");
  ended.begin(1);
  ended.end();
  failed.begin(2);
  failed.fail(Error(Code::timeout, "session", "too late"), 2);
  refused.fail(Error(Code::mismatch, "session", "another plan"), 0);
  joined.fail(Error(Code::closed, "session", "the second connection of session 2"), 2);
  left.fail(Error(Code::closed, "session", "left before it began"), 0);
  open.begin(3);
  on_event(pass_event(1, 0.3, 1, 1));
  on_event(pass_event(1, 3, 40, 1));
  on_event(material_event(1, Role::user, 100));
  on_event(material_event(1, Role::helper, 1000));
  on_event(material_event(1, Role::helper, 10));
  EXPECT_EQ(metrics.text().find("permllm_disk_free_bytes "), std::string::npos);  // of no disk nothing is told
  metrics.set_source([] { return Metrics::Now{2, 5, true, false, 12, 1000, 2000}; });
  const std::string text = metrics.text();
  for (const char* line :
       {"permllm_sessions_open 1\n", "permllm_sessions_begun_total 3\n",
        "permllm_sessions_ended_total{code=\"none\",outcome=\"ended\"} 1\n",
        "permllm_sessions_ended_total{code=\"timeout\",outcome=\"failed\"} 1\n",
        "permllm_sessions_ended_total{code=\"mismatch\",outcome=\"refused\"} 1\n", "permllm_pass_seconds_count 2\n",
        "permllm_pass_seconds_sum 3.3\n", "permllm_prompt_seconds_sum 3\n", "permllm_rows_total 41\n",
        "permllm_tokens_total 2\n", "permllm_certificate_days_left 12\n", "permllm_pass_seconds_bucket{le=\"0.5\"} 1\n",
        "permllm_offline_bytes_total{from=\"user\"} 100\n", "permllm_offline_bytes_total{from=\"helper\"} 1010\n",
        "permllm_ready 1\n", "permllm_stock_bytes 1000\n", "permllm_disk_free_bytes 2000\n",
        "permllm_connections{stage=\"handshake\"} 2\n", "permllm_connections{stage=\"served\"} 5\n"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
  }
  EXPECT_EQ(text.find("code=\"closed\""), std::string::npos) << text;
}

// By that the log tells sessions that came to nothing, whose lines are bounded, from the others.
TEST(SessionEvents, tell_whose_they_are_and_whether_anything_was_done) {
  std::vector<Event> told;
  const OnEvent on_event = [&](const Event& event) { told.push_back(event); };
  SessionEvents empty(on_event, "mallory"), worked(on_event, "alice"), refused(on_event, "bob");
  empty.begin(1);
  empty.end();
  worked.begin(2);
  worked.pass(0.1, 1, 1);
  worked.fail(Error(Code::timeout, "session", "too late"), 2);
  refused.fail(Error(Code::malformed, "session", "garbage"), 0);
  ASSERT_EQ(told.size(), 6u);
  EXPECT_EQ(told[0].peer + told[1].peer + told[2].peer + told[4].peer + told[5].peer, "mallorymalloryalicealicebob");
  EXPECT_FALSE(told[1].worked);
  EXPECT_EQ(told[3].kind, Event::Kind::pass);
  EXPECT_TRUE(told[4].worked);
  EXPECT_EQ(told[4].kind, Event::Kind::session_ends);
  // What fails behind a session's end, its last words under way, is its connection's: no session ends twice.
  empty.fail(Error(Code::closed, "link", "gone"), 1);
  EXPECT_EQ(told.back().kind, Event::Kind::connection_failed);
  empty.end();
  EXPECT_EQ(told.size(), 7u);
}

TEST(Log, a_line_stays_a_line_and_json_stays_json) {
  testing::internal::CaptureStderr();
  Log text("helper", {"text", "info"}), json("helper", {"json", "info"});
  for (Log* log : {&text, &json}) {
    log->write(Log::Level::debug, "hidden", "not at this level");
    log->write(Log::Level::warn, "refused", "two\nlines \xff", {{"peer", "alice"}, {"seconds", 1.5}});
    log->set_level("error");
    log->write(Log::Level::warn, "hidden", "no longer at this level");
  }
  const std::string out = testing::internal::GetCapturedStderr();
  const std::size_t middle = out.find('\n');
  EXPECT_EQ(out.find(" warning helper: two\xef\xbf\xbdlines \xef\xbf\xbd (peer alice, seconds 1.5)\n"),
            std::string("2026-01-31T12:00:00.000Z").size())
      << out;
  const auto object = nlohmann::json::parse(out.substr(middle + 1));
  EXPECT_EQ(object.at("level"), "warning");
  EXPECT_EQ(object.at("party"), "helper");
  EXPECT_EQ(object.at("event"), "refused");
  EXPECT_EQ(object.at("peer"), "alice");
  EXPECT_EQ(object.at("seconds"), 1.5);
  EXPECT_TRUE(object.at("time").get<std::string>().ends_with("Z"));
}

TEST(LineBound, one_peer_leaves_room_for_others_and_the_next_minute_tells_what_was_left_out) {
  LineBound bound(10, 4);
  const auto now = Clock::now();
  const auto admitted = [&](const char* who, int times, Clock::time_point at) {
    int count = 0;
    for (int i = 0; i < times; ++i) count += bound.admit(who, at).has_value();
    return count;
  };
  EXPECT_EQ(admitted("mallory", 100, now), 4);
  EXPECT_EQ(admitted("alice", 3, now), 3);
  EXPECT_EQ(admitted("bob", 100, now), 3);  // 10 in all
  const auto later = now + std::chrono::minutes(1);
  EXPECT_EQ(bound.admit("alice", later), 96u + 97u);
  EXPECT_EQ(bound.admit("alice", later), 0u);
  // What is given back does not count: an honest peer is never left out.
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(bound.admit("carol", later));
    bound.give_back("carol");
  }
  bound.give_back("nobody");
  EXPECT_EQ(admitted("carol", 100, later), 4);
}

// Those that send their requests byte by byte, or not at all, keep nobody else from an answer.
TEST(Status, slow_connections_do_not_silence_it) {
  const StatusServer status(
      "127.0.0.1:0", [] { return ""; }, [] { return "metrics\n"; });
  const std::string head = "GET /healthz HTTP/1.1\r\nHost: x\r\nX: ";
  std::list<RawTcp> slow;
  for (int i = 0; i < 60; ++i) {
    RawTcp& one = slow.emplace_back(status.port());
    ASSERT_TRUE(one.connected());
    if (i % 2 == 0) one.write({reinterpret_cast<const std::uint8_t*>(head.data()), head.size()});
  }
  httplib::Client client("127.0.0.1", status.port());
  client.set_read_timeout(1);
  for (const auto& [path, body] :
       {std::pair{"/healthz", "alive\n"}, {"/readyz", "ready\n"}, {"/metrics", "metrics\n"}}) {
    const httplib::Result result = client.Get(path);
    ASSERT_TRUE(result) << path << ": " << httplib::to_string(result.error());
    EXPECT_EQ(result->body, body);
  }
}

TEST(Status, an_address_in_use_is_an_error) {
  const StatusServer status(
      "127.0.0.1:0", [] { return ""; }, [] { return ""; });
  const std::string address = "127.0.0.1:" + std::to_string(status.port());
  try {
    StatusServer(
        address, [] { return ""; }, [] { return ""; });
    ADD_FAILURE() << "two share " << address;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::resource);
    EXPECT_EQ(std::string(error.what()), "--status: " + address + ": nobody can listen there; does another program?");
  }
}

TEST(Status, listens_on_loopback_alone) {
  const auto error_of = [](const char* address) -> std::string {
    try {
      StatusServer(
          address, [] { return ""; }, [] { return ""; });
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::usage);
      return error.what();
    }
    return "no error";
  };
  EXPECT_NE(error_of("0.0.0.0:0").find("no loopback address"), std::string::npos);
  EXPECT_NE(error_of("localhost:0").find("no loopback address"), std::string::npos);
  EXPECT_NE(error_of("127.0.0.1:http").find("a port is a number"), std::string::npos);
  EXPECT_EQ(error_of("127.0.0.1:0"), "no error");
}

}  // namespace
}  // namespace permllm::test
