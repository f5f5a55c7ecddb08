# The page of `permllm serve`: what lies in web/, and what scripts/fetch_web.sh put into the build folder, where there is npm. The page does without the latter.
file(GLOB web_files CONFIGURE_DEPENDS web/*.html web/*.js web/*.css web/*.svg web/*.png web/*.ico)
set(web_vendor ${PROJECT_BINARY_DIR}/web/node_modules)
set(web_packed "")
set(web_licences "")
foreach(path ${web_files})
  get_filename_component(name ${path} NAME)
  list(APPEND web_packed "${name}=${path}")
endforeach()
foreach(of marked=marked/lib/marked.umd.js purify=dompurify/dist/purify.min.js katex=katex/dist/katex.min.js highlight=@highlightjs/cdn-assets/highlight.min.js)
  string(REGEX MATCH "^(.*)=(.*)$" unused ${of})
  set(name ${CMAKE_MATCH_1})
  set(file ${CMAKE_MATCH_2})
  string(REGEX REPLACE "^(@[^/]+/[^/]+|[^/]+)/.*" "\\1" package ${file})
  file(GLOB found CONFIGURE_DEPENDS ${web_vendor}/${file})
  foreach(path ${found})
    list(APPEND web_files ${path})
    list(APPEND web_packed "vendor/${name}.js=${path}")
    list(APPEND web_licences "${name}=${web_vendor}/${package}/LICENSE") # packaging/install.cmake
  endforeach()
endforeach()
list(JOIN web_packed "|" web_packed)
set(web_source ${PROJECT_BINARY_DIR}/web_assets_packed.cpp)
file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/web_assets.list CONTENT "@web_packed@" @ONLY) # another list is another file
add_custom_command(OUTPUT ${web_source}
  COMMAND ${CMAKE_COMMAND} -DOUT=${web_source} "-DFILES=${web_packed}" -P ${PROJECT_SOURCE_DIR}/cmake/pack_web.cmake
  DEPENDS ${web_files} ${PROJECT_SOURCE_DIR}/cmake/pack_web.cmake ${PROJECT_BINARY_DIR}/web_assets.list VERBATIM)
target_sources(permllm_services PRIVATE ${web_source})
