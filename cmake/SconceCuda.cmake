# Decides whether the CUDA parts are built, and says so. Sets SCONCE_WITH_CUDA.
set(SCONCE_WITH_CUDA OFF)
if(NOT SCONCE_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "SCONCE_CUDA=${SCONCE_CUDA}: expected AUTO, ON or OFF.")
endif()
if(NOT SCONCE_CUDA STREQUAL "OFF")
  find_package(CUDAToolkit QUIET)
  if(CUDAToolkit_FOUND AND CUDAToolkit_VERSION_MAJOR EQUAL 13)
    set(SCONCE_WITH_CUDA ON)
    message(STATUS "CUDA: building the CUDA parts with toolkit ${CUDAToolkit_VERSION}")
  elseif(SCONCE_CUDA STREQUAL "ON" AND EXISTS ${SCONCE_TORCH_DIR}/nvidia/cu13/include/crt/host_config.h)
    # The toolkit's headers and libraries, as scripts/setup unpacks them beside torch.
    set(SCONCE_WITH_CUDA ON)
    add_library(CUDA::cudart SHARED IMPORTED)
    set_target_properties(CUDA::cudart PROPERTIES
      IMPORTED_LOCATION ${SCONCE_TORCH_DIR}/nvidia/cu13/lib/libcudart.so.13
      INTERFACE_INCLUDE_DIRECTORIES ${SCONCE_TORCH_DIR}/nvidia/cu13/include)
    message(STATUS "CUDA: building the CUDA parts with the wheels' headers and libraries")
  elseif(SCONCE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SCONCE_CUDA=ON: expected a CUDA 13 toolkit, found "
                        "'${CUDAToolkit_VERSION}'; install one, set CUDAToolkit_ROOT, "
                        "or run scripts/setup with SCONCE_CUDA=ON.")
  else()
    message(STATUS "CUDA: no CUDA 13 toolkit found (${CUDAToolkit_VERSION}); this build serves on the CPU only")
  endif()
else()
  message(STATUS "CUDA: switched off; this build serves on the CPU only")
endif()

if(SCONCE_WITH_CUDA)
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
endif()
