# The build type, ccache and mold where they are, and the warnings every target of ours is held to.
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(SCONCE_CCACHE ccache)
if(SCONCE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${SCONCE_CCACHE})
endif()

find_program(SCONCE_MOLD mold)
if(SCONCE_MOLD AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 12.1)
  add_link_options(-fuse-ld=mold)
endif()

add_compile_options(-Wall -Wextra)
# A torch translation unit with full debug information costs gigabytes; lines are enough.
if(CMAKE_BUILD_TYPE STREQUAL "Debug")
  add_compile_options(-g1)
endif()

if(SCONCE_SANITIZE)
  # -O1: with -O2 the compiler works half as long again on the checks it has put in.
  add_compile_options(-fsanitize=${SCONCE_SANITIZE} -fno-omit-frame-pointer -g1 -O1)
  add_link_options(-fsanitize=${SCONCE_SANITIZE})
  if(SCONCE_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
  if(SCONCE_FUZZ)
    # What tells libFuzzer which branches an input takes.
    add_compile_options(-fsanitize=fuzzer-no-link)
  endif()
endif()

include_directories(${CMAKE_SOURCE_DIR})
