#include "cli/text_editor.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/temporary_directory.h"
#include "permllm/error.h"

namespace permllm {
namespace {

struct Reply {
  std::int32_t status = -1;
  std::string text;
};

bool send_all(int to, const void* bytes, std::size_t size) {
  for (const char* at = static_cast<const char*>(bytes); size > 0;) {
    const ssize_t sent = send(to, at, size, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    at += sent;
    size -= static_cast<std::size_t>(sent);
  }
  return true;
}
bool receive_all(int from, void* bytes, std::size_t size) {
  return recv(from, bytes, size, MSG_WAITALL) == static_cast<ssize_t>(size);
}

bool send_text(int to, std::int32_t status, const std::string& text) {
  const std::uint64_t size = text.size();
  return send_all(to, &status, sizeof status) && send_all(to, &size, sizeof size) &&
         send_all(to, text.data(), text.size());
}
bool receive_text(int from, Reply& reply) {
  std::uint64_t size = 0;
  if (!receive_all(from, &reply.status, sizeof reply.status) || !receive_all(from, &size, sizeof size)) return false;
  reply.text.resize(size);
  return size == 0 || receive_all(from, reply.text.data(), size);
}

// As git calls it: the variable is a command with its own arguments.
int run_editor(const std::filesystem::path& file) {
  const char* command = std::getenv("VISUAL");
  if (command == nullptr || *command == '\0') command = std::getenv("EDITOR");
  if (command == nullptr || *command == '\0') command = "vi";
  const std::string script = std::string(command) + " \"$@\"";
  const pid_t pid = fork();
  if (pid == 0) {
    for (const int number : {SIGINT, SIGQUIT}) signal(number, SIG_DFL);
    execl("/bin/sh", "sh", "-c", script.c_str(), command, file.c_str(), nullptr);
    _exit(127);
  }
  int status = -1;
  if (pid < 0 || waitpid(pid, &status, 0) != pid) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Reply edit_once(const std::string& text) {
  const char* memory = std::getenv("XDG_RUNTIME_DIR");
  std::error_code none;
  const TemporaryDirectory folder(memory != nullptr && std::filesystem::is_directory(memory, none)
                                      ? std::filesystem::path(memory)
                                      : std::filesystem::temp_directory_path());
  const std::filesystem::path file = folder.path() / "question.md";
  std::ofstream(file, std::ios::binary) << text;
  Reply reply;
  reply.status = run_editor(file);
  std::ifstream in(file, std::ios::binary);
  reply.text.assign(std::istreambuf_iterator<char>(in), {});
  return reply;
}

[[noreturn]] void wait_for_calls(int socket) {
  for (const int number : {SIGINT, SIGQUIT}) signal(number, SIG_IGN);
  for (Reply asked; receive_text(socket, asked);) {
    Reply reply;
    try {
      reply = edit_once(asked.text);
    } catch (const std::exception&) {  // no folder for it
    }
    if (!send_text(socket, reply.status, reply.text)) break;
  }
  _exit(0);
}

}  // namespace

TextEditor::TextEditor() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    throw Error(Code::resource, "/edit", "the system gave no socket");
  const pid_t pid = fork();
  if (pid == 0) {
    close(ends[0]);
    wait_for_calls(ends[1]);
  }
  close(ends[1]);
  socket_ = ends[0];
}

TextEditor::~TextEditor() { close(socket_); }

std::string TextEditor::edit(const std::string& text) const {
  // What is typed in the editor is the editor's.
  struct sigaction ignore {
  }, before{};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGINT, &ignore, &before);
  Reply reply;
  const bool answered = send_text(socket_, 0, text) && receive_text(socket_, reply);
  sigaction(SIGINT, &before, nullptr);
  if (!answered || reply.status != 0)
    throw Error(Code::usage, "/edit", "the editor gave nothing; $VISUAL or $EDITOR names the one to use");
  while (reply.text.ends_with('\n')) reply.text.pop_back();
  return reply.text;
}

}  // namespace permllm
