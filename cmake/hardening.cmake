# What the compiler adds to the library and the program against memory errors. The packaging test looks for it in the program.
target_compile_options(permllm_options INTERFACE -fPIE -fstack-protector-strong -fstack-clash-protection -fcf-protection)
target_compile_definitions(permllm_options INTERFACE _GLIBCXX_ASSERTIONS)
target_link_options(permllm_options INTERFACE -pie -Wl,-z,relro,-z,now,-z,noexecstack)
if(NOT PERMLLM_SANITIZE AND NOT CMAKE_BUILD_TYPE STREQUAL Debug) # it needs optimization, and hides from a sanitizer what it checks itself
  target_compile_options(permllm_options INTERFACE -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3)
endif()
