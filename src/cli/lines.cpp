#include "cli/lines.h"

#include <histedit.h>
#include <langinfo.h>
#include <signal.h>
#include <termios.h>
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <utility>

#include "base/text.h"

namespace permllm {
namespace {

constexpr std::string_view k_quotes = "\"\"\"";
constexpr int k_history = 1000;  // entries

// Brackets around what is pasted, where the terminal knows them.
constexpr const char *k_brackets_on = "\x1b[?2004h", *k_brackets_off = "\x1b[?2004l";
constexpr std::wstring_view k_paste_ends = L"\x1b[201~";
bool knows_brackets() {
  const char* terminal = std::getenv("TERM");
  return terminal != nullptr && std::strcmp(terminal, "dumb") != 0 && std::strcmp(terminal, "") != 0;
}

unsigned char add_line(EditLine* editor, int) {
  el_winsertstr(editor, L"\n");
  return CC_REFRESH;
}

// Up to the closing bracket: as it was copied, but for line ends.
unsigned char paste(EditLine* editor, int) {
  std::wstring text;
  for (wchar_t c = 0; !text.ends_with(k_paste_ends) && el_wgetc(editor, &c) == 1;) {
    if (c != 0) text += c;
  }
  if (text.ends_with(k_paste_ends)) text.resize(text.size() - k_paste_ends.size());
  for (wchar_t& c : text) {
    if (c == L'\r') c = L'\n';
  }
  while (text.ends_with(L'\n')) text.pop_back();
  el_winsertstr(editor, text.c_str());
  return CC_REFRESH;
}

// A Ctrl-D that was typed before the editor reads comes as a NUL from the terminal: on an empty line it is an end, too.
unsigned char end(EditLine* editor, int) {
  const LineInfoW* line = el_wline(editor);
  return line->lastchar == line->buffer ? CC_EOF : CC_NORM;
}

// Keys that terminals send, beside those of libedit's own.
constexpr std::pair<const char*, const char*> k_keys[] = {
    {"\\e[1~", "ed-move-to-beg"},      {"\\e[7~", "ed-move-to-beg"},   {"\\e[H", "ed-move-to-beg"},
    {"\\e[4~", "ed-move-to-end"},      {"\\e[8~", "ed-move-to-end"},   {"\\e[F", "ed-move-to-end"},
    {"\\e[3~", "ed-delete-next-char"}, {"\\e[1;5C", "em-next-word"},   {"\\e[1;5D", "ed-prev-word"},
    {"^R", "em-inc-search-prev"},      {"\\e\\r", "permllm-add-line"}, {"\\e\\n", "permllm-add-line"},
    {"\\e[200~", "permllm-paste"},     {"^@", "permllm-end"}};

}  // namespace

bool Lines::person() { return isatty(STDIN_FILENO) != 0; }

Lines::Lines(std::string history) : file_(std::move(history)) {
  if (!person()) return;
  signal(SIGINT, [](int) {
    constexpr std::string_view note = "\n(Ctrl-D ends the program)\n> ";
    if (write(STDERR_FILENO, note.data(), note.size()) < 0) return;
  });
  // Where the locale knows no letters beyond ASCII (C, POSIX, one that is not installed) libedit would drop them.
  if (std::setlocale(LC_CTYPE, "") == nullptr || std::strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
    std::setlocale(LC_CTYPE, "C.UTF-8");
  editor_ = el_init("permllm", stdin, stdout, stderr);
  history_ = history_init();
  HistEvent event;
  ::history(history_, &event, H_SETSIZE, k_history);
  ::history(history_, &event, H_SETUNIQUE, 1);
  el_set(editor_, EL_CLIENTDATA, this);
  el_set(
      editor_, EL_PROMPT, +[](EditLine* editor) -> char* {
        Lines* lines = nullptr;
        el_get(editor, EL_CLIENTDATA, &lines);
        return const_cast<char*>(lines->prompt_);  // libedit only reads it
      });
  el_set(editor_, EL_SIGNAL, 0);
  el_set(editor_, EL_EDITOR, "emacs");
  el_set(editor_, EL_HIST, ::history, history_);
  el_set(editor_, EL_ADDFN, "permllm-add-line", "Begin another line", add_line);
  el_set(editor_, EL_ADDFN, "permllm-end", "End the program, on an empty line", end);
  el_set(editor_, EL_ADDFN, "permllm-paste", "Take what is pasted", paste);
  for (const auto& [keys, function] : k_keys) el_set(editor_, EL_BIND, keys, function, nullptr);
  el_source(editor_, nullptr);
  if (!file_.empty()) ::history(history_, &event, H_LOAD, file_.c_str());
}

Lines::~Lines() {
  if (editor_ == nullptr) return;
  HistEvent event;
  if (!file_.empty()) ::history(history_, &event, H_SAVE, file_.c_str());
  history_end(history_);
  el_end(editor_);
}

std::optional<std::string> Lines::typed() {
  const bool brackets = knows_brackets();
  if (brackets) std::fputs(k_brackets_on, stdout);
  std::fflush(stdout);
  int size = 0;
  const char* text = el_gets(editor_, &size);
  if (brackets) std::fputs(k_brackets_off, stdout);
  std::fflush(stdout);
  if (text == nullptr || size <= 0) return std::nullopt;
  std::string line(text);
  if (line.ends_with('\n')) line.pop_back();
  return line;
}

std::optional<std::string> Lines::line(const char* prompt) {
  prompt_ = prompt;
  if (editor_ != nullptr) return typed();
  std::string line;
  if (!std::getline(std::cin, line)) return std::nullopt;
  // As Windows writes lines and some of its shells begin a text.
  if (std::exchange(first_, false) && line.starts_with(k_byte_order_mark)) line.erase(0, k_byte_order_mark.size());
  if (line.ends_with('\r')) line.pop_back();
  return line;
}

std::optional<std::string> Lines::secret(const std::string& prompt) {
  constexpr char k_give_up = 3;  // Ctrl-C
  termios before{};
  if (!person() || tcgetattr(STDIN_FILENO, &before) != 0) return std::nullopt;
  termios silent = before;
  silent.c_lflag = (silent.c_lflag | ICANON) & ~static_cast<tcflag_t>(ECHO | ISIG);
  silent.c_iflag |= ICRNL;
  silent.c_cc[VEOL] = k_give_up;
  tcsetattr(STDIN_FILENO, TCSADRAIN, &silent);
  std::fputs(prompt.c_str(), stderr);
  std::string line;
  char c = 0;
  while (read(STDIN_FILENO, &c, 1) == 1 && c != '\n' && c != k_give_up) line += c;
  tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
  std::fputs("\n", stderr);
  return c == '\n' ? std::optional(line) : std::nullopt;
}

std::optional<std::string> Lines::next() {
  std::optional<std::string> all = line("> ");
  if (!all) return all;
  std::string kept = *all;  // as it was typed
  if (all->starts_with(k_quotes)) {
    all->erase(0, k_quotes.size());
    while (!all->ends_with(k_quotes)) {
      const std::optional<std::string> more = line("| ");
      if (!more) break;
      *all += "\n" + *more;
      kept += "\n" + *more;
    }
    if (all->ends_with(k_quotes)) all->resize(all->size() - k_quotes.size());
    if (all->starts_with('\n')) all->erase(0, 1);
    if (all->ends_with('\n')) all->pop_back();
  }
  HistEvent event;
  if (history_ != nullptr && !kept.empty()) ::history(history_, &event, H_ENTER, kept.c_str());
  return all;
}

}  // namespace permllm
