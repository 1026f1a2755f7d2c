#include "server/device/upload/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace sconce {
namespace {

using Kind = InstanceGroup::Kind;
using On = Placement::OnDevice;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

DeviceState Gpu(int32_t number, int64_t free_bytes) {
  DeviceState device;
  device.name = "cuda:" + std::to_string(number);
  device.is_accelerator = true;
  device.number = number;
  device.free_bytes = free_bytes;
  device.total_bytes = 1000;
  device.weights_bytes = 100;
  device.replica_bytes = 10;
  return device;
}

DeviceState Cpu() {
  DeviceState device;
  device.name = "cpu";
  device.weights_bytes = 100;
  return device;
}

DeviceState Lost(DeviceState device) {
  device.lost = "an illegal address";
  return device;
}

// The CPU comes behind the devices, as it does unless it was chosen.
absl::StatusOr<Placement> Place(std::vector<DeviceState> devices,
                                const std::vector<InstanceGroup>& groups, int64_t cap_bytes = 0) {
  const size_t chosen = devices.size();
  devices.push_back(Cpu());
  return PlaceReplicas(devices, chosen, groups, cap_bytes);
}

void ExpectPlaced(const absl::StatusOr<Placement>& placement, const std::vector<On>& expected) {
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_EQ(placement->devices, expected);
}

void ExpectRefused(const absl::StatusOr<Placement>& placement, absl::StatusCode code,
                   const std::string& message) {
  ASSERT_FALSE(placement.ok());
  EXPECT_EQ(placement.status().code(), code);
  EXPECT_EQ(std::string(placement.status().message()), message);
}

TEST(PlacementTest, OneReplicaOnEachDeviceUnlessToldOtherwise) {
  ExpectPlaced(Place({Gpu(0, 500), Gpu(1, 500)}, {}), {{0, 1}, {1, 1}});
  ExpectPlaced(Place({Gpu(0, 500)}, {{3, Kind::kAuto, {}}}), {{0, 3}});
  // The CPU alone was chosen.
  ExpectPlaced(PlaceReplicas({Cpu()}, 1, {}, 0), {{0, 1}});
}

TEST(PlacementTest, GroupsPickDevicesByKindAndNumber) {
  const std::vector<DeviceState> gpus = {Gpu(0, 500), Gpu(2, 500)};
  ExpectPlaced(Place(gpus, {{1, Kind::kGpu, {}}}), {{0, 1}, {1, 1}});
  ExpectPlaced(Place(gpus, {{1, Kind::kGpu, {2}}}), {{1, 1, true}});
  ExpectPlaced(Place(gpus, {{1, Kind::kAuto, {0}}}), {{0, 1, true}});
  ExpectPlaced(Place(gpus, {{2, Kind::kCpu, {}}}), {{2, 2, true}});
  ExpectPlaced(Place(gpus, {{2, Kind::kGpu, {2}}, {1, Kind::kCpu, {}}, {1, Kind::kAuto, {}}}),
               {{0, 1}, {1, 3, true}, {2, 1, true}});
}

TEST(PlacementTest, DeviceThatIsNotThereIsAnError) {
  ExpectRefused(
      Place({Gpu(0, 500), Gpu(2, 500)}, {{1, Kind::kGpu, {0, 1}}}),
      absl::StatusCode::kInvalidArgument,
      "config.pbtxt: instance_group: gpus: there is no device 1, this server has cuda:0, cuda:2");
  ExpectRefused(PlaceReplicas({Cpu()}, 1, {{1, Kind::kGpu, {}}}, 0),
                absl::StatusCode::kInvalidArgument,
                "config.pbtxt: instance_group: KIND_GPU: this server has cpu");
}

TEST(PlacementTest, WeightsCountOncePerDeviceAndReplicasEach) {
  ExpectPlaced(Place({Gpu(0, 130)}, {{3, Kind::kAuto, {}}}), {{0, 3}});
  ExpectRefused(
      Place({Gpu(0, 129)}, {{3, Kind::kAuto, {}}}), absl::StatusCode::kResourceExhausted,
      "no device can take the model: cuda:0: 130 bytes of memory are needed (weights 100, 3 "
      "replicas of 10), 129 of 1000 are free");
  // Two groups on one device share the weights.
  ExpectPlaced(Place({Gpu(0, 130)}, {{1, Kind::kAuto, {}}, {2, Kind::kGpu, {0}}}), {{0, 3, true}});
  EXPECT_FALSE(Place({Gpu(0, 129)}, {{1, Kind::kAuto, {}}, {2, Kind::kGpu, {0}}}).ok());
}

TEST(PlacementTest, DeviceWithoutRoomIsLeftOutAndSaidSo) {
  const auto placement = Place({Gpu(0, 500), Gpu(1, 50), Gpu(2, 110)}, {});
  ExpectPlaced(placement, {{0, 1}, {2, 1}});
  EXPECT_THAT(
      placement->left_out,
      ElementsAre(
          "cuda:1: 110 bytes of memory are needed (weights 100, 1 replica of 10), 50 of 1000 "
          "are free"));
  EXPECT_THAT(Place({Gpu(0, 500)}, {})->left_out, IsEmpty());
}

TEST(PlacementTest, EveryDeviceIsNamedWhereNoneHasRoom) {
  const auto placement = Place({Gpu(0, 70), Gpu(1, 50)}, {});
  EXPECT_EQ(placement.status().code(), absl::StatusCode::kResourceExhausted);
  const std::string message(placement.status().message());
  EXPECT_THAT(message, HasSubstr("cuda:0: 110 bytes of memory are needed"));
  EXPECT_THAT(message, HasSubstr("70 of 1000 are free; cuda:1: 110 bytes"));
  EXPECT_THAT(message, HasSubstr("50 of 1000 are free"));
}

TEST(PlacementTest, DeviceThatWasNamedMustHaveRoom) {
  ExpectRefused(
      Place({Gpu(0, 500), Gpu(1, 50)}, {{1, Kind::kGpu, {0, 1}}}),
      absl::StatusCode::kResourceExhausted,
      "cuda:1: 110 bytes of memory are needed (weights 100, 1 replica of 10), 50 of 1000 are free");
}

TEST(PlacementTest, CapBoundsWhatAVersionTakesOfADevice) {
  ExpectPlaced(Place({Gpu(0, 500)}, {}, 110), {{0, 1}});
  ExpectRefused(
      Place({Gpu(0, 500)}, {}, 109), absl::StatusCode::kFailedPrecondition,
      "no device can take the model: cuda:0: 110 bytes of memory are needed (weights 100, 1 "
      "replica of 10), device_memory_cap_bytes is 109");
  ExpectPlaced(Place({Gpu(0, 500)}, {{1, Kind::kCpu, {}}}, 100), {{1, 1, true}});
  ExpectRefused(Place({Gpu(0, 500)}, {{1, Kind::kCpu, {}}}, 99),
                absl::StatusCode::kFailedPrecondition,
                "cpu: 100 bytes of memory are needed, device_memory_cap_bytes is 99");
}

TEST(PlacementTest, CapBoundsTheVersionsThatAreThereAtATime) {
  DeviceState cpu = Cpu();
  cpu.model_bytes = 100;
  ExpectPlaced(PlaceReplicas({{cpu}}, 1, {}, 200), {{0, 1}});
  ExpectRefused(PlaceReplicas({{cpu}}, 1, {}, 199), absl::StatusCode::kResourceExhausted,
                "no device can take the model: cpu: 100 bytes of memory are needed, 99 are free of "
                "the 199 that device_memory_cap_bytes allows the model");
  // What they have in common counts once.
  cpu.shared_bytes = 1;
  ExpectPlaced(PlaceReplicas({{cpu}}, 1, {}, 199), {{0, 1}});
}

TEST(PlacementTest, WhatIsThereAlreadyNeedsNoRoom) {
  DeviceState gpu = Gpu(0, 50);
  gpu.shared_bytes = 59;
  EXPECT_FALSE(PlaceReplicas({{gpu}}, 1, {}, 0).ok());
  gpu.shared_bytes = 60;
  ExpectPlaced(PlaceReplicas({{gpu}}, 1, {}, 0), {{0, 1}});
}

TEST(PlacementTest, TheCpusMemoryIsLimitedWhereItIsKnown) {
  DeviceState cpu = Cpu();
  cpu.free_bytes = 99;
  cpu.total_bytes = 1000;
  ExpectRefused(PlaceReplicas({{cpu}}, 1, {}, 0), absl::StatusCode::kResourceExhausted,
                "no device can take the model: cpu: 100 bytes of memory are needed, 99 of 1000 are "
                "free");
}

TEST(PlacementTest, SaysWhetherADeviceWasLeftOutForWantOfMemory) {
  EXPECT_FALSE(Place({Gpu(0, 500), Gpu(1, 500)}, {})->short_of_memory);
  EXPECT_TRUE(Place({Gpu(0, 500), Gpu(1, 50)}, {})->short_of_memory);
  EXPECT_FALSE(Place({Gpu(0, 500), Lost(Gpu(1, 50))}, {})->short_of_memory);
}

TEST(PlacementTest, LostDevicesAreNotUsed) {
  const auto placement = Place({Lost(Gpu(0, 500)), Gpu(1, 500)}, {});
  ExpectPlaced(placement, {{1, 1}});
  EXPECT_THAT(placement->left_out, ElementsAre("cuda:0 is lost: an illegal address"));
  ExpectRefused(Place({Lost(Gpu(0, 500))}, {}), absl::StatusCode::kUnavailable,
                "no device can take the model: cuda:0 is lost: an illegal address");
  ExpectRefused(Place({Lost(Gpu(0, 500)), Gpu(1, 500)}, {{1, Kind::kGpu, {0}}}),
                absl::StatusCode::kUnavailable, "cuda:0 is lost: an illegal address");
  // Where some are lost and others too small, memory may still come free.
  EXPECT_EQ(Place({Lost(Gpu(0, 500)), Gpu(1, 5)}, {}).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace sconce
