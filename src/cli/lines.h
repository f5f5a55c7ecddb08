// Questions: as a person types them, with editing, or as a program sends them.
#pragma once

#include <optional>
#include <string>

struct editline;
struct history;

namespace permllm {

// Text is UTF-8, in whatever locale the program runs. What a person pastes, and lines that end with Alt-Enter, are lines of one question; so are, of
// a program too, those from """ to """.
class Lines {
 public:
  // history: a file that keeps what is typed; empty: none. Ahead of the sandbox: it reads the person's settings of the editor, and those of the terminal.
  explicit Lines(std::string history);
  ~Lines();
  Lines(const Lines&) = delete;
  Lines& operator=(const Lines&) = delete;
  static bool person();
  // The next question or command; none at the end.
  std::optional<std::string> next();
  // What a person types without its being shown; none where it was given up (Ctrl-C, Ctrl-D), or where nobody is there.
  static std::optional<std::string> secret(const std::string& prompt);

 private:
  std::optional<std::string> line(const char* prompt);
  std::optional<std::string> typed();

  const std::string file_;
  editline* editor_ = nullptr;  // of a person
  struct history* history_ = nullptr;
  const char* prompt_ = "";
  bool first_ = true;  // of the lines that a program sends
};

}  // namespace permllm
