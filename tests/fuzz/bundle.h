// A bundle: several files as one input. Each is the number of its name, its size and its bytes; a
// name that is not in the list cannot be said, so that no input writes outside its folder.
//
//   bundle = opens (number size bytes)*      opens: the number of the file to open, or kOpensFolder
#ifndef SCONCE_TESTS_FUZZ_BUNDLE_H_
#define SCONCE_TESTS_FUZZ_BUNDLE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sconce {

inline constexpr uint8_t kOpensFolder = 255;

inline constexpr std::string_view kBundleNames[] = {
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "pytorch_model-00001-of-00002.bin",
    "pytorch_model-00002-of-00002.bin",
    ".metadata",
    "__0_0.distcp",
    "__1_0.distcp",
    "model.onnx",
    "model.onnx.data",
    "config.json",
    "model.safetensors",
    "pytorch_model.bin",
};

struct Bundle {
  struct File {
    uint8_t name = 0;  // index into kBundleNames
    std::string bytes;
  };

  uint8_t opens = kOpensFolder;
  std::vector<File> files;
};

// Bytes that are no bundle give what can be made of them.
Bundle DecodeBundle(std::string_view bytes);
std::string EncodeBundle(const Bundle& bundle);

}  // namespace sconce

#endif  // SCONCE_TESTS_FUZZ_BUNDLE_H_
