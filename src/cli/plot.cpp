#include "cli/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace permllm {
namespace {

constexpr double k_width = 760, k_height = 460, k_left = 70, k_right = 190, k_top = 45, k_bottom = 55;
constexpr const char* k_colours[] = {"#1b6ca8", "#d1495b", "#2e933c", "#8f5fb5", "#e08e1b", "#444444"};

// 1, 2 or 5 times a power of ten, so that about five steps reach `most`.
double step_for(double most) {
  const double power = std::pow(10, std::floor(std::log10(most / 5)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (most / (factor * power) <= 6) return factor * power;
  }
  return 10 * power;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '&')
      out += "&amp;";
    else
      out += c;
  }
  return out;
}

}  // namespace

std::string line_plot(const std::string& title, const std::string& x_label, const std::string& y_label,
                      const std::vector<PlotLine>& lines) {
  double most_x = 1e-9, most_y = 1e-9;
  for (const PlotLine& line : lines) {
    for (const auto& [x, y] : line.points) {
      most_x = std::max(most_x, x);
      most_y = std::max(most_y, y);
    }
  }
  const double right = k_width - k_right, bottom = k_height - k_bottom;
  const auto at_x = [&](double x) { return k_left + x / most_x * (right - k_left); };
  const auto at_y = [&](double y) { return bottom - y / (most_y * 1.05) * (bottom - k_top); };
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
      k_width, k_height);
  const auto text = [&](double x, double y, const char* anchor, const std::string& words, const char* more = "") {
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\"{}>{}</text>\n", x, y, anchor, more,
                       escaped(words));
  };
  const auto line = [&](double x1, double y1, double x2, double y2, const char* colour) {
    svg += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\"/>\n", x1, y1, x2,
                       y2, colour);
  };
  text(k_left, 24, "start", title, " font-size=\"15\"");
  for (double x = 0; x <= most_x * 1.001; x += step_for(most_x)) {
    line(at_x(x), k_top, at_x(x), bottom, "#e4e4e4");
    text(at_x(x), bottom + 18, "middle", fmt::format("{:g}", x));
  }
  for (double y = 0; y <= most_y * 1.05; y += step_for(most_y)) {
    line(k_left, at_y(y), right, at_y(y), "#e4e4e4");
    text(k_left - 8, at_y(y) + 4, "end", fmt::format("{:g}", y));
  }
  line(k_left, bottom, right, bottom, "black");
  line(k_left, k_top, k_left, bottom, "black");
  text((k_left + right) / 2, k_height - 14, "middle", x_label);
  text(18, (k_top + bottom) / 2, "middle", y_label,
       fmt::format(" transform=\"rotate(-90 18 {:.0f})\"", (k_top + bottom) / 2).c_str());
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const char* colour = k_colours[i % std::size(k_colours)];
    std::string path;
    for (const auto& [x, y] : lines[i].points) {
      path += fmt::format("{}{:.1f},{:.1f}", path.empty() ? "" : " ", at_x(x), at_y(y));
      svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", at_x(x), at_y(y), colour);
    }
    svg += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n", path, colour);
    const double y = k_top + 10 + 20 * static_cast<double>(i);
    line(right + 14, y, right + 34, y, colour);
    text(right + 40, y + 4, "start", lines[i].name);
  }
  return svg + "</svg>\n";
}

}  // namespace permllm
