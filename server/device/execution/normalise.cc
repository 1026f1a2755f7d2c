#include "server/device/execution/normalise.h"

#include <ATen/Parallel.h>
#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <vector>

#include "server/device/accelerator.h"
#include "server/device/execution/normalise_index.h"

namespace sconce {
namespace {

// Least work that is worth a second thread.
constexpr int64_t kElementsPerThread = 1 << 16;
// Long enough for the loop over a run to outweigh what finds the run.
constexpr uint64_t kInterleavedRun = 1024;

void Check(const at::Tensor& pixels, ImageLayout layout, const at::Tensor& scale,
           const at::Tensor& bias, const at::Tensor& out) {
  TORCH_CHECK(pixels.scalar_type() == at::kByte && pixels.dim() == 4 && pixels.is_contiguous(),
              "Normalise: expected contiguous UINT8 pixels of 4 dimensions, got ",
              pixels.toString(), " ", pixels.sizes());
  const bool last = layout == ImageLayout::kNhwc;
  const std::vector<int64_t> expected = {pixels.size(0), pixels.size(last ? 3 : 1),
                                         pixels.size(last ? 1 : 2), pixels.size(last ? 2 : 3)};
  TORCH_CHECK(out.sizes().vec() == expected, "Normalise: expected an output of shape ",
              at::IntArrayRef(expected), ", got ", out.sizes());
  TORCH_CHECK(out.scalar_type() == at::kFloat || out.scalar_type() == at::kHalf ||
                  out.scalar_type() == at::kBFloat16,
              "Normalise: expected an output of FP32, FP16 or BF16, got ", out.scalar_type());
  TORCH_CHECK(out.is_contiguous() || out.is_contiguous(at::MemoryFormat::ChannelsLast),
              "Normalise: expected an output that is contiguous or channels-last");
  for (const at::Tensor* factor : {&scale, &bias}) {
    TORCH_CHECK(factor->scalar_type() == at::kFloat && factor->dim() == 1 &&
                    factor->size(0) == expected[1] && factor->is_contiguous(),
                "Normalise: expected ", expected[1], " FP32 for as many channels, got ",
                factor->toString(), " ", factor->sizes());
    TORCH_CHECK(factor->device() == pixels.device(), "Normalise: expected all on ", pixels.device(),
                ", got ", factor->device());
  }
  TORCH_CHECK(out.device() == pixels.device(), "Normalise: expected all on ", pixels.device(),
              ", got ", out.device());
}

// One run whose steps the compiler knows where they are 1, which is what lets it use vectors.
template <typename Target, bool kSourceDense, bool kTargetDense>
void NormaliseStrided(const NormaliseRun<uint64_t>& run, const uint8_t* source, float scale,
                      float bias, Target* target) {
  source += run.source;
  target += run.target;
  const uint64_t source_step = kSourceDense ? 1 : run.source_step;
  const uint64_t target_step = kTargetDense ? 1 : run.target_step;
  for (uint64_t k = 0; k < run.length; ++k) {
    target[k * target_step] =
        static_cast<Target>(static_cast<float>(source[k * source_step]) * scale + bias);
  }
}

// On the CPU a run is a whole plane, or, where the channels come last on both sides, as many whole
// pixels as make it long: its scales and biases are then the same for every run.
template <typename Target>
void NormaliseOnCpu(const uint8_t* source, const float* scale, const float* bias,
                    NormalisePlan<uint64_t> plan, Target* target) {
  const bool flat = plan.source_channels_last && plan.target_channels_last;
  std::vector<float> scales, biases;
  if (flat) {
    plan.run_length = (kInterleavedRun / plan.channels + 1) * plan.channels;
    for (uint64_t k = 0; k < plan.run_length; ++k) {
      scales.push_back(scale[k % plan.channels]);
      biases.push_back(bias[k % plan.channels]);
    }
  } else {
    plan.run_length = plan.pixels;
  }
  const auto runs = static_cast<int64_t>(CountRuns(plan));
  const int64_t grain = kElementsPerThread / static_cast<int64_t>(plan.run_length) + 1;
  at::parallel_for(0, runs, grain, [&](int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i) {
      const auto run = RunAt(plan, static_cast<uint64_t>(i));
      if (flat) {
        for (uint64_t k = 0; k < run.length; ++k) {
          target[run.target + k] = static_cast<Target>(
              static_cast<float>(source[run.source + k]) * scales[k] + biases[k]);
        }
        continue;
      }
      const float s = scale[run.channel], b = bias[run.channel];
      if (plan.source_channels_last) {
        NormaliseStrided<Target, false, true>(run, source, s, b, target);
      } else if (plan.target_channels_last) {
        NormaliseStrided<Target, true, false>(run, source, s, b, target);
      } else {
        NormaliseStrided<Target, true, true>(run, source, s, b, target);
      }
    }
  });
}

void NormaliseOnCpu(const at::Tensor& pixels, ImageLayout layout, const at::Tensor& scale,
                    const at::Tensor& bias, at::Tensor& out) {
  NormalisePlan<uint64_t> plan;
  plan.images = static_cast<uint64_t>(out.size(0));
  plan.channels = static_cast<uint64_t>(out.size(1));
  plan.pixels = static_cast<uint64_t>(out.size(2) * out.size(3));
  plan.source_channels_last = layout == ImageLayout::kNhwc;
  plan.target_channels_last = !out.is_contiguous();
  const auto run = [&](auto* target) {
    NormaliseOnCpu(pixels.const_data_ptr<uint8_t>(), scale.const_data_ptr<float>(),
                   bias.const_data_ptr<float>(), plan, target);
  };
  switch (out.scalar_type()) {
    case at::kHalf:
      return run(out.data_ptr<at::Half>());
    case at::kBFloat16:
      return run(out.data_ptr<at::BFloat16>());
    default:
      return run(out.data_ptr<float>());
  }
}

void NormaliseByOperators(const at::Tensor& pixels, ImageLayout layout, const at::Tensor& scale,
                          const at::Tensor& bias, at::Tensor& out) {
  const at::Tensor planes = layout == ImageLayout::kNhwc ? pixels.permute({0, 3, 1, 2}) : pixels;
  out.copy_(planes.to(at::kFloat).mul_(scale.view({-1, 1, 1})).add_(bias.view({-1, 1, 1})));
}

}  // namespace

void Normalise(const at::Tensor& pixels, ImageLayout layout, const at::Tensor& scale,
               const at::Tensor& bias, at::Tensor& out) {
  Check(pixels, layout, scale, bias, out);
  if (out.numel() == 0) return;
  if (pixels.is_cpu()) return NormaliseOnCpu(pixels, layout, scale, bias, out);
  const Accelerator* accelerator = FindAccelerator(pixels.device().type());
  if (accelerator != nullptr && accelerator->Normalise(pixels, layout, scale, bias, out)) return;
  NormaliseByOperators(pixels, layout, scale, bias, out);
}

}  // namespace sconce
