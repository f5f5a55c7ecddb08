#include "service/sandbox.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/landlock.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "permllm/error.h"

namespace permllm {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool k_filters = false;
#else
constexpr bool k_filters = true;
#endif

[[noreturn]] void fail(const char* what, int error) {
  throw Error(Code::resource, "sandbox", fmt::format("{}: {}", what, std::strerror(error)));
}

// ---- Files -------------------------------------------------------------------------------------------------------------

// Those that the headers of Debian 12 lack.
constexpr std::uint64_t k_truncate = std::uint64_t{1} << 14, k_device_ioctl = std::uint64_t{1} << 15;

// Rights by the version that brought them.
constexpr std::uint64_t k_read = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
constexpr std::uint64_t k_write = k_read | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |
                                  LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR |
                                  LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REFER | k_truncate | k_device_ioctl;
constexpr std::uint64_t k_of_files = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE |
                                     LANDLOCK_ACCESS_FS_READ_FILE | k_truncate | k_device_ioctl;
std::uint64_t all_rights(int version) {
  std::uint64_t rights = LANDLOCK_ACCESS_FS_REFER - 1;
  if (version >= 2) rights |= LANDLOCK_ACCESS_FS_REFER;
  if (version >= 3) rights |= k_truncate;
  if (version >= 5) rights |= k_device_ioctl;
  return rights;
}

// What libraries read while the program runs: names of hosts with the modules for them, time zones, locales, terminals, OpenSSL's settings, this
// process's memory and files. Folders where files are replaced, not rewritten: a right holds for a file, not for its name.
constexpr const char* k_system[] = {"/etc",
                                    "/usr",
                                    "/lib",
                                    "/lib64",
                                    "/run/systemd/resolve",
                                    "/run/resolvconf",
                                    "/run/NetworkManager",
                                    "/etc/resolv.conf",
                                    "/proc/self",
                                    "/proc/sys",
                                    "/proc/stat",
                                    "/proc/cpuinfo",
                                    "/proc/meminfo",
                                    "/sys/devices/system/cpu",
                                    "/dev/urandom"};
constexpr const char* k_devices[] = {"/dev/null", "/dev/tty"};

struct Descriptor {
  int number;
  ~Descriptor() {
    if (number >= 0) close(number);
  }
};

int landlock_version() {
  return std::max(0,
                  static_cast<int>(syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION)));
}

void allow(int rules, std::uint64_t rights, const std::filesystem::path& path) {
  const Descriptor file{open(path.c_str(), O_PATH | O_CLOEXEC)};
  struct stat status {};
  if (file.number < 0 || fstat(file.number, &status) != 0) return;
  if (!S_ISDIR(status.st_mode)) rights &= k_of_files;
  const landlock_path_beneath_attr beneath{rights, file.number};
  if (syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) != 0)
    fail("landlock takes no rule", errno);
}

void enter_landlock(const Sandbox& sandbox, int version) {
  const std::uint64_t all = all_rights(version);
  landlock_ruleset_attr attributes{};
  attributes.handled_access_fs = all;
  const Descriptor rules{static_cast<int>(syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0))};
  if (rules.number < 0) fail("landlock makes no rules", errno);
  for (const char* path : k_system) allow(rules.number, all & k_read, path);
  for (const char* path : k_devices) allow(rules.number, all & k_write, path);
  for (const auto& path : sandbox.read) allow(rules.number, all & k_read, path);
  for (const auto& path : sandbox.write) allow(rules.number, all & k_write, path);
  if (syscall(SYS_landlock_restrict_self, rules.number, 0) != 0) fail("landlock does not take effect", errno);
}

// ---- System calls ------------------------------------------------------------------------------------------------------

// What glibc, OpenSSL, Asio, SQLite, libedit and cpp-httplib need. Anything else fails as on a kernel that does not know it, for which libraries
// are prepared. A name that this machine's processor has not is passed over.
constexpr const char* k_calls[] = {
    // files
    "read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2", "open",
    "openat", "close", "close_range", "stat", "fstat", "lstat", "newfstatat", "statx", "access", "faccessat",
    "faccessat2", "lseek", "fcntl", "flock", "truncate", "ftruncate", "fsync", "fdatasync", "sync_file_range",
    "fallocate", "fadvise64", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir",
    "readlink", "readlinkat", "getdents64", "getcwd", "fchmod", "fchown", "umask", "statfs", "fstatfs", "utimensat",
    "dup", "dup2", "dup3", "pipe", "pipe2", "memfd_create",
    // memory
    "brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "msync", "mincore", "mlock", "mlock2", "munlock",
    "membarrier",
    // threads, signals
    "futex", "set_robust_list", "get_robust_list", "rseq", "gettid", "getpid", "getppid", "sched_yield",
    "sched_getaffinity", "sched_setaffinity", "getcpu", "arch_prctl", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn",
    "rt_sigtimedwait", "rt_sigpending", "rt_sigsuspend", "sigaltstack", "signalfd4", "restart_syscall", "pause", "exit",
    "exit_group",
    // time, waiting
    "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time", "times", "timerfd_create",
    "timerfd_settime", "timerfd_gettime", "poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1",
    "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd2",
    // sockets
    "socketpair", "connect", "bind", "listen", "accept", "accept4", "getsockname", "getpeername", "sendto", "recvfrom",
    "sendmsg", "recvmsg", "sendmmsg", "recvmmsg", "shutdown", "setsockopt", "getsockopt",
    // what the system says of itself and of this process
    "uname", "sysinfo", "getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups", "getpgrp",
    "getpgid", "getsid", "getrlimit", "setrlimit", "prlimit64", "getrusage", "getrandom"};

// What these programs never do and what a way out is made of: whoever tries is ended.
constexpr const char* k_deadly[] = {"execve",
                                    "execveat",
                                    "ptrace",
                                    "process_vm_readv",
                                    "process_vm_writev",
                                    "process_madvise",
                                    "pidfd_getfd",
                                    "pidfd_send_signal",
                                    "bpf",
                                    "perf_event_open",
                                    "userfaultfd",
                                    "io_uring_setup",
                                    "io_uring_enter",
                                    "io_uring_register",
                                    "keyctl",
                                    "add_key",
                                    "request_key",
                                    "mount",
                                    "umount2",
                                    "pivot_root",
                                    "chroot",
                                    "move_mount",
                                    "open_tree",
                                    "fsopen",
                                    "fsmount",
                                    "fsconfig",
                                    "fspick",
                                    "mount_setattr",
                                    "open_by_handle_at",
                                    "unshare",
                                    "setns",
                                    "init_module",
                                    "finit_module",
                                    "delete_module",
                                    "kexec_load",
                                    "kexec_file_load",
                                    "reboot",
                                    "swapon",
                                    "swapoff",
                                    "iopl",
                                    "ioperm",
                                    "modify_ldt",
                                    "personality",
                                    "setuid",
                                    "setgid",
                                    "setreuid",
                                    "setregid",
                                    "setresuid",
                                    "setresgid",
                                    "setfsuid",
                                    "setfsgid",
                                    "setgroups",
                                    "capset",
                                    "settimeofday",
                                    "clock_settime",
                                    "adjtimex",
                                    "clock_adjtime"};

constexpr std::uint64_t k_namespaces =
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

// Of terminals and sockets; none that types for the person at the terminal.
constexpr unsigned long k_ioctls[] = {TCGETS,     TCSETS,    TCSETSW,  TCSETSF, TCFLSH, TCXONC,
                                      TIOCGWINSZ, TIOCGPGRP, FIONREAD, FIONBIO, FIOCLEX};
constexpr int k_prctls[] = {PR_SET_NAME, PR_GET_NAME, PR_GET_DUMPABLE,
                            0x53564d41 /* PR_SET_VMA, by which glibc names memory */};

bool has_seccomp() {
  const std::uint32_t action = SECCOMP_RET_KILL_PROCESS;
  return k_filters && syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

class Filter {
 public:
  Filter() : filter_(seccomp_init(SCMP_ACT_ERRNO(ENOSYS)), seccomp_release) {
    if (!filter_) fail("seccomp makes no filter", ENOMEM);
    set(SCMP_FLTATR_CTL_TSYNC, 1);  // for the threads that are there
    set(SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    set(SCMP_FLTATR_CTL_OPTIMIZE, 2);
  }
  template <class... Comparisons>
  void add(std::uint32_t action, const char* name, const Comparisons&... comparisons) {
    const int number = seccomp_syscall_resolve_name(name);
    if (number == __NR_SCMP_ERROR) return;
    const int failed = seccomp_rule_add(filter_.get(), action, number, sizeof...(comparisons), comparisons...);
    if (failed != 0) fail(name, -failed);
  }
  void load() {
    if (const int failed = seccomp_load(filter_.get()); failed != 0) fail("seccomp does not take effect", -failed);
  }

 private:
  void set(scmp_filter_attr attribute, std::uint32_t value) {
    if (const int failed = seccomp_attr_set(filter_.get(), attribute, value); failed != 0) fail("seccomp", -failed);
  }
  std::unique_ptr<void, void (*)(scmp_filter_ctx)> filter_;
};

void enter_seccomp() {
  Filter filter;
  for (const char* name : k_calls) filter.add(SCMP_ACT_ALLOW, name);
  for (const char* name : k_deadly) filter.add(SCMP_ACT_KILL_PROCESS, name);
  // Threads, no processes. Flags of clone3 cannot be looked at: without it glibc takes clone.
  filter.add(SCMP_ACT_ALLOW, "clone", SCMP_A0_64(SCMP_CMP_MASKED_EQ, CLONE_THREAD | k_namespaces, CLONE_THREAD));
  filter.add(SCMP_ACT_ALLOW, "tgkill", SCMP_A0_64(SCMP_CMP_EQ, static_cast<std::uint64_t>(getpid())));
  for (const int family : {AF_INET, AF_INET6, AF_UNIX})
    filter.add(SCMP_ACT_ALLOW, "socket", SCMP_A0_64(SCMP_CMP_EQ, static_cast<std::uint64_t>(family)));
  filter.add(SCMP_ACT_ALLOW, "socket", SCMP_A0_64(SCMP_CMP_EQ, AF_NETLINK),
             SCMP_A2_64(SCMP_CMP_EQ, NETLINK_ROUTE));  // which addresses this machine has
  for (const unsigned long request : k_ioctls) filter.add(SCMP_ACT_ALLOW, "ioctl", SCMP_A1_64(SCMP_CMP_EQ, request));
  for (const int option : k_prctls)
    filter.add(SCMP_ACT_ALLOW, "prctl", SCMP_A0_64(SCMP_CMP_EQ, static_cast<std::uint64_t>(option)));
  filter.load();
}

}  // namespace

std::string SandboxSupport::text() const {
  return fmt::format("landlock{}, seccomp{}", landlock == 0 ? ": not in this kernel" : fmt::format(" ABI {}", landlock),
                     seccomp     ? ""
                     : k_filters ? ": not in this kernel"
                                 : ": not in a build with sanitizers");
}

SandboxSupport sandbox_support() { return {landlock_version(), has_seccomp()}; }

SandboxSupport enter_sandbox(const Sandbox& sandbox) {
  const SandboxSupport support = sandbox_support();
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) fail("no_new_privs", errno);
  if (support.landlock > 0) enter_landlock(sandbox, support.landlock);
  if (support.seccomp) enter_seccomp();
  return support;
}

}  // namespace permllm
