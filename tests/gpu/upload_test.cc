// That the weights on a device are, bit for bit, those of the file, cast where that is asked for.
#include <ATen/ops/equal.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <memory>
#include <string>
#include <vector>

#include "models/catalog.h"
#include "server/device/upload/pooled_weights.h"
#include "server/weights/load_state_dict.h"
#include "server/weights/state_dict.h"
#include "tests/gpu/backend.h"
#include "tests/gpu/suite.h"

namespace sconce::gpu {
namespace {

std::unique_ptr<models::Net> NewNet(const Checkpoint& checkpoint) {
  const auto layout = DescribeState(checkpoint);
  if (!layout.ok()) return nullptr;
  const auto detection = models::Detect(layout->tensors, {});
  if (!detection.ok()) return nullptr;
  auto net = detection->architecture->Create(detection->parameters);
  return net.ok() ? *std::move(net) : nullptr;
}

class GpuUpload : public GpuTest, public testing::WithParamInterface<LoadOptions> {};

TEST_P(GpuUpload, PutsTheBitsOfTheFileOnEveryDevice) {
  const LoadOptions& options = GetParam();
  const auto checkpoint = OpenCheckpoint(WeightsFile(ResNet18(), 3));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto state = ReadStateDict(**checkpoint);
  ASSERT_TRUE(state.ok()) << state.status();
  const auto expected = NewNet(**checkpoint);
  ASSERT_NE(expected, nullptr);
  ASSERT_TRUE(LoadStateDict(*expected, *state, options).ok());

  std::vector<std::unique_ptr<models::Net>> nets;
  std::vector<WeightsTarget> targets;
  for (const c10::Device device : Devices()) {
    nets.push_back(NewNet(**checkpoint));
    targets.push_back(
        {device, c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device)});
  }
  const auto fit = FitStateDict(*nets[0], OutlineStateDict(**checkpoint), options);
  ASSERT_TRUE(fit.ok()) << fit.status();
  const auto plan = PlanUpload(**checkpoint, *nets[0], *fit, options.form);
  ASSERT_TRUE(plan.ok()) << plan.status();
  DeviceHealth health;
  TensorPool pool;
  const auto loaded = LoadWeights(**checkpoint, *plan, targets, {&pool, &health});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->weights_id, state->weights_id);
  for (size_t d = 0; d < nets.size(); ++d) {
    loaded->resident[d]->AssignTo(*nets[d]);
    const auto got = nets[d]->State(), want = expected->State();
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].tensor.device(), Devices()[d]);
      EXPECT_EQ(got[i].tensor.strides(), want[i].tensor.strides()) << got[i].name;
      EXPECT_TRUE(at::equal(got[i].tensor.to(at::kCPU), want[i].tensor)) << got[i].name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, GpuUpload,
                         testing::Values(LoadOptions{}, LoadOptions{true, {std::nullopt, true}},
                                         LoadOptions{true, {at::kHalf, false}},
                                         LoadOptions{true, {at::kBFloat16, true}}),
                         [](const auto& info) {
                           const WeightsForm& form = info.param.form;
                           return std::string(form.floating ? c10::toString(*form.floating)
                                                            : "AsSaved") +
                                  (form.channels_last ? "ChannelsLast" : "");
                         });

}  // namespace
}  // namespace sconce::gpu
