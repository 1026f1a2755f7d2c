// Normalise: images of UINT8 pixels become the numbers a network takes, on the device they are on.
// Three ways with one result, bit for bit: a loop on the CPU, the accelerator's kernel where there
// is one, LibTorch's operators elsewhere.
//
// Callable from any thread; queued on the current stream. Throws what LibTorch throws.

#ifndef SCONCE_SERVER_DEVICE_EXECUTION_NORMALISE_H_
#define SCONCE_SERVER_DEVICE_EXECUTION_NORMALISE_H_

#include <ATen/core/Tensor.h>

#include "server/device/execution_options.h"

namespace sconce {

// out[n, c, h, w] = pixel * scale[c] + bias[c]: the product rounded to FP32, the sum rounded to
// FP32, then to the type of `out`. `pixels`: UINT8 [N, C, H, W] or [N, H, W, C] as `layout` says,
// contiguous. `out`: [N, C, H, W] of FP32, FP16 or BF16, contiguous or channels-last. `scale` and
// `bias`: FP32 [C], contiguous. All on one device. Throws c10::Error where they are not so.
void Normalise(const at::Tensor& pixels, ImageLayout layout, const at::Tensor& scale,
               const at::Tensor& bias, at::Tensor& out);

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_EXECUTION_NORMALISE_H_
