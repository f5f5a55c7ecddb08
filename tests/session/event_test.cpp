// What a service tells of a session's end.
#include "session/event.h"

#include <gtest/gtest.h>

#include <vector>

namespace permllm {
namespace {

TEST(SessionEvents, a_failure_has_its_code_and_reason) {
  std::vector<Event> told;
  const OnEvent note = [&](const Event& event) { told.push_back(event); };
  const Error why(Code::resource, Reason::session_ended, "session", "was idle");
  SessionEvents connection(note, "alice");
  connection.fail(why, 0);
  SessionEvents session(note, "alice");
  session.begin(7);
  session.fail(why, 7);
  ASSERT_EQ(told.size(), 3u);
  EXPECT_EQ(told[0].kind, Event::Kind::connection_failed);
  EXPECT_EQ(told[2].kind, Event::Kind::session_ends);
  for (const Event& event : {told[0], told[2]}) {
    EXPECT_EQ(event.error, Code::resource);
    EXPECT_EQ(event.reason, Reason::session_ended);
    EXPECT_TRUE(event.text.ends_with("session: was idle")) << event.text;
  }
  SessionEvents at_peace(note, "alice");
  at_peace.begin(8);
  at_peace.end();
  EXPECT_FALSE(told.back().error);
  EXPECT_EQ(told.back().reason, Reason::none);
}

}  // namespace
}  // namespace permllm
