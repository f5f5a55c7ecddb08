// The web page, packed into the program at build time (cmake/pack_web.cmake).
#pragma once

#include <string_view>

namespace permllm {

struct WebAsset {
  std::string_view name;  // "index.html", "style.css", "vendor/marked.js"
  std::string_view hash;  // of its bytes, hex
  std::string_view bytes;
};

// Null where it was not there when the program was built.
const WebAsset* find_web_asset(std::string_view name);
const char* content_type_of(std::string_view name);

}  // namespace permllm
