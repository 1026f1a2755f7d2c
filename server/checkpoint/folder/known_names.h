// The names that files of a model's folder have by convention, for those who look for them.
#ifndef SCONCE_SERVER_CHECKPOINT_FOLDER_KNOWN_NAMES_H_
#define SCONCE_SERVER_CHECKPOINT_FOLDER_KNOWN_NAMES_H_

#include <array>
#include <string_view>

namespace sconce {

// Those that Hugging Face's libraries give to weights, in the order in which transformers looks for
// them: the first that is there is meant.
inline constexpr std::array<std::string_view, 4> kKnownWeightsNames = {
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model.bin.index.json"};

// With these ends a name is that of a weights file.
inline constexpr std::array<const char*, 5> kWeightsExtensions = {".pth", ".pt", ".bin", ".ckpt",
                                                                  ".safetensors"};

// What lies beside the weights of a Hugging Face folder, or in it, and says what they are of.
inline constexpr std::array<const char*, 3> kHuggingFaceNames = {"config.json", "modules.json",
                                                                 "1_Pooling/config.json"};

// A file beside the weights that has one of these names says what is computed with them.
inline constexpr std::array<std::string_view, 4> kProgramNames = {"program.pt2", "program.pt",
                                                                  "program.onnx", "plugin.so"};

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_FOLDER_KNOWN_NAMES_H_
