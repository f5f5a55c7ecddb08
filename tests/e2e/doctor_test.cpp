// permllm doctor beside the services themselves: what it says of them while they run, and once one is gone.
#include <gtest/gtest.h>

#include "support/processes.h"

namespace permllm::test {
namespace {

TEST(DoctorCommand, tells_of_services_that_run_and_of_those_that_do_not) {
  const Scratch scratch;
  const std::string provider = (scratch / "provider").string(), helper = (scratch / "helper").string();
  make_keys(scratch.path());
  auto helping = std::make_unique<Process>(
      std::vector<std::string>{"helper", "--identity", helper, "--store", (scratch / "store").string(), "--events"},
      PERMLLM_BINARY);
  const std::string helper_address = address_of(*helping);
  // One file of settings for the service and its doctor, with more in it than the doctor needs.
  const auto config = scratch / "permllm.toml";
  write_text(config, "[chat]\nmax-tokens = 3\n[helper]\nidentity = \"" + helper + "\"\nstore = \"" +
                         (scratch / "store").string() + "\"\nlisten = \"" + helper_address +
                         "\"\n[provider]\nidentity = \"" + provider +
                         "\"\nmodel = \"" PERMLLM_TINY_MODELS "/llama.gguf\"\ncontext = 40\nstate = \"" +
                         (scratch / "state").string() + "\"\nhelper = \"" + helper_address + "\"\n");
  Process providing({"provider", "--config", config.string(), "--events"}, PERMLLM_BINARY);
  const std::string provider_address = address_of(providing);
  const std::string invite = make_invite(scratch.path(), "alice", provider_address, helper_address, 12);

  using Lines = std::vector<nlohmann::json>;
  const auto doctor = [&](std::vector<std::string> arguments, int status) {
    arguments.insert(arguments.begin(), "doctor");
    arguments.push_back("--json");
    const Result r = run(arguments);
    EXPECT_EQ(r.status, status) << r.out << r.error;
    return events(r.out);
  };
  const auto expect = [](const Lines& lines, const std::string& state, const std::string& link,
                         const std::string& check, const std::string& text) {
    for (const auto& line : lines) {
      if (line.at("link") == link && line.at("check") == check && line.at("state") == state &&
          line.at("text").get<std::string>().find(text) != std::string::npos)
        return;
    }
    ADD_FAILURE() << state << " " << link << " " << check << " " << text << "\n" << nlohmann::json(lines).dump(1);
  };
  const std::vector<std::string> user{"--invite", invite};
  const Lines all = doctor(user, 0);
  for (const auto& line : all) EXPECT_EQ(line.at("state"), "ok") << line;
  expect(all, "ok", "user-provider", "model", "profile paper, context 40");
  expect(all, "ok", "user-helper", "model", "the helper holds the provider's");
  expect(all, "ok", "provider-helper", "link", "in order");
  expect(all, "ok", "user-provider", "estimate", "s a token");
  const Lines of_provider = doctor({"provider", "--config", config.string()}, 0);
  expect(of_provider, "ok", "provider-helper", "model", "the helper holds");
  expect(of_provider, "ok", "here", "state", "1 models on record");
  const Lines of_helper = doctor({"helper", "--config", config.string()}, 0);
  expect(of_helper, "ok", "here", "model", "complete");
  expect(of_helper, "ok", "here", "listen", "is taken");

  helping.reset();
  const Lines down = doctor(user, 1);
  expect(down, "wrong", "user-helper", "port", "refused: nobody listens");
  expect(down, "ok", "user-provider", "speed", "");
  expect(doctor({"provider", "--config", config.string()}, 1), "wrong", "provider-helper", "port",
         "refused: nobody listens");
  expect(doctor({"helper", "--config", config.string()}, 0), "warning", "here", "listen", "nobody listens");
  permllm({"invite", "--revoke", "alice", "--identity", provider});
  expect(doctor(user, 1), "wrong", "user-provider", "own key", "its invite is revoked");
  // A helper that was started anew without its store.
  Process emptied({"helper", "--identity", helper, "--listen", helper_address, "--events"}, PERMLLM_BINARY);
  emptied.wait_for("ready");
  expect(doctor({"provider", "--config", config.string()}, 1), "wrong", "provider-helper", "model",
         "the helper does not hold");
  EXPECT_EQ(run({"doctor"}).status, 2);
}

}  // namespace
}  // namespace permllm::test
