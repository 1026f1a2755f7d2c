// How a model's network is run: numbers, memory format and what is done to its inputs on the
// device. Part of a model's configuration (server/registry/model_config.h); a value type, free of
// torch.

#ifndef SCONCE_SERVER_DEVICE_EXECUTION_OPTIONS_H_
#define SCONCE_SERVER_DEVICE_EXECUTION_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <vector>

namespace sconce {

// Of weights and of what is computed between inputs and outputs; the signature stays as it is.
// kTf32 keeps FP32 and lets CUDA round the factors of matrix products and convolutions to 10 bits.
enum class Precision { kFp32, kTf32, kFp16, kBf16 };

enum class ImageLayout { kNchw, kNhwc };

// An input that clients send as UINT8 pixels and the network takes as numbers:
// y[n, c, h, w] = x * scale[c] + bias[c], rounded after the product and after the sum.
struct Normalisation {
  ImageLayout layout = ImageLayout::kNchw;  // of the pixels as they come
  std::vector<float> scale;                 // one per channel
  std::vector<float> bias;

  bool operator==(const Normalisation&) const = default;
};

// A tensor whose dimensions clients see otherwise than the network has them, the batch left out. As
// many elements; dimensions of -1 are of the same sizes, in order.
struct Reshape {
  std::vector<int64_t> served;
  std::vector<int64_t> network;

  bool operator==(const Reshape&) const = default;
};

struct ExecutionOptions {
  Precision precision = Precision::kFp32;
  // Weights and inputs of 4 dimensions are kept with their channels last in memory.
  bool channels_last = false;
  // Batch norms that follow a convolution are folded into its weights.
  bool fold_batch_norm = false;
  // Whether batches are replayed from captured graphs where the device has such.
  bool graphs = true;
  // By input, in the signature's order; empty: none is normalised.
  std::vector<std::optional<Normalisation>> normalise;
  // Likewise; empty: none is reshaped.
  std::vector<std::optional<Reshape>> reshape_inputs;
  std::vector<std::optional<Reshape>> reshape_outputs;

  bool operator==(const ExecutionOptions&) const = default;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_EXECUTION_OPTIONS_H_
