# cmake -DOUT=FILE.cpp "-DFILES=NAME=PATH|NAME=PATH..." -P pack_web.cmake: writes a source that holds the files' bytes.
set(data "")
set(table "")
set(i 0)
string(REPLACE "|" ";" FILES "${FILES}")
foreach(entry ${FILES})
  string(REGEX MATCH "^([^=]*)=(.*)$" unused "${entry}")
  set(name "${CMAKE_MATCH_1}")
  set(path "${CMAKE_MATCH_2}")
  file(SHA256 "${path}" hash)
  string(SUBSTRING ${hash} 0 32 hash)
  string(APPEND data "asm(\".section .rodata\\n.global permllm_web_${i}\\npermllm_web_${i}:\\n.incbin \\\"${path}\\\"\\n.global permllm_web_${i}_end\\npermllm_web_${i}_end:\\n.previous\\n\");\n"
                     "extern \"C\" const char permllm_web_${i}[], permllm_web_${i}_end[];\n")
  string(APPEND table "      {\"${name}\", \"${hash}\", {permllm_web_${i}, static_cast<std::size_t>(permllm_web_${i}_end - permllm_web_${i})}},\n")
  math(EXPR i "${i} + 1")
endforeach()
file(WRITE "${OUT}" "// Made by cmake/pack_web.cmake.
#include <span>
#include <vector>

#include \"gateway/web_assets.h\"

${data}
namespace permllm {

std::span<const WebAsset> packed_web_assets();
std::span<const WebAsset> packed_web_assets() {
  static const std::vector<WebAsset> assets{
${table}  };
  return assets;
}

}  // namespace permllm
")
