// The sandbox from inside: what a program needs works on, what a way out would need does not. Each attempt is made outside, too, where it
// succeeds: it is the sandbox that stops it.
#include "service/sandbox.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/netlink.h>
#include <netdb.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <functional>
#include <locale>
#include <thread>

#include "base/small_file.h"
#include "net/tls.h"
#include "service/process_limits.h"
#include "session/ledger.h"
#include "support/parties.h"
#include "support/program.h"

namespace permllm::test {
namespace {

using Act = std::function<int()>;  // 0, or an errno

int outcome(long result) { return result < 0 ? errno : 0; }

// What became of it in a process of its own: its result, or minus the signal that ended it.
int in_child(const Act& act, const Sandbox* sandbox) {
  const pid_t child = fork();
  if (child == 0) {
    try {
      if (sandbox != nullptr) enter_sandbox(*sandbox);
      _exit(act());
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
      _exit(200);
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

class SandboxTest : public testing::Test {
 protected:
  SandboxTest() {
    for (const char* folder : {"state", "home"}) std::filesystem::create_directory(scratch_ / folder);
    write_text(scratch_ / "invite", "an invite");
    write_text(scratch_ / "state/own", "own");
    write_text(scratch_ / "home/letter", "a letter");
    std::filesystem::create_symlink(scratch_ / "home", scratch_ / "state/link");
  }
  std::string path(const std::string& name) const { return (scratch_ / name).string(); }
  Sandbox sandbox() const { return {{scratch_ / "invite", scratch_ / "missing"}, {scratch_ / "state"}}; }
  int inside(const Act& act) const {
    const Sandbox own = sandbox();
    return in_child(act, &own);
  }
  void expect(int wanted, const Act& act, const char* what) const {
    EXPECT_EQ(in_child(act, nullptr), 0) << what << ": fails without the sandbox, too";
    EXPECT_EQ(inside(act), wanted) << what;
  }
  Act opening(const std::string& name, int flags) const {
    return [file = path(name), flags] { return outcome(open(file.c_str(), flags, 0600)); };
  }

  Scratch scratch_;
};

TEST_F(SandboxTest, other_files_are_closed) {
  if (sandbox_support().landlock == 0) GTEST_SKIP() << "landlock is not in this kernel";
  EXPECT_EQ(inside(opening("invite", O_RDONLY)), 0);
  EXPECT_EQ(inside(opening("state/own", O_RDWR | O_TRUNC)), 0);
  EXPECT_EQ(inside(opening("state/new", O_RDWR | O_CREAT)), 0);
  EXPECT_EQ(inside([&] { return outcome(rename(path("state/new").c_str(), path("state/newer").c_str())); }), 0);
  EXPECT_EQ(inside([&] { return outcome(unlink(path("state/newer").c_str())); }), 0);
  expect(EACCES, opening("home/letter", O_RDONLY), "reads");
  expect(EACCES, opening("home/letter", O_WRONLY), "writes");
  expect(EACCES, opening("home", O_RDONLY | O_DIRECTORY), "lists");
  expect(
      EACCES,
      [&] {
        const int result = opening("home/new", O_WRONLY | O_CREAT)();
        unlink(path("home/new").c_str());
        return result;
      },
      "makes");
  expect(EACCES, opening("state/link/letter", O_RDONLY), "reads by a link");
  expect(EACCES, opening("invite", O_WRONLY), "writes what may be read");
  expect(
      EACCES, [] { return outcome(open(("/proc/" + std::to_string(getppid()) + "/status").c_str(), O_RDONLY)); },
      "reads another process");
  expect(
      EACCES,
      [&] {
        const int result = outcome(mkdir(path("home/folder").c_str(), 0700));
        rmdir(path("home/folder").c_str());
        return result;
      },
      "makes a folder");
  if (sandbox_support().landlock >= 3)
    expect(
        EACCES, [&] { return outcome(truncate(path("home/letter").c_str(), 0)); }, "cuts");
  // A thread that comes later is bound, too.
  expect(
      EACCES,
      [&] {
        int result = 0;
        std::thread([&] { result = opening("home/letter", O_RDONLY)(); }).join();
        return result;
      },
      "reads in a thread");
  EXPECT_EQ(inside([&] { return outcome(unlink(path("home/letter").c_str())); }), EACCES);
}

TEST_F(SandboxTest, calls_that_lead_out_end_the_process) {
  if (!sandbox_support().seccomp) GTEST_SKIP() << "seccomp: not here";
  const auto call = [](auto... arguments) {
    return [=] { return outcome(syscall(arguments...)) == ENOSYS ? ENOSYS : 0; };
  };  // made, whatever came of it
  expect(
      -SIGSYS,
      [] {
        char* const none[] = {nullptr};
        return outcome(execve("/bin/true", none, none));
      },
      "execve");
  expect(
      -SIGSYS, [] { return outcome(ptrace(PTRACE_TRACEME)); }, "ptrace");
  expect(
      -SIGSYS,
      [] {
        int from = 7, to = 0;
        const iovec local{&to, sizeof to}, remote{&from, sizeof from};
        return outcome(process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
      },
      "process_vm_readv");
  expect(
      -SIGSYS, [] { return outcome(setuid(getuid())); }, "setuid");
  expect(
      -SIGSYS, [] { return outcome(unshare(CLONE_FS)); }, "unshare");
  for (const long number :
       {SYS_bpf, SYS_keyctl, SYS_io_uring_setup, SYS_userfaultfd, SYS_mount, SYS_init_module, SYS_perf_event_open}) {
    EXPECT_EQ(inside(call(number, -1L, 0L, 0L, 0L, 0L)), -SIGSYS) << number;
  }
  // In a thread that was there before.
  const Sandbox own = sandbox();
  EXPECT_EQ(in_child(
                [&] {
                  int ends[2];
                  if (pipe(ends) != 0) return errno;
                  std::thread thread([&] {
                    char go;
                    if (read(ends[0], &go, 1) == 1) outcome(setuid(getuid()));
                  });
                  enter_sandbox(own);
                  if (write(ends[1], "x", 1) != 1) return errno;
                  thread.join();
                  return 0;
                },
                nullptr),
            -SIGSYS);
}

TEST_F(SandboxTest, calls_that_are_not_needed_are_not_there) {
  if (!sandbox_support().seccomp) GTEST_SKIP() << "seccomp: not here";
  expect(
      ENOSYS,
      [] {
        const pid_t child = fork();
        if (child == 0) _exit(0);
        return child < 0 ? errno : outcome(waitpid(child, nullptr, 0));
      },
      "fork");
  expect(
      ENOSYS, [] { return outcome(kill(getppid(), 0)); }, "a signal to another process");
  expect(
      ENOSYS, [] { return outcome(syscall(SYS_tgkill, getppid(), getppid(), 0)); }, "a signal to its thread");
  expect(
      ENOSYS, [] { return outcome(socket(AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT)); }, "a socket of another kind");
  expect(
      ENOSYS, [] { return outcome(prctl(PR_SET_DUMPABLE, 1)); }, "memory that others may read");
  expect(
      ENOSYS, [&] { return outcome(chmod(path("state/own").c_str(), 0600)); }, "another mode");
  // What types for the person at the terminal; of no terminal here, which the filter does not look at.
  EXPECT_EQ(in_child([] { return outcome(ioctl(-1, TIOCSTI, "x")); }, nullptr), EBADF);
  EXPECT_EQ(inside([] { return outcome(ioctl(-1, TIOCSTI, "x")); }), ENOSYS);
}

TEST_F(SandboxTest, what_the_programs_need_works_on) {
  const auto works = [&](const char* what, const Act& act) { EXPECT_EQ(inside(act), 0) << what; };
  const auto holds = [](bool truth) { return truth ? 0 : 1; };
  works("names of hosts", [&] {
    for (const char* name : {"localhost", "127.0.0.1", "::1", "no-such-host.invalid"}) {
      addrinfo* found = nullptr;
      const int failed = getaddrinfo(name, "443", nullptr, &found);
      if (failed == 0) freeaddrinfo(found);
      if ((failed == 0) != (std::string_view(name) != "no-such-host.invalid")) return 1;
    }
    return 0;
  });
  works("times", [&] {
    const std::time_t now = std::time(nullptr);
    std::tm local{};
    return holds(localtime_r(&now, &local) != nullptr && setenv("TZ", "Europe/Paris", 1) == 0 &&
                 (tzset(), localtime_r(&now, &local)) != nullptr && local.tm_gmtoff >= 3600);
  });
  works("a locale", [&] { return holds(std::locale("C.UTF-8").name() == "C.UTF-8"); });
  works("memory", [&] { return holds(memory_in_use().resident > 0 && memory_in_use().own > 0); });
  works("open files", [&] { return holds(open_files() >= 3 && raise_file_limit() > 0); });
  works("threads", [&] {
    int made = 0;
    std::jthread([&] { made = prctl(PR_SET_NAME, "worker") == 0; }).join();
    return holds(made == 1 && std::thread::hardware_concurrency() > 0);
  });
  works("a ledger", [&] {
    {
      Ledger ledger(scratch_ / "state/ledger.sqlite");
      ChainRecord record;
      record.chain = 7;
      ledger.add(record);
      ledger.move_burnt("", 7, {}, Marks{{1, 1, 1, 1}});
    }
    return holds(Ledger(scratch_ / "state/ledger.sqlite").find("", 7)->burnt == Marks{{1, 1, 1, 1}});
  });
  works("small files", [&] {
    replace_file(scratch_ / "state/replaced", "text", 0600);
    return holds(read_small_file(scratch_ / "state/replaced") == "text");
  });
  works("TLS", [&] {
    const Parties parties;
    TlsListener listener([&] { return parties.of(Role::provider); }, "127.0.0.1:0");
    std::jthread serving([&] {
      const auto link = listener.accept(Clock::now() + std::chrono::seconds(20));
      link->handshake(Clock::now() + std::chrono::seconds(20));
      link->send({40, 0, 0, {1, 2, 3}});
      link->flush();
    });
    const auto link = tls_connect(parties.of(Role::user), "localhost:" + std::to_string(listener.port()),
                                  Role::provider, Clock::now() + std::chrono::seconds(20));
    return holds(link->receive(Clock::now() + std::chrono::seconds(20), "a frame", k_max_payload).payload.size() == 3);
  });
}

TEST(SandboxSupport, says_what_there_is) {
  EXPECT_EQ((SandboxSupport{3, true}.text()), "landlock ABI 3, seccomp");
  EXPECT_TRUE((SandboxSupport{0, true}.text().starts_with("landlock: not in this kernel, seccomp")));
}

}  // namespace
}  // namespace permllm::test
