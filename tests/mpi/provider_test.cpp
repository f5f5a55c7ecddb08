// A provider over several machines, started by mpirun: what it sends is what one process sends; a machine that does not answer ends its sessions.
#include <dirent.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "support/processes.h"
#include "support/tcp.h"

namespace permllm::test {
namespace {

// The launcher takes it from its environment: root, as tests run in containers, and more processes than cores.
void let_mpirun() {
  for (const char* name :
       {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe"})
    setenv(name, "1", 1);
}

class Parties {
 public:
  Parties() {
    let_mpirun();
    make_keys(scratch_.path());
  }
  std::string path(const std::string& name) const { return (scratch_ / name).string(); }
  Process helper(const std::string& store, const std::string& listen = "127.0.0.1:0") const {
    return Process({"helper", "--identity", path("helper"), "--events", "--log-level", "error", "--store", path(store),
                    "--listen", listen},
                   PERMLLM_BINARY);
  }
  // machines 1: one process of the program that knows no MPI.
  Process provider(int machines, const std::string& helper_address, const std::string& model, const std::string& listen,
                   const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments{
        "provider", "--identity", path("provider"), "--events", "--log-level", "error", "--helper", helper_address,
        "--model",  model,        "--context",      "64",       "--listen",    listen,  "--state",  path("state")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    if (machines == 1) return Process(arguments, PERMLLM_BINARY);
    arguments.insert(arguments.begin(), {"-n", std::to_string(machines), PERMLLM_MPI_BINARY});
    return Process(arguments, PERMLLM_MPIRUN);
  }
  Result ask(const std::string& user, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments{"chat",
                                       "--invite",
                                       path(user + ".invite"),
                                       "--state",
                                       path(user),
                                       "--chat-format",
                                       "none",
                                       "--max-tokens",
                                       "6",
                                       "--ahead",
                                       "8",
                                       "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments, "echo \"Is it so?\" | ");
  }
  const std::filesystem::path& folder() const { return scratch_.path(); }

 private:
  Scratch scratch_;
};

// The children of mpirun, in the order in which it has started them: that of the machines.
std::vector<pid_t> machines_of(const Process& launcher) {
  std::istringstream children(
      read_text("/proc/" + std::to_string(launcher.pid()) + "/task/" + std::to_string(launcher.pid()) + "/children"));
  std::vector<pid_t> pids;
  for (pid_t pid; children >> pid;) pids.push_back(pid);
  std::sort(pids.begin(), pids.end());
  return pids;
}
// The first machine ends in peace, and the others with it.
void stop_machines(Process& launcher) {
  const std::vector<pid_t> machines = machines_of(launcher);
  ASSERT_FALSE(machines.empty());
  kill(machines[0], SIGTERM);
  EXPECT_EQ(launcher.wait(), 0);
}

// The file of that ending, which a folder has one of: its name and its bytes.
std::pair<std::string, std::string> only_file(const std::filesystem::path& folder, const std::string& ending = "") {
  std::pair<std::string, std::string> found;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    if (file.path().extension() != ending) continue;
    EXPECT_TRUE(found.first.empty()) << "two files in " << folder;
    found = {file.path().filename().string(), read_text(file.path())};
  }
  EXPECT_FALSE(found.first.empty()) << folder;
  return found;
}

// With the folder of the provider's state its U is the same, so that V has to be, too: of one machine or of several. So have the answers, and what
// they cost; and a user goes on with the stock that was made for another number of machines.
void compare(const std::string& model, const std::vector<int>& machines) {
  const Parties parties;
  std::pair<std::string, std::string> record, stored;
  nlohmann::json want;
  std::uint16_t port = 0, helper_port = 0;
  std::vector<int> counts{1};
  counts.insert(counts.end(), machines.begin(), machines.end());
  for (const int count : counts) {
    const std::string store = "store" + std::to_string(count);
    Process helping = parties.helper(store, at(helper_port));
    helper_port = port_of(helping);
    Process providing = parties.provider(count, at(helper_port), model, at(port));
    port = port_of(providing);
    // A user of its own, whose chain begins; and one who goes on with a chain and the stock of another number of machines.
    const std::string user = "user" + std::to_string(count);
    make_invite(parties.folder(), user, at(port), at(helper_port));
    if (count == 1) make_invite(parties.folder(), "alice", at(port), at(helper_port));
    const Result answered = parties.ask(user), going_on = parties.ask("alice");
    ASSERT_EQ(answered.status, 0) << answered.error;
    ASSERT_EQ(going_on.status, 0) << going_on.error;
    const auto done = events(answered.out).back();
    if (count == 1) {
      want = done;
      record = only_file(parties.path("state") + "/models");
      stored = only_file(parties.path(store), ".model");
    }
    EXPECT_EQ(done.at("output_ids"), want.at("output_ids")) << count;
    EXPECT_EQ(done.at("text"), want.at("text")) << count;
    EXPECT_EQ(events(going_on.out).back().at("output_ids"), want.at("output_ids")) << count;
    for (const char* direction : {"sent", "received"})
      EXPECT_EQ(done.at("bytes").at("online").at(direction), want.at("bytes").at("online").at(direction)) << count;
    EXPECT_EQ(only_file(parties.path("state") + "/models").first, record.first) << "other integers, or another plan";
    EXPECT_TRUE(only_file(parties.path("state") + "/models").second == record.second) << "another V was sent";
    EXPECT_TRUE(only_file(parties.path(store), ".model") == stored) << "another V was stored";
    count == 1 ? stop(providing) : stop_machines(providing);
    stop(helping);
  }
}

TEST(Machines, two_send_what_one_sends) { compare(std::string(PERMLLM_TINY_MODELS) + "/llama.gguf", {2}); }
TEST(Machines, three_send_what_one_sends) { compare(std::string(PERMLLM_TINY_MODELS) + "/qwen2.gguf", {3}); }

TEST(Machines, a_program_without_mpi_says_so) {
  const Parties parties;
  Process providing({"-n", "2", PERMLLM_BINARY, "provider", "--identity", parties.path("provider"), "--helper",
                     "127.0.0.1:1", "--model", PERMLLM_TEST_MODEL},
                    PERMLLM_MPIRUN);
  EXPECT_EQ(providing.wait(), 2);
}

// One of another architecture, and one of the same shape with other numbers, as a fine-tune has them.
TEST(Machines, another_file_on_one_of_them_is_refused) {
  const std::string tiny = PERMLLM_TINY_MODELS, llama = tiny + "/llama.gguf";
  std::string tuned = read_text(llama);
  for (std::size_t i = tuned.size() / 2; i < tuned.size(); ++i) tuned[i] = static_cast<char>(tuned[i] ^ 1);
  for (const bool of_one_shape : {false, true}) {
    const Parties parties;
    std::ofstream(parties.path("tuned.gguf"), std::ios::binary) << tuned;
    const std::string other = of_one_shape ? parties.path("tuned.gguf") : tiny + "/qwen2.gguf";
    const std::string script = "exec " PERMLLM_MPI_BINARY " provider --identity " + parties.path("provider") +
                               " --helper 127.0.0.1:1 --context 64 --model $([ $OMPI_COMM_WORLD_RANK = 0 ] && echo " +
                               llama + " || echo " + other + ") 2>" + parties.path("error$OMPI_COMM_WORLD_RANK");
    Process providing({"-n", "2", "/bin/sh", "-c", script}, PERMLLM_MPIRUN);
    EXPECT_NE(providing.wait(), 0);
    // Who ends first ends the other.
    const std::string said = read_text(parties.path("error0")) + read_text(parties.path("error1"));
    EXPECT_NE(said.find("the same model file"), std::string::npos) << said;
  }
}

TEST(Machines, one_that_hangs_ends_sessions_with_a_reason_and_the_provider_with_a_status_of_its_own) {
  const Parties parties;
  const std::string model = std::string(PERMLLM_TINY_MODELS) + "/llama.gguf";
  Process helping = parties.helper("store");
  const std::uint16_t helper_port = port_of(helping);
  const auto serve = [&](std::uint16_t port) {
    return parties.provider(2, at(helper_port), model, at(port), {"--patience", "3"});
  };
  Process providing = serve(0);
  const std::uint16_t port = port_of(providing);
  make_invite(parties.folder(), "alice", at(port), at(helper_port));
  const Result before = parties.ask("alice");
  ASSERT_EQ(before.status, 0) << before.error;
  const std::vector<pid_t> machines = machines_of(providing);
  ASSERT_EQ(machines.size(), 2u);
  kill(machines[1], SIGSTOP);
  const Result ended = parties.ask("alice", {"--grace", "0"});
  EXPECT_EQ(ended.status, 1);
  EXPECT_NE(ended.error.find("machine 1 of the provider has not answered for 3 s"), std::string::npos) << ended.error;
  EXPECT_EQ(providing.wait(), 75);

  // Started again, as by systemd, it goes on with what it keeps.
  Process again = serve(port);
  port_of(again);
  const Result after = parties.ask("alice");
  ASSERT_EQ(after.status, 0) << after.error;
  EXPECT_EQ(events(after.out).back().at("output_ids"), events(before.out).back().at("output_ids"));
  stop_machines(again);
}

TEST(Machines, one_that_dies_takes_the_others_along) {
  const Parties parties;
  const std::string model = std::string(PERMLLM_TINY_MODELS) + "/llama.gguf";
  Process helping = parties.helper("store");
  Process providing = parties.provider(2, at(port_of(helping)), model, "127.0.0.1:0");
  const std::uint16_t port = port_of(providing);
  const std::vector<pid_t> machines = machines_of(providing);
  ASSERT_EQ(machines.size(), 2u);
  kill(machines[1], SIGKILL);
  EXPECT_NE(providing.wait(), 0);
  EXPECT_FALSE(RawTcp(port).connected());
}

}  // namespace
}  // namespace permllm::test
