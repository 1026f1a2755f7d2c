// That batches read rows from, and write rows to, memory of another process on the device.
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/device/accelerator.h"
#include "tests/gpu/backend.h"
#include "tests/gpu/suite.h"

namespace sconce::gpu {
namespace {

class GpuSharedMemory : public GpuTest {
 protected:
  absl::StatusOr<DeviceBytes> Open(const std::string& handle, int64_t size_bytes) const {
    return FindAccelerator(device_.type())->OpenShared(device_, handle, size_bytes);
  }
};

std::string BytesOf(const at::Tensor& tensor) {
  const at::Tensor whole = tensor.contiguous();
  return std::string(static_cast<const char*>(whole.const_data_ptr()), whole.nbytes());
}

// A part of it; keeps the whole.
DeviceBytes Part(const DeviceBytes& whole, int64_t offset, int64_t size_bytes) {
  return {
      whole.device,
      std::shared_ptr<void>(whole.address, static_cast<std::byte*>(whole.address.get()) + offset),
      size_bytes};
}

TEST_F(GpuSharedMemory, RowsComeFromItAndGoToIt) {
  const auto version = Load(SmallMlp(), device_);
  ASSERT_NE(version, nullptr);
  Replica& replica = *version->replicas.front();
  const at::Tensor rows = Normal(SmallMlp().Shape(4), 1);
  const at::Tensor expected = Answer(replica, rows);

  constexpr int64_t kInBytes = 2 * 64 * 4, kOutBytes = 2 * 32 * 4, kOutAt = 1024;
  const auto memory = NewForeignMemory(device_, kOutAt + kOutBytes);
  memory->Write(0, BytesOf(rows.narrow(0, 2, 2)));
  {
    const auto opened = Open(memory->handle(), kOutAt + kOutBytes);
    ASSERT_TRUE(opened.ok()) << opened.status();
    // The last two rows come out of the memory, what the first two give is also written to it.
    for (int repeat = 0; repeat < 3; ++repeat) {
      at::Tensor sent = rows.clone();
      sent.narrow(0, 2, 2).fill_(1e6);
      BatchInput batch = Batch(replica, sent);
      batch.from_device.push_back({0, kInBytes, Part(*opened, 0, kInBytes)});
      batch.to_device.push_back({0, 0, 2, Part(*opened, kOutAt, kOutBytes)});
      const auto outputs = replica.Run(std::move(batch));
      ASSERT_TRUE(outputs.ok()) << outputs.status();
      EXPECT_TRUE(at::equal(View(outputs->front()), expected));
      EXPECT_EQ(memory->Read(kOutAt, kOutBytes), BytesOf(expected.narrow(0, 0, 2)));
      memory->Write(kOutAt, std::string(kOutBytes, '\0'));
    }
  }
  // The owner still has it after it was closed here.
  EXPECT_EQ(memory->Read(0, kInBytes), BytesOf(rows.narrow(0, 2, 2)));
}

TEST_F(GpuSharedMemory, ATargetOfAnotherSizeIsRefused) {
  const auto version = Load(SmallMlp(), device_);
  ASSERT_NE(version, nullptr);
  Replica& replica = *version->replicas.front();
  const auto memory = NewForeignMemory(device_, 4096);
  const auto opened = Open(memory->handle(), 4096);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const at::Tensor rows = Normal(SmallMlp().Shape(2), 1);
  BatchInput batch = Batch(replica, rows);
  batch.to_device.push_back({0, 0, 2, Part(*opened, 0, 100)});
  const auto outputs = replica.Run(std::move(batch));
  EXPECT_TRUE(absl::IsInvalidArgument(outputs.status())) << outputs.status();
  Answer(replica, rows);
}

TEST_F(GpuSharedMemory, HandlesThatOpenNothingAreRefused) {
  const auto memory = NewForeignMemory(device_, 4096);
  for (const std::string& handle :
       {std::string(), std::string("no handle"), std::string(64, '\0'), std::string(64, '\x7f')}) {
    const auto opened = Open(handle, 16);
    EXPECT_TRUE(absl::IsInvalidArgument(opened.status())) << opened.status();
  }
  // CUDA gives memory in pieces of 2 MiB; more than one is too much in any case.
  const auto too_long = Open(memory->handle(), int64_t{1} << 30);
  EXPECT_TRUE(absl::IsInvalidArgument(too_long.status())) << too_long.status();
  EXPECT_TRUE(Open(memory->handle(), 4096).ok());
}

}  // namespace
}  // namespace sconce::gpu
