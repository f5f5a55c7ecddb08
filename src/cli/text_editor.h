// The person's own editor, for a question of many lines.
#pragma once

#include <sys/types.h>

#include <string>

namespace permllm {

// A process that waits for its call: in the sandbox no other program can be started. To be made ahead of that and of any thread.
class TextEditor {
 public:
  TextEditor();
  ~TextEditor();
  TextEditor(const TextEditor&) = delete;
  TextEditor& operator=(const TextEditor&) = delete;
  // What the person makes of the text with $VISUAL, $EDITOR or vi; while it runs the text is in a folder of its owner alone, beneath $XDG_RUNTIME_DIR,
  // which is memory, or the folder for temporary files. Errors: usage, where the editor does not end with status 0.
  std::string edit(const std::string& text) const;

 private:
  int socket_ = -1;
};

}  // namespace permllm
