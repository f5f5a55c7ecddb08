// A user's programs on one folder, and a provider whose folder is put back: what is burnt stays burnt.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <optional>
#include <thread>

#include "session/ledger.h"
#include "support/processes.h"

namespace permllm::test {
namespace {

namespace fs = std::filesystem;

std::vector<ChainRecord> chains(const fs::path& folder) { return Ledger(folder / "ledger.sqlite").all(); }
// A asks; its session outlives the provider's --idle. The provider's folder is copied. B asks on the same folder, A ends, the copy is put back, and C asks. Each uses as many
// slots, and so many more are burnt then: less would mean that some were used twice. Once without the locks, as on a file system that keeps none.
TEST(SingleUse, a_program_that_ends_late_and_a_folder_that_is_put_back_take_no_mark_back) {
  for (const bool locks : {true, false}) {
    const Scratch scratch;
    const auto place = [&](const char* name) { return (scratch / name).string(); };
    make_keys(scratch.path());
    Process helping(
        {"helper", "--identity", place("helper"), "--events", "--log-level", "error", "--store", place("store")},
        PERMLLM_BINARY);
    const std::string helper_address = address_of(helping);
    std::string listen = "127.0.0.1:0";
    const auto serve = [&] {
      return Process({"provider",        "--identity",
                      place("provider"), "--events",
                      "--log-level",     "error",
                      "--helper",        helper_address,
                      "--state",         place("state"),
                      "--model",         std::string(PERMLLM_TINY_MODELS) + "/llama.gguf",
                      "--context",       "64",
                      "--patience",      "2",
                      "--idle",          "2",
                      "--drain",         "0",
                      "--listen",        listen},
                     PERMLLM_BINARY);
    };
    std::optional<Process> providing(serve());
    listen = address_of(*providing);
    const std::string invite = make_invite(scratch.path(), "alice", listen, helper_address);
    const std::vector<std::string> chat{"chat", "--invite",     invite, "--state", place("user"), "--chat-format",
                                        "none", "--max-tokens", "4",    "--ahead", "16",          "--json"};
    const auto ask = [&] {
      const Result r = permllm(chat, "echo \"Is it so?\" | ");
      return events(r.out).back();
    };
    const auto again = [&] {
      providing.emplace(serve());
      address_of(*providing);
    };

    ASSERT_EQ(mkfifo((scratch / "line").c_str(), 0600), 0);
    Result late;
    std::jthread a([&] { late = run(chat, "cat '" + place("line") + "' | "); });
    FILE* const line = fopen(place("line").c_str(), "w");  // waits for the reader
    fcntl(fileno(line), F_SETFD, FD_CLOEXEC);
    fputs("Is it so?\n", line);
    fflush(line);
    // The provider burns ahead, and gives back what was left at the end of the session, which nobody but its --idle brings about.
    const auto at_provider = [&]() -> std::pair<Marks, std::uint64_t> {
      if (!fs::exists(scratch / "state/stock/ledger.sqlite")) return {};
      Ledger ledger(scratch / "state/stock/ledger.sqlite");
      const auto all = ledger.all();
      return all.empty() ? std::pair<Marks, std::uint64_t>() : std::pair(all[0].burnt, ledger.used(all[0].peer).tokens);
    };
    for (int i = 0; i < 600 && at_provider().second != 4; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const auto [used, tokens] = at_provider();
    ASSERT_EQ(tokens, 4u);
    const std::uint64_t use = used[k_slot_kind];
    ASSERT_EQ(chains(scratch / "user").size(), 1u);
    const Marks ahead = chains(scratch / "user").at(0).burnt;  // A's program runs
    EXPECT_TRUE(within(used, ahead) && ahead != used);
    stop(*providing);
    providing.reset();
    fs::copy(scratch / "state", scratch / "copy", fs::copy_options::recursive);
    if (!locks) fs::remove(scratch / "user/ledger.sqlite.lock");
    again();
    const auto b = ask();
    fclose(line);
    a.join();
    EXPECT_EQ(events(late.out).back().at("output_ids"), b.at("output_ids"));
    const auto two = chains(scratch / "user");
    std::uint64_t of_two = 0;
    for (const ChainRecord& chain : two) of_two += chain.burnt[k_slot_kind];
    EXPECT_GE(of_two, 2 * use);
    stop(*providing);
    providing.reset();
    fs::remove_all(scratch / "state");
    fs::copy(scratch / "copy", scratch / "state", fs::copy_options::recursive);
    again();
    EXPECT_EQ(ask().at("output_ids"), b.at("output_ids"));
    std::uint64_t since = 0;
    for (const ChainRecord& chain : chains(scratch / "user")) {
      const auto before =
          std::find_if(two.begin(), two.end(), [&](const ChainRecord& r) { return r.chain == chain.chain; });
      since += chain.burnt[k_slot_kind] - (before == two.end() ? 0 : before->burnt[k_slot_kind]);
    }
    EXPECT_EQ(since, use) << "C began below what was used";
    // B's chain is A's only where no lock said that A has it.
    EXPECT_EQ(of_two == 2 * use, locks);
    stop(*providing);
  }
}

}  // namespace
}  // namespace permllm::test
