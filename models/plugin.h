// What a plugin is: a shared library that brings architectures of its own, which are then detected,
// loaded strictly, swapped, batched and placed like those of the catalog. clients/plugin-example is
// one to begin with.
//
// The library says first what it was built for (PluginHeader, plain C), and nothing else of it is
// touched before that has been found to be what the server was built for: behind it lies C++ whose
// layout depends on it. A library that has been loaded stays until the process ends.
#ifndef SCONCE_MODELS_PLUGIN_H_
#define SCONCE_MODELS_PLUGIN_H_

#include <absl/base/config.h>
#include <torch/headeronly/version.h>

#include <cstdint>
#include <vector>

#include "models/architecture.h"

namespace sconce::models {

// Counts up whenever one of architecture.h, net.h, tensor_rules.h or this file changes what a
// plugin and the server have to agree on.
inline constexpr uint32_t kPluginInterface = 2;

#define SCONCE_PLUGIN_TEXT_OF(macro) #macro
#define SCONCE_PLUGIN_TEXT(macro) SCONCE_PLUGIN_TEXT_OF(macro)
// What decides how C++ objects lie in memory and what functions are called.
inline constexpr char kPluginAbi[] =
    "Itanium C++ ABI " SCONCE_PLUGIN_TEXT(__GXX_ABI_VERSION) ", std::string " SCONCE_PLUGIN_TEXT(
        _GLIBCXX_USE_CXX11_ABI) ", Abseil " SCONCE_PLUGIN_TEXT(ABSL_LTS_RELEASE_VERSION);

// Fields are only ever added at the end, with a higher kPluginInterface.
struct PluginHeader {
  uint32_t interface_version;
  const char* torch_version;
  const char* abi;
  // What the plugin offers; the architectures live as long as the process. May throw.
  const std::vector<const Architecture*>& (*architectures)();
};

// The name of the function that SCONCE_PLUGIN defines.
inline constexpr char kPluginSymbol[] = "sconce_plugin";
using PluginFunction = const PluginHeader* (*)();

}  // namespace sconce::models

// To be written once in a plugin, outside of any namespace; `function` is of the type of
// PluginHeader::architectures.
#define SCONCE_PLUGIN(function)                                                                    \
  extern "C" __attribute__((visibility("default"))) const ::sconce::models::PluginHeader*          \
  sconce_plugin() {                                                                                \
    static const ::sconce::models::PluginHeader header = {::sconce::models::kPluginInterface,      \
                                                          TORCH_VERSION,                           \
                                                          ::sconce::models::kPluginAbi, function}; \
    return &header;                                                                                \
  }

#endif  // SCONCE_MODELS_PLUGIN_H_
