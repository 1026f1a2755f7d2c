// Inputs out of, and outputs into, a device's memory; and what is left when memory runs out or the
// device breaks with several batches under way.
#include <ATen/DeviceAccelerator.h>
#include <ATen/ops/full.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/device/replica_fixture.h"

namespace sconce {
namespace {

using testing::HasSubstr;

constexpr int64_t kRowBytes = 8 * 4;

class ReplicaMemory : public SimTest {
 protected:
  ReplicaMemory() {
    for (const c10::Device device : {c10::Device(c10::kCPU), sim0_}) {
      replicas_.push_back(std::make_unique<TorchReplica>(
          MakeFunction({8}, [](const at::Tensor& x) { return x.mul(2).add(1); }), device,
          ExecutionOptions{}, nullptr));
    }
  }

  static DeviceBytes BytesOf(const at::Tensor& tensor) {
    return {tensor.device().str(),
            std::shared_ptr<void>(std::make_shared<at::Tensor>(tensor), tensor.data_ptr()),
            static_cast<int64_t>(tensor.nbytes())};
  }
  // Values that are there when it returns, as another process's are.
  static at::Tensor OnDevice(const at::Tensor& values, c10::Device device) {
    const at::Tensor tensor = values.to(device);
    at::accelerator::synchronizeDevice(device.index());
    return tensor;
  }

  std::vector<std::unique_ptr<TorchReplica>> replicas_;  // of y = 2 x + 1
};

TEST_F(ReplicaMemory, AnInputMayComeFromAnyDevice) {
  const at::Tensor values = Drawn(kShape, 5);
  for (const auto& replica : replicas_) {
    for (const c10::Device device : {sim0_, sim1_}) {
      BatchInput batch;
      batch.inputs.push_back(Staged(*replica, kShape, 1));
      batch.from_device.push_back({0, 0, BytesOf(OnDevice(values, device))});
      const auto outputs = replica->Run(std::move(batch));
      ASSERT_TRUE(outputs.ok()) << outputs.status();
      EXPECT_TRUE(ToTensor(outputs->front()).equal(values.mul(2).add(1)))
          << replica->device() << " from " << device;
    }
  }
}

TEST_F(ReplicaMemory, RequestsOfOneBatchMayComeFromDifferentPlaces) {
  const at::Tensor staged = Drawn(kShape, 1), first = Drawn({1, 8}, 2), last = Drawn({1, 8}, 3);
  for (const auto& replica : replicas_) {
    BatchInput batch;
    batch.inputs.push_back(Staged(*replica, kShape, 1));
    batch.from_device.push_back({0, 2 * kRowBytes, BytesOf(OnDevice(last, sim1_))});
    batch.from_device.push_back({0, 0, BytesOf(OnDevice(first, sim0_))});
    const auto outputs = replica->Run(std::move(batch));
    ASSERT_TRUE(outputs.ok()) << outputs.status();
    const at::Tensor y = ToTensor(outputs->front());
    EXPECT_TRUE(y[0].equal(first[0].mul(2).add(1))) << replica->device();
    EXPECT_TRUE(y[1].equal(staged[1].mul(2).add(1))) << replica->device();
    EXPECT_TRUE(y[2].equal(last[0].mul(2).add(1))) << replica->device();
  }
}

TEST_F(ReplicaMemory, ARangeThatIsNotWithinItsInputIsRefused) {
  const at::Tensor row = OnDevice(Drawn({1, 8}, 2), sim0_);
  for (const auto& replica : replicas_) {
    for (const auto& [input, offset] : std::vector<std::pair<size_t, int64_t>>{
             {0, 2 * kRowBytes + 4}, {0, -4}, {1, 0}, {0, int64_t{1} << 62}}) {
      BatchInput batch;
      batch.inputs.push_back(Staged(*replica, kShape, 1));
      batch.from_device.push_back({input, offset, BytesOf(row)});
      const auto outputs = replica->Run(std::move(batch));
      EXPECT_TRUE(absl::IsInvalidArgument(outputs.status())) << outputs.status();
    }
    EXPECT_TRUE(replica->health().ok());
  }
}

TEST_F(ReplicaMemory, RowsOfAnOutputAreWrittenToTheirTargets) {
  const at::Tensor expected = Drawn(kShape, 4).mul(2).add(1);
  for (const auto& replica : replicas_) {
    const at::Tensor first = OnDevice(at::full({2, 8}, 0.f), sim0_);
    const at::Tensor last = OnDevice(at::full({1, 8}, 0.f), sim1_);
    BatchInput batch;
    batch.inputs.push_back(Staged(*replica, kShape, 4));
    batch.to_device.push_back({0, 0, 2, BytesOf(first)});
    batch.to_device.push_back({0, 2, 1, BytesOf(last)});
    const auto outputs = replica->Run(std::move(batch));
    ASSERT_TRUE(outputs.ok()) << outputs.status();
    EXPECT_TRUE(ToTensor(outputs->front()).equal(expected)) << "they are answered, too";
    EXPECT_TRUE(first.cpu().equal(expected.narrow(0, 0, 2))) << replica->device();
    EXPECT_TRUE(last.cpu().equal(expected.narrow(0, 2, 1))) << replica->device();
  }
}

TEST_F(ReplicaMemory, ATargetOfAnotherSizeIsRefused) {
  const at::Tensor target = OnDevice(at::full({2, 8}, 0.f), sim0_);
  for (const auto& replica : replicas_) {
    for (const auto& [first, rows] :
         std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {0, 3}, {2, 2}, {-1, 2}}) {
      BatchInput batch;
      batch.inputs.push_back(Staged(*replica, kShape, 4));
      batch.to_device.push_back({0, first, rows, BytesOf(target)});
      const auto outputs = replica->Run(std::move(batch));
      EXPECT_TRUE(absl::IsInvalidArgument(outputs.status())) << outputs.status();
    }
    EXPECT_TRUE(replica->Run({{Staged(*replica, kShape, 4)}, {}, {}}).ok());
  }
  EXPECT_EQ(First(target), 0);
}

TEST_F(ReplicaMemory, AClientsMemoryIsHeldUntilTheBatchIsOver) {
  const at::Tensor source = OnDevice(Drawn(kShape, 5), sim0_);
  auto address = std::make_shared<at::Tensor>(source);
  const std::weak_ptr<at::Tensor> watched = address;
  simdevice::Hold(sim0_);
  BatchInput batch;
  batch.inputs.push_back(Staged(*replicas_[1], kShape, 1));
  batch.from_device.push_back(
      {0, 0, {"sim:0", std::shared_ptr<void>(address, source.data_ptr()), 3 * kRowBytes}});
  address.reset();
  auto running = replicas_[1]->Launch(std::move(batch));
  ASSERT_TRUE(running.ok()) << running.status();
  EXPECT_FALSE(watched.expired());
  simdevice::Release(sim0_);
  ASSERT_TRUE((*running)->Finish().ok());
  EXPECT_TRUE(watched.expired());
}

TEST_F(ReplicaMemory, OutOfMemoryLeavesTheBatchBeforeAlone) {
  const auto net = MakeNet(Mlp(), sim0_);
  TorchReplica replica(net, sim0_, {}, nullptr);
  const std::string expected = Answer(replica, kShape, 0);
  int64_t allocations = simdevice::StatisticsOf(sim0_).allocations;
  Answer(replica, kShape, 0);
  allocations = simdevice::StatisticsOf(sim0_).allocations - allocations;
  ASSERT_GT(allocations, 2);
  const int64_t live = simdevice::StatisticsOf(sim0_).live_bytes;
  for (int64_t n = 1; n <= allocations; ++n) {
    const auto before = Launched(replica, kShape, 0);
    HostTensor input = Staged(replica, kShape, 1);
    simdevice::FailAllocation(sim0_, n);
    const auto failed = replica.Launch({{std::move(input)}, {}, {}});
    EXPECT_TRUE(absl::IsResourceExhausted(failed.status())) << failed.status();
    EXPECT_EQ(Finished(*before), expected);
    EXPECT_EQ(Answer(replica, kShape, 0), expected);
    EXPECT_EQ(simdevice::StatisticsOf(sim0_).live_bytes, live);
  }
  EXPECT_TRUE(replica.health().ok());
}

TEST_F(ReplicaMemory, AFaultAtAnyStepTakesTheDeviceOutOnce) {
  const auto net = MakeNet(Mlp(), sim0_);
  const int64_t live = simdevice::StatisticsOf(sim0_).live_bytes;
  const int64_t pinned = simdevice::PinnedBytes();
  const auto run_two = [&](DeviceHealth* health) {
    TorchReplica replica(net, sim0_, {}, health);
    std::vector<absl::Status> statuses;
    std::vector<std::unique_ptr<RunningBatch>> running;
    for (int i = 0; i < 2; ++i) {
      auto staged = replica.Stage({3 * kRowBytes});
      if (!staged.ok()) {
        statuses.push_back(staged.status());
        continue;
      }
      std::memset(staged->front().bytes.data(), 0, 3 * kRowBytes);
      staged->front().dtype = DType::kFloat32;
      staged->front().shape = kShape;
      auto launched = replica.Launch({*std::move(staged), {}, {}});
      statuses.push_back(launched.status());
      if (launched.ok()) running.push_back(*std::move(launched));
    }
    for (const auto& batch : running) statuses.push_back(batch->Finish().status());
    statuses.push_back(replica.health());
    return statuses;
  };
  const auto steps = [&] {
    const simdevice::Statistics statistics = simdevice::StatisticsOf(sim0_);
    return statistics.kernels + statistics.copies;
  };
  const int64_t before = steps();
  for (const absl::Status& status : run_two(nullptr)) ASSERT_TRUE(status.ok()) << status;
  const int64_t count = steps() - before;
  ASSERT_GT(count, 8);
  for (int64_t n = 1; n <= count; ++n) {
    DeviceHealth health;
    std::vector<std::string> lost;
    health.SetObserver([&](const std::string& device, const std::string& reason) {
      lost.push_back(device);
      EXPECT_THAT(reason, HasSubstr("an illegal memory access was encountered"));
    });
    simdevice::FailKernel(sim0_, n);
    const std::vector<absl::Status> statuses = run_two(&health);
    EXPECT_TRUE(absl::IsUnavailable(statuses.back())) << statuses.back();
    for (const absl::Status& status : statuses) {
      EXPECT_TRUE(status.ok() || absl::IsUnavailable(status)) << status;
    }
    EXPECT_EQ(lost, std::vector<std::string>{"sim:0"}) << n;
    simdevice::Reset();
    EXPECT_EQ(simdevice::StatisticsOf(sim0_).live_bytes, live);
    EXPECT_EQ(simdevice::PinnedBytes(), pinned);
  }
}

TEST_F(ReplicaMemory, AnErrorOfTheNetworkIsNotTheDevices) {
  TorchReplica replica(MakeFunction({8},
                                    [](const at::Tensor& x) {
                                      TORCH_CHECK(x.size(0) != 2, "two rows are one too many");
                                      return x.add(1);
                                    }),
                       sim0_, {}, nullptr);
  const auto failed = replica.Run({{Staged(replica, {2, 8}, 0)}, {}, {}});
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kInternal) << failed.status();
  EXPECT_THAT(std::string(failed.status().message()), HasSubstr("two rows are one too many"));
  EXPECT_TRUE(replica.health().ok());
  EXPECT_TRUE(replica.Run({{Staged(replica, {3, 8}, 0)}, {}, {}}).ok());
}

}  // namespace
}  // namespace sconce
