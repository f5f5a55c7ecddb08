#include "base/temporary_directory.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <string>

namespace permllm {
namespace {

namespace fs = std::filesystem;

// Another process with a folder in `where`, until it is killed.
class Other {
 public:
  explicit Other(const fs::path& where) {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    pid_ = fork();
    if (pid_ == 0) {
      const TemporaryDirectory folder(where);
      std::ofstream(folder.path() / "file") << "text";
      const std::string name = folder.path().string();
      if (write(ends[1], name.data(), name.size()) != static_cast<ssize_t>(name.size())) _exit(1);
      pause();
      _exit(0);
    }
    close(ends[1]);
    char name[4096];
    const ssize_t size = read(ends[0], name, sizeof name);
    close(ends[0]);
    path_ = std::string(name, size > 0 ? static_cast<std::size_t>(size) : 0);
  }
  ~Other() { kill(); }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  const fs::path& path() const { return path_; }

 private:
  pid_t pid_ = -1;
  fs::path path_;
};

TEST(TemporaryDirectory, goes_with_its_owner) {
  fs::path path;
  {
    const TemporaryDirectory folder;
    path = folder.path();
    EXPECT_EQ(fs::status(path).permissions(), fs::perms::owner_all);
    std::ofstream(path / "file") << "text";
  }
  EXPECT_FALSE(fs::exists(path));
}

TEST(TemporaryDirectory, of_a_process_that_was_killed_goes_when_the_next_is_made_and_no_other_does) {
  const TemporaryDirectory where;
  Other killed(where.path()), alive(where.path());
  fs::create_directory(where.path() / "permllm-identity");  // a person's own
  killed.kill();
  ASSERT_TRUE(fs::exists(killed.path() / "file"));
  const TemporaryDirectory next(where.path());
  EXPECT_FALSE(fs::exists(killed.path()));
  EXPECT_TRUE(fs::exists(alive.path() / "file"));
  EXPECT_TRUE(fs::exists(where.path() / "permllm-identity"));
  EXPECT_NE(next.path(), alive.path());
}

}  // namespace
}  // namespace permllm
