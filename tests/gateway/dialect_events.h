// What tests of the gateway's interfaces share.
#pragma once

#include <gtest/gtest.h>

#include "gateway/dialect.h"

namespace permllm::gateway {

// The field and the code of the error that a body gives.
inline std::string field_refused(const Dialect& dialect, const Json& body) {
  try {
    dialect.read(body.dump());
  } catch (const Error& error) {
    return error.field() + (error.code() == Code::unsupported ? " unsupported" : "");
  }
  return "accepted";
}

// The data of events, each under the name that its type has; comments are none.
inline std::vector<Json> named_events(const std::string& bytes) {
  std::vector<Json> all;
  for (std::size_t from = 0, end = 0; (end = bytes.find("\n\n", from)) != std::string::npos; from = end + 2) {
    const std::string one = bytes.substr(from, end - from);
    if (one.starts_with(':')) continue;
    const std::size_t line = one.find('\n');
    EXPECT_TRUE(one.starts_with("event: ") && one.substr(line).starts_with("\ndata: ")) << one;
    all.push_back(Json::parse(one.substr(line + 7)));
    EXPECT_EQ(one.substr(7, line - 7), all.back()["type"]) << one;
  }
  return all;
}

}  // namespace permllm::gateway
