// The names under which Hugging Face's libraries put weights into a folder, for those who look for
// a model's weights in one: the first that is there is meant.
#ifndef SCONCE_SERVER_CHECKPOINT_FOLDER_KNOWN_NAMES_H_
#define SCONCE_SERVER_CHECKPOINT_FOLDER_KNOWN_NAMES_H_

#include <array>
#include <string_view>

namespace sconce {

// In the order in which transformers looks for them.
inline constexpr std::array<std::string_view, 4> kKnownWeightsNames = {
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model.bin.index.json"};

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_FOLDER_KNOWN_NAMES_H_
