# What `cmake --install` gives beside the server: the package Sconce, with
#   Sconce::checkpoint  the reader of weights files; no torch
#   Sconce::models      the networks, what gives them weights, what runs programs; wants LibTorch
# docs/library.md lists the headers that are for users. They keep their places in the tree, under
# include/sconce.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(_package ${CMAKE_INSTALL_LIBDIR}/cmake/Sconce)
set(_headers ${CMAKE_INSTALL_INCLUDEDIR}/sconce)

function(sconce_install_headers)
  foreach(_header ${ARGN})
    cmake_path(GET _header PARENT_PATH _folder)
    install(FILES ${_header} DESTINATION ${_headers}/${_folder} COMPONENT library)
  endforeach()
endfunction()

# sconce_libraries_of(OUT TARGET): ours among the libraries that it is linked with, and itself.
function(sconce_libraries_of out target)
  set(_found ${target})
  set(_waiting ${target})
  while(_waiting)
    list(POP_FRONT _waiting _next)
    get_target_property(_linked ${_next} LINK_LIBRARIES)
    foreach(_library ${_linked})
      if(TARGET ${_library})
        get_target_property(_aliased ${_library} ALIASED_TARGET)
        if(_aliased)
          set(_library ${_aliased})
        endif()
        if(_library MATCHES "^sconce_" AND NOT _library IN_LIST _found)
          list(APPEND _found ${_library})
          list(APPEND _waiting ${_library})
        endif()
      endif()
    endforeach()
  endwhile()
  set(${out} ${_found} PARENT_SCOPE)
endfunction()

# sconce_install_libraries(PART TARGET...): sconce_NAME is Sconce::NAME, where it has no other name.
function(sconce_install_libraries part)
  foreach(_target ${ARGN})
    get_target_property(_name ${_target} EXPORT_NAME)
    if(NOT _name)
      string(REPLACE "sconce_" "" _name ${_target})
      set_target_properties(${_target} PROPERTIES EXPORT_NAME ${_name})
    endif()
    target_compile_features(${_target} INTERFACE cxx_std_20)
    install(TARGETS ${_target} EXPORT Sconce_${part}
            ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}/sconce COMPONENT library
            INCLUDES DESTINATION ${_headers})
  endforeach()
  install(EXPORT Sconce_${part} NAMESPACE Sconce:: FILE Sconce_${part}.cmake
          DESTINATION ${_package} COMPONENT library)
endfunction()

sconce_install_headers(
  server/base/dtype.h
  server/base/file.h
  server/checkpoint/checkpoint.h
  server/checkpoint/data/dense_read.h
  server/checkpoint/safetensors/safetensors_writer.h)
sconce_libraries_of(_checkpoint sconce_checkpoint)
sconce_install_libraries(checkpoint ${_checkpoint})

sconce_install_headers(
  models/architecture.h
  models/catalog.h
  models/foldable_norm.h
  models/module_net.h
  models/net.h
  models/plugin.h
  models/skip_init.h
  models/tensor_rules.h
  server/program/open_model.h
  server/program/program_options.h
  server/weights/load_state_dict.h
  server/weights/state_dict.h)
# What is linked for all of them has the name that is asked for.
set_target_properties(sconce_open_model PROPERTIES EXPORT_NAME models)
set_target_properties(sconce_models PROPERTIES EXPORT_NAME catalog)
sconce_libraries_of(_models sconce_open_model)
list(REMOVE_ITEM _models ${_checkpoint})
sconce_install_libraries(models ${_models})

configure_package_config_file(cmake/SconceConfig.cmake.in ${PROJECT_BINARY_DIR}/SconceConfig.cmake
  INSTALL_DESTINATION ${_package} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/SconceConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES
  ${PROJECT_BINARY_DIR}/SconceConfig.cmake
  ${PROJECT_BINARY_DIR}/SconceConfigVersion.cmake
  cmake/SconceTorch.cmake
  cmake/SconceXxhash.cmake
  DESTINATION ${_package} COMPONENT library)
