#include "gateway/web_assets.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

namespace permllm {

std::span<const WebAsset> packed_web_assets();  // of the file that cmake/pack_web.cmake writes

const WebAsset* find_web_asset(std::string_view name) {
  const auto all = packed_web_assets();
  const auto found = std::find_if(all.begin(), all.end(), [&](const WebAsset& asset) { return asset.name == name; });
  return found == all.end() ? nullptr : &*found;
}

const char* content_type_of(std::string_view name) {
  static constexpr std::array<std::pair<std::string_view, const char*>, 6> types{
      {{".html", "text/html; charset=utf-8"},
       {".js", "text/javascript; charset=utf-8"},
       {".css", "text/css; charset=utf-8"},
       {".svg", "image/svg+xml"},
       {".png", "image/png"},
       {".ico", "image/x-icon"}}};
  for (const auto& [ending, type] : types) {
    if (name.ends_with(ending)) return type;
  }
  return "application/octet-stream";
}

}  // namespace permllm
