# The page of `permllm serve`: what lies in web/, and what scripts/fetch_web.sh put into the build folder, if it ran. None of it is needed.
file(GLOB web_files CONFIGURE_DEPENDS web/*.html web/*.js web/*.css web/*.svg web/*.png web/*.ico)
set(web_vendor ${PROJECT_BINARY_DIR}/web/node_modules)
file(GLOB web_marked CONFIGURE_DEPENDS ${web_vendor}/marked/lib/marked.umd.js)
file(GLOB web_purify CONFIGURE_DEPENDS ${web_vendor}/dompurify/dist/purify.min.js)
set(web_packed "")
foreach(path ${web_files})
  get_filename_component(name ${path} NAME)
  list(APPEND web_packed "${name}=${path}")
endforeach()
foreach(path ${web_marked})
  list(APPEND web_packed "vendor/marked.js=${path}")
endforeach()
foreach(path ${web_purify})
  list(APPEND web_packed "vendor/purify.js=${path}")
endforeach()
list(JOIN web_packed "|" web_packed)
set(web_source ${PROJECT_BINARY_DIR}/web_assets_packed.cpp)
file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/web_assets.list CONTENT "@web_packed@" @ONLY) # another list is another file
add_custom_command(OUTPUT ${web_source}
  COMMAND ${CMAKE_COMMAND} -DOUT=${web_source} "-DFILES=${web_packed}" -P ${PROJECT_SOURCE_DIR}/cmake/pack_web.cmake
  DEPENDS ${web_files} ${web_marked} ${web_purify} ${PROJECT_SOURCE_DIR}/cmake/pack_web.cmake ${PROJECT_BINARY_DIR}/web_assets.list VERBATIM)
target_sources(permllm_services PRIVATE ${web_source})
