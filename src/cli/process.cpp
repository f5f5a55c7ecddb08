#include "cli/process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string_view>
#include <utility>

#include "base/text.h"
#include "permllm/error.h"

namespace permllm {

Process::Process(const std::vector<std::string>& arguments, const std::string& file) {
  int pipe_ends[2];
  if (pipe2(pipe_ends, O_CLOEXEC) != 0) throw Error(Code::resource, "process", "the system gave no pipe");
  std::vector<char*> argv;
  std::string program = "permllm";
  argv.push_back(program.data());
  std::vector<std::string> copies = arguments;
  for (std::string& argument : copies) argv.push_back(argument.data());
  argv.push_back(nullptr);
  // Settings of this machine's own parties are not the child's: its arguments say all.
  std::vector<char*> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!std::string_view(*entry).starts_with("PERMLLM_")) environment.push_back(*entry);
  }
  environment.push_back(nullptr);
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ < 0) throw Error(Code::resource, "process", "the system started no process");
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);  // the parent was gone before the line above
    dup2(pipe_ends[1], STDOUT_FILENO);
    const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    dup2(nothing, STDIN_FILENO);
    execve(file.c_str(), argv.data(), environment.data());
    _exit(127);
  }
  close(pipe_ends[1]);
  output_ = pipe_ends[0];
}

Process::Process(Process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      output_(std::exchange(other.output_, -1)),
      buffer_(std::move(other.buffer_)) {}

Process::~Process() {
  if (output_ >= 0) close(output_);
  if (pid_ > 0) {
    kill(pid_, SIGTERM);
    waitpid(pid_, nullptr, 0);
  }
}

int Process::wait() {
  int status = 0;
  waitpid(std::exchange(pid_, -1), &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

bool Process::read_line(std::string& line) {
  for (;;) {
    const std::size_t end = buffer_.find('\n');
    if (end != std::string::npos) {
      line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return true;
    }
    char chunk[4096];
    const ssize_t got = read(output_, chunk, sizeof chunk);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    buffer_.append(chunk, static_cast<std::size_t>(got));
  }
}

nlohmann::json Process::wait_for(const std::string& event, const std::function<void(const nlohmann::json&)>& on_event) {
  std::string line;
  while (read_line(line)) {
    const auto message = nlohmann::json::parse(line);
    const std::string name = message.at("event");
    if (name == event) return message;
    if (name == "error") {
      throw Error(message.at("code").get<Code>(), message.at("reason").get<Reason>(),
                  message.at("field").get<std::string>(), message.at("message").get<std::string>());
    }
    if (on_event) on_event(message);
  }
  throw Error(Code::resource, "process", "a party's process ended before it was ready");
}

}  // namespace permllm
