// That images are normalised on the devices as on the CPU, bit for bit; on CUDA by the kernel.
#include "server/device/execution/normalise.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randint.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <string>
#include <tuple>
#include <vector>

#include "server/device/accelerator.h"
#include "tests/gpu/backend.h"
#include "tests/gpu/suite.h"

namespace sconce::gpu {
namespace {

struct ImageSize {
  int64_t images, channels, height, width;
};

using NormaliseCase = std::tuple<ImageLayout, at::ScalarType, at::MemoryFormat>;

class GpuNormalise : public GpuTest, public testing::WithParamInterface<NormaliseCase> {};

TEST_P(GpuNormalise, GivesTheBitsOfTheCpu) {
  const auto [layout, dtype, format] = GetParam();
  // Whole vectors, remains of them, one pixel, more channels than colours, many blocks, nothing.
  for (const ImageSize& size :
       {ImageSize{2, 3, 16, 24}, ImageSize{3, 3, 7, 5}, ImageSize{1, 1, 9, 1},
        ImageSize{2, 5, 1, 1}, ImageSize{5, 3, 224, 224}, ImageSize{0, 3, 8, 8}}) {
    SCOPED_TRACE(testing::Message()
                 << size.images << "x" << size.channels << "x" << size.height << "x" << size.width);
    const bool last = layout == ImageLayout::kNhwc;
    const at::Tensor pixels =
        at::randint(0, 256,
                    {size.images, last ? size.height : size.channels,
                     last ? size.width : size.height, last ? size.channels : size.width},
                    at::kByte);
    const at::Tensor scale = Normal({size.channels}, 1), bias = Normal({size.channels}, 2);
    const auto output = [&](c10::Device device) {
      return at::empty({size.images, size.channels, size.height, size.width},
                       at::TensorOptions().dtype(dtype).device(device).memory_format(format));
    };
    at::Tensor expected = output(c10::kCPU);
    Normalise(pixels, layout, scale, bias, expected);

    const c10::StreamGuard on(
        c10::impl::VirtualGuardImpl(device_.type()).getStreamFromGlobalPool(device_));
    at::Tensor out = output(device_);
    const at::Tensor there = pixels.to(device_), scale_there = scale.to(device_),
                     bias_there = bias.to(device_);
    if (IsSimulated()) {
      Normalise(there, layout, scale_there, bias_there, out);
    } else {
      const Accelerator* accelerator = FindAccelerator(device_.type());
      ASSERT_NE(accelerator, nullptr);
      ASSERT_TRUE(accelerator->Normalise(there, layout, scale_there, bias_there, out));
    }
    EXPECT_TRUE(at::equal(out.to(at::kCPU), expected));
  }
}

std::string NameOf(const testing::TestParamInfo<NormaliseCase>& info) {
  const auto [layout, dtype, format] = info.param;
  return std::string(layout == ImageLayout::kNhwc ? "Nhwc" : "Nchw") + "To" + c10::toString(dtype) +
         (format == at::MemoryFormat::ChannelsLast ? "ChannelsLast" : "");
}

INSTANTIATE_TEST_SUITE_P(, GpuNormalise,
                         testing::Combine(testing::Values(ImageLayout::kNchw, ImageLayout::kNhwc),
                                          testing::Values(at::kFloat, at::kHalf, at::kBFloat16),
                                          testing::Values(at::MemoryFormat::Contiguous,
                                                          at::MemoryFormat::ChannelsLast)),
                         NameOf);

}  // namespace
}  // namespace sconce::gpu
