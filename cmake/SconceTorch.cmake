# Imported targets for the LibTorch inside an unpacked torch wheel.
#   Torch::headers  include folders, given last: the wheel carries protobuf 3.13's headers, which
#                   would hide the system's protobuf if they came first
#   Torch::cpu      libtorch_cpu and libc10
#   Torch::cuda     libtorch_cuda and libc10_cuda; linked by the CUDA module alone
# find_package(Torch) of the wheel is not used: it wants a GPU or TORCH_CUDA_ARCH_LIST to be there.
# Also part of the installed package, which is not found where this is not.
if(TARGET Torch::cpu)
  return()
endif()
if(NOT SCONCE_TORCH_DIR)
  # Where scripts/test and scripts/quickstart put it.
  set(_cache "$ENV{SCONCE_CACHE}")
  if(NOT _cache)
    set(_cache "$ENV{HOME}/.cache/sconce")
  endif()
  file(GLOB _found ${_cache}/torch-2.11.0-*/torch/lib/libtorch_cpu.so)
  if(_found)
    list(GET _found 0 _first)
    cmake_path(GET _first PARENT_PATH SCONCE_TORCH_DIR)
    cmake_path(GET SCONCE_TORCH_DIR PARENT_PATH SCONCE_TORCH_DIR)
    cmake_path(GET SCONCE_TORCH_DIR PARENT_PATH SCONCE_TORCH_DIR)
    message(STATUS "LibTorch: ${SCONCE_TORCH_DIR}")
  endif()
endif()
set(_problem "")
set(_torch ${SCONCE_TORCH_DIR}/torch)
if(NOT SCONCE_TORCH_DIR)
  string(CONCAT _problem "SCONCE_TORCH_DIR is not set: give the folder that holds the unpacked "
                         "torch wheel, or run scripts/test, which fetches it.")
else()
  foreach(_file lib/libtorch_cpu.so lib/libc10.so include/ATen/core/Tensor.h)
    if(NOT _problem AND NOT EXISTS ${_torch}/${_file})
      string(CONCAT _problem "SCONCE_TORCH_DIR=${SCONCE_TORCH_DIR}: torch/${_file} is missing; "
                             "expected an unpacked torch 2.11.0 wheel.")
    endif()
  endforeach()
endif()
if(_problem AND CMAKE_FIND_PACKAGE_NAME)
  set(${CMAKE_FIND_PACKAGE_NAME}_FOUND FALSE)
  set(${CMAKE_FIND_PACKAGE_NAME}_NOT_FOUND_MESSAGE "${_problem}")
  return()
elseif(_problem)
  message(FATAL_ERROR "${_problem}")
endif()

add_library(Torch::headers INTERFACE IMPORTED)
target_compile_options(Torch::headers INTERFACE
  "SHELL:-idirafter ${_torch}/include"
  "SHELL:-idirafter ${_torch}/include/torch/csrc/api/include")

add_library(Torch::c10 SHARED IMPORTED)
set_target_properties(Torch::c10 PROPERTIES IMPORTED_LOCATION ${_torch}/lib/libc10.so)
add_library(Torch::cpu SHARED IMPORTED)
set_target_properties(Torch::cpu PROPERTIES IMPORTED_LOCATION ${_torch}/lib/libtorch_cpu.so)
target_link_libraries(Torch::cpu INTERFACE Torch::headers Torch::c10)
