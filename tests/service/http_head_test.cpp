#include "service/http_head.h"

#include <gtest/gtest.h>

namespace permllm {
namespace {

std::string made(const std::string& head) { return http_head(head).text; }
int fault(const std::string& head) { return http_head(head).fault; }
// With one Host.
std::string get(const std::string& more) { return "GET / HTTP/1.1\r\nHost: a\r\n" + more + "\r\n"; }
std::string post(const std::string& more) { return "POST / HTTP/1.1\r\nHost: a\r\n" + more + "\r\n"; }

TEST(HttpHead, keeps_what_is_right_as_it_is) {
  EXPECT_EQ(made("GET /a?b=c HTTP/1.1\r\nHost: a:1\r\nX-Y:  z \r\n\r\n"),
            "GET /a?b=c HTTP/1.1\r\nHost: a:1\r\nX-Y: z\r\n\r\n");
  EXPECT_EQ(made("\r\nGET / HTTP/1.0\nHost: a\n\n"), "GET / HTTP/1.0\r\nHost: a\r\n\r\n");
  EXPECT_EQ(made("GET / HTTP/1.9\r\nHost: a\r\n\r\n"), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_EQ(made("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
            "OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
}

TEST(HttpHead, leaves_out_what_a_server_may_ignore) {
  EXPECT_EQ(made(get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nRange: bytes=0-1\r\nIf-Range: \"x\"\r\n")),
            get("Connection: Upgrade, HTTP2-Settings\r\n"));
  EXPECT_EQ(made(get("Expect: 100-Continue\r\n")), get("Expect: 100-continue\r\n"));
  EXPECT_EQ(made("GET / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\n\r\n"), "GET / HTTP/1.0\r\nHost: a\r\n\r\n");
}

TEST(HttpHead, an_absolute_target_says_the_host) {
  EXPECT_EQ(made("GET http://b:2/x?y HTTP/1.1\r\nHost: a\r\n\r\n"), "GET /x?y HTTP/1.1\r\nHost: b:2\r\n\r\n");
  EXPECT_EQ(made("GET HTTP://b HTTP/1.1\r\nHost: a\r\n\r\n"), "GET / HTTP/1.1\r\nHost: b\r\n\r\n");
  EXPECT_EQ(made("GET http://b?x HTTP/1.1\r\nHost: a\r\n\r\n"), "GET /?x HTTP/1.1\r\nHost: b\r\n\r\n");
  for (const char* target : {"http:///x", "http://u@b/", "ftp://b/", "x", "http://b c/"})
    EXPECT_EQ(fault(std::string("GET ") + target + " HTTP/1.1\r\nHost: a\r\n\r\n"), 400) << target;
}

TEST(HttpHead, a_body_has_one_length) {
  EXPECT_EQ(made(post("")), "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
  EXPECT_EQ(made(post("Content-Length: 5\r\nContent-Length: 5\r\n")),
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
  EXPECT_TRUE(http_head(post("Transfer-Encoding: Chunked\r\n")).chunked);
  for (const char* more :
       {"Content-Length: 5\r\nContent-Length: 6\r\n", "Content-Length: 5, 6\r\n", "Content-Length: -1\r\n",
        "Content-Length: +1\r\n", "Content-Length:\r\n", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"})
    EXPECT_EQ(fault(post(more)), 400) << more;
  for (const char* more :
       {"Transfer-Encoding: gzip, chunked\r\n", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"})
    EXPECT_EQ(fault(post(more)), 501) << more;
  EXPECT_EQ(fault("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
}

TEST(HttpHead, refuses_what_is_no_request) {
  for (const char* head :
       {"nonsense\r\n\r\n", "GET /\r\n\r\n", "GET / HTTQ/1.1\r\nHost: a\r\n\r\n", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "G@T / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n\r\n", "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "GET / HTTP/1.1\r\nHost : a\r\n\r\n"})
    EXPECT_EQ(fault(head), 400) << head;
  for (const char* more : {" goes on\r\n", "X\r\n", ": x\r\n", "X: a\rb\r\n", "X Y: z\r\n"})
    EXPECT_EQ(fault(get(more)), 400) << more;
  EXPECT_EQ(fault(get(std::string("X: a\0b\r\n", 8))), 400);
  EXPECT_EQ(fault("FOO / HTTP/1.1\r\nHost: a\r\n\r\n"), 501);
  EXPECT_EQ(fault("get / HTTP/1.1\r\nHost: a\r\n\r\n"), 501);
  EXPECT_EQ(fault("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), 505);
  EXPECT_EQ(made("HEAD / HTTP/1.1\r\n\r\n"), "HEAD /refused HTTP/1.1\r\n\r\n");
}

TEST(ChunkTrailer, passes_all_but_the_fields_behind_the_last_chunk) {
  const std::string body = "5;x=y\r\nab\r\nc\r\nA\r\n0123456789\r\n0\r\n", end = "\r\n";
  for (std::size_t cut = 0; cut <= body.size(); ++cut) {
    for (const char* fields : {"", "X: 1\r\nY: 2\r\n"}) {
      ChunkTrailer trailer;
      std::string passed = trailer.pass(body.substr(0, cut));
      passed += trailer.pass(body.substr(cut) + fields + end);
      EXPECT_EQ(passed, body + end) << cut;
      EXPECT_TRUE(trailer.ended());
    }
  }
  ChunkTrailer wrong;
  EXPECT_EQ(wrong.pass("zz\r\nabc"), "zz\r\nabc");
}

}  // namespace
}  // namespace permllm
