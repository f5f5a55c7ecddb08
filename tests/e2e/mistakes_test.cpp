// What a person mistypes: numbers, ports, names of commands, flags and variables.
#include <gtest/gtest.h>

#include <regex>

#include "support/processes.h"

namespace permllm::test {
namespace {

// In a minute: a service that takes what it should refuse would run on.
void expect_refused(const std::vector<std::string>& arguments, const std::string& why,
                    const std::string& before = "timeout 60 ") {
  const Result result = run(arguments, before);
  EXPECT_EQ(result.status, 2) << arguments[0];
  EXPECT_NE(result.error.find(why), std::string::npos) << result.error;
}

// Of every command, found in its help: none takes a number below 0 for one above, nor one too large for another.
TEST(Mistakes, no_number_from_0_takes_another) {
  const std::regex option("--([a-z-]+)[^\\n]* UINT");
  std::size_t options = 0;
  for (const std::string command :
       {"demo", "bench", "generate", "inspect", "plan", "provider", "helper", "invite", "chat", "serve", "stock"}) {
    const std::string help = permllm({command, "--help"}).out;
    for (std::sregex_iterator at(help.begin(), help.end(), option), end; at != end; ++at, ++options) {
      const std::string flag = "--" + (*at)[1].str();
      expect_refused({command, flag, "-1"}, flag + ": -1 is no number from 0");
      expect_refused({command, flag + "=18446744073709551616"}, "is larger than any number here");
    }
  }
  EXPECT_GT(options, 40u);
  expect_refused({"helper", "--max-memory", "-1GB"}, "-1GB is no number from 0");
  expect_refused({"helper"}, "--drain: -1 is no number from 0", "PERMLLM_HELPER_DRAIN=-1 ");
}

TEST(Mistakes, a_port_is_a_number_up_to_65535) {
  const Scratch scratch;
  make_keys(scratch.path());
  const std::string provider = (scratch / "provider").string(), helper = (scratch / "helper").string();
  for (const std::string port : {"65536", "99999999999", "-1", "http", "70o2"}) {
    const std::string address = "127.0.0.1:" + port;
    expect_refused({"helper", "--identity", helper, "--listen", address}, "a port is a number up to 65535");
    expect_refused({"helper", "--identity", helper, "--status", address}, "a port is a number up to 65535");
    expect_refused({"provider", "--identity", provider, "--model", "no-such-file", "--helper", address},
                   "--helper: \"" + address + "\": a port is a number up to 65535");
    expect_refused({"invite", "alice", "--identity", provider, "--provider-address", address, "--helper-address",
                    "localhost:7001", "--tokens", "5"},
                   "--provider-address: \"" + address + "\": a port");
  }
}

TEST(Mistakes, the_nearest_command_flag_and_variable_are_named) {
  expect_refused({"provdier", "--model", "x"}, "provdier is not known; did you mean provider?");
  expect_refused({"provider", "--modle", "x"}, "--modle is not known; did you mean --model?");
  expect_refused({"chat", "--invite=x", "--max_tokens=5"}, "--max_tokens is not known; did you mean --max-tokens?");
  expect_refused({"doctor", "helpr"}, "helpr is not known; did you mean helper?");
  const Result far = run({"chat", "--xyzzy"});
  EXPECT_EQ(far.status, 2);
  EXPECT_EQ(far.error.find("did you mean"), std::string::npos) << far.error;

  const Result told = run({"helper", "--identity", "x", "--print-config"},
                          "PERMLLM_HELPER_LISTN=x PERMLLM_HELPER_DRAIN=7 PERMLLM_XYZZY=1 ");
  EXPECT_EQ(told.status, 0);
  EXPECT_NE(told.out.find("drain = 7"), std::string::npos) << told.out;
  EXPECT_NE(told.error.find("PERMLLM_HELPER_LISTN is no setting; the nearest is PERMLLM_HELPER_LISTEN"),
            std::string::npos)
      << told.error;
  EXPECT_NE(told.error.find("PERMLLM_XYZZY is no setting\n"), std::string::npos) << told.error;
  EXPECT_EQ(told.error.find("PERMLLM_HELPER_DRAIN"), std::string::npos) << told.error;
}

}  // namespace
}  // namespace permllm::test
