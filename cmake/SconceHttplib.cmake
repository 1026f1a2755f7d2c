# cpp-httplib: header with a compiled library where the distribution splits it, header-only elsewhere.
find_path(HTTPLIB_INCLUDE_DIR httplib.h REQUIRED)
find_library(HTTPLIB_LIBRARY cpp-httplib)
if(NOT TARGET httplib::httplib)
  add_library(httplib::httplib INTERFACE IMPORTED)
  target_include_directories(httplib::httplib SYSTEM INTERFACE ${HTTPLIB_INCLUDE_DIR})
  if(HTTPLIB_LIBRARY)
    target_link_libraries(httplib::httplib INTERFACE ${HTTPLIB_LIBRARY})
    # As the library was compiled: they change the layout of its classes.
    target_compile_definitions(httplib::httplib INTERFACE
      CPPHTTPLIB_OPENSSL_SUPPORT CPPHTTPLIB_ZLIB_SUPPORT CPPHTTPLIB_BROTLI_SUPPORT)
  endif()
  target_link_libraries(httplib::httplib INTERFACE Threads::Threads)
endif()
