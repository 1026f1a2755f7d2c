# Decides whether the CUDA parts are built, and says so. Sets SCONCE_WITH_CUDA, and then SCONCE_NVCC.
set(SCONCE_WITH_CUDA OFF)

# The GPU architectures our kernels are compiled for: machine code for each, and PTX of the last,
# which newer GPUs compile when they load it. LibTorch brings a list of its own.
set(SCONCE_CUDA_ARCHITECTURES 75 80 86 89 90 100 120)

if(NOT SCONCE_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "SCONCE_CUDA=${SCONCE_CUDA}: expected AUTO, ON or OFF.")
endif()
if(SCONCE_CUDA STREQUAL "OFF")
  message(STATUS "CUDA: switched off; this build serves on the CPU only")
  return()
endif()

find_package(CUDAToolkit QUIET)
if(CUDAToolkit_FOUND AND CUDAToolkit_VERSION_MAJOR EQUAL 13 AND CUDAToolkit_NVCC_EXECUTABLE)
  set(SCONCE_NVCC ${CUDAToolkit_NVCC_EXECUTABLE})
  message(STATUS "CUDA: building the CUDA parts with toolkit ${CUDAToolkit_VERSION}")
elseif(SCONCE_CUDA STREQUAL "ON" AND EXISTS ${SCONCE_TORCH_DIR}/nvidia/cu13/bin/nvcc)
  # The compiler, headers and libraries, as scripts/setup unpacks them beside torch.
  set(SCONCE_NVCC ${SCONCE_TORCH_DIR}/nvidia/cu13/bin/nvcc)
  add_library(CUDA::cudart SHARED IMPORTED)
  set_target_properties(CUDA::cudart PROPERTIES
    IMPORTED_LOCATION ${SCONCE_TORCH_DIR}/nvidia/cu13/lib/libcudart.so.13
    INTERFACE_INCLUDE_DIRECTORIES ${SCONCE_TORCH_DIR}/nvidia/cu13/include)
  message(STATUS "CUDA: building the CUDA parts with the toolkit in the wheels")
else()
  if(CUDAToolkit_FOUND AND CUDAToolkit_VERSION_MAJOR EQUAL 13)
    set(_found "toolkit ${CUDAToolkit_VERSION} without its compiler nvcc")
  elseif(CUDAToolkit_FOUND)
    set(_found "toolkit ${CUDAToolkit_VERSION}")
  else()
    set(_found "none")
  endif()
  if(SCONCE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SCONCE_CUDA=ON: expected a CUDA 13 toolkit with nvcc, found ${_found}; "
                        "install one, set CUDAToolkit_ROOT, or run scripts/setup with "
                        "SCONCE_CUDA=ON.")
  endif()
  message(STATUS "CUDA: expected a CUDA 13 toolkit with nvcc, found ${_found}; this build serves on "
                 "the CPU only")
  return()
endif()
set(SCONCE_WITH_CUDA ON)

foreach(_name torch_cuda c10_cuda)
  if(NOT EXISTS ${SCONCE_TORCH_DIR}/torch/lib/lib${_name}.so)
    message(FATAL_ERROR "SCONCE_TORCH_DIR: torch/lib/lib${_name}.so is missing; expected the CUDA build of torch 2.11.0.")
  endif()
  add_library(Torch::${_name} SHARED IMPORTED)
  set_target_properties(Torch::${_name} PROPERTIES
    IMPORTED_LOCATION ${SCONCE_TORCH_DIR}/torch/lib/lib${_name}.so)
endforeach()
add_library(Torch::cuda INTERFACE IMPORTED)
# Nothing refers to a symbol of libtorch_cuda by name; without --no-as-needed the linker drops it
# and CUDA is never registered.
target_link_libraries(Torch::cuda INTERFACE Torch::cpu
  -Wl,--push-state,--no-as-needed Torch::torch_cuda Torch::c10_cuda -Wl,--pop-state CUDA::cudart)

# sconce_add_kernels(TARGET FILE.cu...): compiles kernels into a target, warnings being errors.
# A command of its own, which needs nothing of a toolkit but the compiler, and not CMake's CUDA
# language.
function(sconce_add_kernels target)
  list(GET SCONCE_CUDA_ARCHITECTURES -1 _last)
  set(_code -gencode arch=compute_${_last},code=compute_${_last})
  foreach(_architecture ${SCONCE_CUDA_ARCHITECTURES})
    list(APPEND _code -gencode arch=compute_${_architecture},code=sm_${_architecture})
  endforeach()
  foreach(_source ${ARGN})
    set(_object ${CMAKE_CURRENT_BINARY_DIR}/${_source}.o)
    cmake_path(GET _object PARENT_PATH _folder)
    file(MAKE_DIRECTORY ${_folder})
    add_custom_command(
      OUTPUT ${_object}
      COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} ${SCONCE_NVCC} -ccbin ${CMAKE_CXX_COMPILER}
              -std=c++${CMAKE_CXX_STANDARD} -O3 -I${PROJECT_SOURCE_DIR} ${_code}
              -Werror all-warnings -Xcompiler=-fPIC,-Wall,-Wextra,-Werror
              -MD -MF ${_object}.d -c ${CMAKE_CURRENT_SOURCE_DIR}/${_source} -o ${_object}
      DEPENDS ${_source}
      DEPFILE ${_object}.d
      COMMENT "Building CUDA object ${_source}"
      VERBATIM)
    target_sources(${target} PRIVATE ${_object})
  endforeach()
endfunction()
