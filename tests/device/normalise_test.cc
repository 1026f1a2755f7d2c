// That images are normalised alike, bit for bit, on the CPU, on a device without a kernel and by
// LibTorch's own operators.
#include "server/device/execution/normalise.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <c10/core/StreamGuard.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "tests/device/sim_test.h"

namespace sconce {
namespace {

using testing::HasSubstr;

struct ImageCase {
  int64_t images, channels, height, width;
};

at::Tensor Pixels(const ImageCase& size, ImageLayout layout) {
  return layout == ImageLayout::kNhwc
             ? at::randint(0, 256, {size.images, size.height, size.width, size.channels}, at::kByte)
             : at::randint(0, 256, {size.images, size.channels, size.height, size.width},
                           at::kByte);
}

at::Tensor Output(const ImageCase& size, at::ScalarType dtype, at::MemoryFormat format,
                  c10::Device device = c10::kCPU) {
  return at::empty({size.images, size.channels, size.height, size.width},
                   at::TensorOptions().dtype(dtype).device(device).memory_format(format));
}

at::Tensor ByOperators(const at::Tensor& pixels, ImageLayout layout, const at::Tensor& scale,
                       const at::Tensor& bias, at::ScalarType dtype) {
  const at::Tensor planes = layout == ImageLayout::kNhwc ? pixels.permute({0, 3, 1, 2}) : pixels;
  const at::Tensor product = planes.to(at::kFloat).mul(scale.view({1, -1, 1, 1}));
  return product.add(bias.view({1, -1, 1, 1})).to(dtype);
}

using NormaliseParams = std::tuple<ImageLayout, at::ScalarType, at::MemoryFormat>;

class NormaliseTest : public SimTest, public testing::WithParamInterface<NormaliseParams> {};

TEST_P(NormaliseTest, IsTheSameBitForBitEverywhere) {
  const auto [layout, dtype, format] = GetParam();
  for (const ImageCase& size :
       {ImageCase{2, 3, 16, 24}, ImageCase{3, 3, 7, 5}, ImageCase{1, 1, 9, 1},
        ImageCase{2, 5, 1, 1}, ImageCase{40, 3, 33, 65}, ImageCase{0, 3, 8, 8}}) {
    SCOPED_TRACE(testing::Message()
                 << size.images << "x" << size.channels << "x" << size.height << "x" << size.width);
    const at::Tensor pixels = Pixels(size, layout);
    const at::Tensor scale = at::randn({size.channels}), bias = at::randn({size.channels});
    const at::Tensor expected = ByOperators(pixels, layout, scale, bias, dtype);

    at::Tensor on_cpu = Output(size, dtype, format);
    Normalise(pixels, layout, scale, bias, on_cpu);
    EXPECT_TRUE(at::equal(on_cpu, expected));

    const c10::StreamGuard on(simdevice::NewStream(sim0_));
    at::Tensor on_sim = Output(size, dtype, format, sim0_);
    Normalise(pixels.to(sim0_), layout, scale.to(sim0_), bias.to(sim0_), on_sim);
    EXPECT_EQ(on_sim.is_contiguous(), on_cpu.is_contiguous());
    EXPECT_TRUE(at::equal(on_sim.to(at::kCPU), expected));
  }
}

std::string NameOf(const testing::TestParamInfo<NormaliseParams>& info) {
  const auto [layout, dtype, format] = info.param;
  return std::string(layout == ImageLayout::kNhwc ? "Nhwc" : "Nchw") + "To" + c10::toString(dtype) +
         (format == at::MemoryFormat::ChannelsLast ? "ChannelsLast" : "");
}

INSTANTIATE_TEST_SUITE_P(, NormaliseTest,
                         testing::Combine(testing::Values(ImageLayout::kNchw, ImageLayout::kNhwc),
                                          testing::Values(at::kFloat, at::kHalf, at::kBFloat16),
                                          testing::Values(at::MemoryFormat::Contiguous,
                                                          at::MemoryFormat::ChannelsLast)),
                         NameOf);

class NormaliseRules : public SimTest {};

// 1/255 * 255 and the like: a fused multiply and add would round once and give another last bit.
TEST_F(NormaliseRules, TheProductIsRoundedBeforeTheSum) {
  const at::Tensor pixels = Pixels({1, 1, 16, 16}, ImageLayout::kNchw);
  at::Tensor all = pixels.flatten();
  for (int64_t i = 0; i < 256; ++i) all[i] = i;
  const at::Tensor scale = at::full({1}, 1.f / 58.395f), bias = at::full({1}, -123.675f / 58.395f);
  at::Tensor out = Output({1, 1, 16, 16}, at::kFloat, at::MemoryFormat::Contiguous);
  Normalise(pixels, ImageLayout::kNchw, scale, bias, out);
  int differs_from_fused = 0;
  for (int i = 0; i < 256; ++i) {
    const volatile float product = static_cast<float>(i) * (1.f / 58.395f);
    const float expected = product + -123.675f / 58.395f;
    EXPECT_EQ(out.flatten()[i].item<float>(), expected);
    differs_from_fused +=
        std::fma(static_cast<float>(i), 1.f / 58.395f, -123.675f / 58.395f) != expected;
  }
  EXPECT_GT(differs_from_fused, 0);
}

TEST_F(NormaliseRules, WhatDoesNotFitIsRefused) {
  const at::Tensor pixels = Pixels({2, 3, 4, 4}, ImageLayout::kNchw);
  const at::Tensor three = at::randn({3});
  const auto message = [&](const at::Tensor& x, const at::Tensor& scale, at::Tensor out) {
    try {
      Normalise(x, ImageLayout::kNchw, scale, three, out);
    } catch (const c10::Error& e) {
      return std::string(e.what());
    }
    return std::string("nothing was thrown");
  };
  const at::Tensor out = Output({2, 3, 4, 4}, at::kFloat, at::MemoryFormat::Contiguous);
  EXPECT_THAT(message(pixels.to(at::kFloat), three, out), HasSubstr("expected contiguous UINT8"));
  EXPECT_THAT(message(pixels, at::randn({4}), out), HasSubstr("expected 3 FP32"));
  EXPECT_THAT(message(pixels, three.to(sim0_), out), HasSubstr("expected all on cpu, got sim:0"));
  EXPECT_THAT(message(pixels, three, out.narrow(0, 0, 1)), HasSubstr("of shape [2, 3, 4, 4]"));
  EXPECT_THAT(message(pixels, three, out.transpose(2, 3)),
              HasSubstr("contiguous or channels-last"));
  EXPECT_THAT(message(pixels, three, out.to(at::kDouble)), HasSubstr("FP32, FP16 or BF16"));
}

}  // namespace
}  // namespace sconce
