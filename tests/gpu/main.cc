// One process for all tests on the devices. Where there are none, it says so and ends with the
// status by which CTest knows a test that was skipped.
#include <ATen/Parallel.h>
#include <gmock/gmock.h>

#include <cstdio>
#include <string>
#include <vector>

#include "tests/gpu/backend.h"
#include "tests/gpu/suite.h"

namespace sconce::gpu {
namespace {

constexpr int kSkipped = 77;

std::vector<c10::Device>& Started() {
  static std::vector<c10::Device> devices;
  return devices;
}

}  // namespace

const std::vector<c10::Device>& Devices() { return Started(); }

}  // namespace sconce::gpu

int main(int argc, char** argv) {
  if (const auto status = sconce::gpu::RunAsOwner(argc, argv)) return *status;
  testing::InitGoogleMock(&argc, argv);
  // A fault stays with its process, and a forked child has no use of the devices: tests that need
  // another process start this program anew.
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  at::set_num_threads(1);
  auto devices = sconce::gpu::StartDevices();
  if (!devices.ok()) {
    std::printf("no GPU: skipped: %s\n", std::string(devices.status().message()).c_str());
    return sconce::gpu::kSkipped;
  }
  sconce::gpu::Started() = *std::move(devices);
  return RUN_ALL_TESTS();
}
