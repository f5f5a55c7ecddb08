// Progress of long work, on standard error.
#pragma once

#include <functional>
#include <string>

#include "user/measure.h"

namespace permllm {

// One line on a terminal that fills up, with an estimate; without a terminal, a line every few seconds. Quiet: nothing.
class ProgressBar {
 public:
  ProgressBar(std::string what, bool quiet);
  // fraction done, after `seconds` of work.
  void show(double fraction, double seconds);
  void finish();
  // Ends its line, however far it has come.
  void close();

 private:
  std::string what_;
  bool quiet_, terminal_, open_ = false;
  double told_ = 0;  // seconds
};

// A bar for work that may be short: it shows once a second has passed. Called with the fraction that is done, 1 at the end.
std::function<void(double)> late_bar(std::string what, bool quiet);

// Bars for a request: its material, then the reading of its prompt.
void show_progress(MeasuredConversation::Request& request, bool quiet);

}  // namespace permllm
