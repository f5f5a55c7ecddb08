// What a process keeps to itself, and what it counts of itself.
#include "service/process_limits.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <vector>

#include "base/mapped_file.h"
#include "service/signals.h"
#include "support/program.h"

namespace permllm::test {
namespace {

TEST(ProcessLimits, no_core_file_no_reader_of_memory_no_open_files) {
  const auto child = [] {
    const rlimit some{1 << 20, 1 << 20};
    setrlimit(RLIMIT_CORE, &some);
    prctl(PR_SET_DUMPABLE, 1);
    umask(022);
    keep_to_itself();
    rlimit core{};
    getrlimit(RLIMIT_CORE, &core);
    _exit((core.rlim_cur != 0 || core.rlim_max != 0 ? 1 : 0) + (prctl(PR_GET_DUMPABLE) != 0 ? 2 : 0) +
          (umask(0) != 077 ? 4 : 0));
  };
  EXPECT_EXIT(child(), testing::ExitedWithCode(0), "");
}

TEST(Signals, a_mapped_file_that_is_cut_short_is_told_by_a_thread_that_may_speak) {
  const Scratch scratch;
  const auto child = [&] {
    Signals signals([](int number) {
      std::fprintf(stderr, "signal %d", number);
      _exit(number == SIGBUS ? 3 : 4);
    });
    signals.watch_mapped_files();
    write_text(scratch / "file", std::string(100'000, 'x'));
    const MappedFile mapped(scratch / "file");
    std::filesystem::resize_file(scratch / "file", 10);
    _exit(mapped.bytes()[99'000] == 'x' ? 0 : 1);
  };
  EXPECT_EXIT(child(), testing::ExitedWithCode(3), "signal 7");
}

TEST(ProcessLimits, open_files_are_counted_and_their_limit_is_raised) {
  const std::size_t before = open_files();
  const int file = open("/dev/null", O_RDONLY);
  EXPECT_EQ(open_files(), before + 1);
  close(file);
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  const rlimit lower{64, files.rlim_max};
  setrlimit(RLIMIT_NOFILE, &lower);
  EXPECT_EQ(raise_file_limit(), files.rlim_max);
}

TEST(ProcessLimits, pages_of_a_mapped_file_go_when_they_are_let_go_and_come_back_as_they_were) {
  const Scratch scratch;
  constexpr std::size_t k_size = std::size_t{32} << 20;
  write_text(scratch / "file", std::string(k_size, 'x'));
  const MappedFile mapped(scratch / "file");
  const auto sum = [&] {
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < k_size; i += 512) bytes += mapped.bytes()[i];
    return bytes;
  };
  const std::size_t before = memory_in_use().resident;
  const std::size_t all = sum();
  EXPECT_GE(memory_in_use().resident, before + k_size / 2);
  let_go(mapped.bytes().subspan(100));  // the first page is not all of it
  EXPECT_LT(memory_in_use().resident, before + k_size / 4);
  EXPECT_EQ(sum(), all);
}

TEST(ProcessLimits, memory_of_its_own_counts_until_it_is_given_back) {
  const std::size_t before = memory_in_use().own, size = std::size_t{64} << 20;
  std::vector<char> memory(size, 1);
  EXPECT_GE(memory_in_use().own, before + size);
  EXPECT_TRUE(exceeds_memory(before + size / 2));
  EXPECT_FALSE(exceeds_memory(before + 2 * size));
  EXPECT_FALSE(exceeds_memory(0));
  memory = {};
  memory.shrink_to_fit();
  EXPECT_FALSE(exceeds_memory(before + size / 2));
}

}  // namespace
}  // namespace permllm::test
