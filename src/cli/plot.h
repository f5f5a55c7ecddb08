// A line plot as SVG text.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace permllm {

struct PlotLine {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x rising
};

// Both axes linear from 0.
std::string line_plot(const std::string& title, const std::string& x_label, const std::string& y_label,
                      const std::vector<PlotLine>& lines);

}  // namespace permllm
