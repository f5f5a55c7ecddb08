// What a process keeps to itself, and what it counts of itself.
#include "app/process_limits.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vector>

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
    _exit((core.rlim_cur != 0 || core.rlim_max != 0 ? 1 : 0) + (prctl(PR_GET_DUMPABLE) != 0 ? 2 : 0) + (umask(0) != 077 ? 4 : 0));
  };
  EXPECT_EXIT(child(), testing::ExitedWithCode(0), "");
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
