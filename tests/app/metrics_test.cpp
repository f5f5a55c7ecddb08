// What events add up to, and what logs make of them.
#include "app/metrics.h"

#include <gtest/gtest.h>

#include "app/log.h"
#include "app/status.h"

namespace permllm::test {
namespace {

TEST(Metrics, count_sessions_by_how_they_ended) {
  Metrics metrics(Role::provider);
  const OnEvent on_event = [&](const Event& event) { metrics.count(event); };
  SessionEvents ended(on_event), failed(on_event), refused(on_event), joined(on_event), left(on_event), open(on_event);
  ended.begin(1);
  ended.end();
  failed.begin(2);
  failed.fail("too late", Code::timeout, 2);
  refused.fail("another plan", Code::mismatch, 0);
  joined.fail("the second connection of session 2", Code::closed, 2);
  left.fail("left before it began", Code::closed, 0);
  open.begin(3);
  on_event(pass_event(1, 0.3));
  on_event(pass_event(1, 3));
  on_event(material_event(1, Role::user, 100));
  on_event(material_event(1, Role::helper, 1000));
  on_event(material_event(1, Role::helper, 10));
  EXPECT_EQ(metrics.text().find("permllm_disk_free_bytes "), std::string::npos);  // of no disk nothing is told
  metrics.set_source([] { return Metrics::Now{2, 5, true, false, 1000, 2000}; });
  const std::string text = metrics.text();
  for (const char* line : {
           "permllm_sessions_open 1\n", "permllm_sessions_begun_total 3\n", "permllm_sessions_ended_total{code=\"none\",outcome=\"ended\"} 1\n",
           "permllm_sessions_ended_total{code=\"timeout\",outcome=\"failed\"} 1\n", "permllm_sessions_ended_total{code=\"mismatch\",outcome=\"refused\"} 1\n",
           "permllm_pass_seconds_count 2\n", "permllm_pass_seconds_sum 3.3\n", "permllm_pass_seconds_bucket{le=\"0.5\"} 1\n",
           "permllm_offline_bytes_total{from=\"user\"} 100\n", "permllm_offline_bytes_total{from=\"helper\"} 1010\n", "permllm_ready 1\n",
           "permllm_stock_bytes 1000\n", "permllm_disk_free_bytes 2000\n", "permllm_connections{stage=\"handshake\"} 2\n", "permllm_connections{stage=\"served\"} 5\n"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
  }
  EXPECT_EQ(text.find("code=\"closed\""), std::string::npos) << text;
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
  EXPECT_EQ(out.find(" warning helper: two?lines \xff (peer alice, seconds 1.5)\n"), std::string("2026-01-31T12:00:00.000Z").size()) << out;
  const auto object = nlohmann::json::parse(out.substr(middle + 1));
  EXPECT_EQ(object.at("level"), "warning");
  EXPECT_EQ(object.at("party"), "helper");
  EXPECT_EQ(object.at("event"), "refused");
  EXPECT_EQ(object.at("peer"), "alice");
  EXPECT_EQ(object.at("seconds"), 1.5);
  EXPECT_TRUE(object.at("time").get<std::string>().ends_with("Z"));
}

TEST(Status, listens_on_loopback_alone) {
  const auto error_of = [](const char* address) -> std::string {
    try {
      StatusServer(address, [] { return ""; }, [] { return ""; });
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::usage);
      return error.what();
    }
    return "no error";
  };
  EXPECT_NE(error_of("0.0.0.0:0").find("no loopback address"), std::string::npos);
  EXPECT_NE(error_of("localhost:0").find("no loopback address"), std::string::npos);
  EXPECT_NE(error_of("127.0.0.1:http").find("no port"), std::string::npos);
  EXPECT_EQ(error_of("127.0.0.1:0"), "no error");
}

}  // namespace
}  // namespace permllm::test
