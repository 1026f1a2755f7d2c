// That networks run in the precision, memory format and mathematics their model asks for, and that
// clients see nothing of it but the rounding.
#include <ATen/Context.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/device/execution/math_mode.h"
#include "server/device/execution/normalise.h"
#include "tests/device/replica_fixture.h"

namespace sconce {
namespace {

using testing::HasSubstr;

// The weights in another type, as Python's module.to(dtype).
std::shared_ptr<models::Net> MakeNetOf(const ReplicaCase& c, at::ScalarType type,
                                       c10::Device device) {
  const auto net = MakeNet(c, c10::kCPU);
  const std::vector<models::NamedTensor> state = net->State();
  for (size_t i = 0; i < state.size(); ++i) {
    const at::Tensor& own = state[i].tensor;
    net->Assign(i, own.to(device, own.is_floating_point() ? type : own.scalar_type()));
  }
  return net;
}

class ReplicaPrecision : public SimTest,
                         public testing::WithParamInterface<std::pair<Precision, at::ScalarType>> {
};

TEST_P(ReplicaPrecision, NumbersAreCastOnTheWayInAndOut) {
  const auto [precision, type] = GetParam();
  ExecutionOptions options;
  options.precision = precision;
  for (const ReplicaCase& c : {Mlp(), ReplicaCase{"digits", {}, {5, 1, 8, 8}}}) {
    const at::Tensor x = Drawn(c.input, 1);
    const at::Tensor full = MakeNet(c, c10::kCPU)->Forward({x})[0];
    const at::Tensor cast = MakeNetOf(c, type, c10::kCPU)->Forward({x.to(type)})[0].to(at::kFloat);
    for (const c10::Device device : {c10::Device(c10::kCPU), sim0_}) {
      TorchReplica replica(MakeNetOf(c, type, device), device, options, nullptr);
      const auto outputs = replica.Run({{Staged(replica, c.input, 1)}, {}, {}});
      ASSERT_TRUE(outputs.ok()) << outputs.status();
      const at::Tensor y = ToTensor(outputs->front());
      EXPECT_EQ(y.scalar_type(), at::kFloat);
      EXPECT_TRUE(y.equal(cast)) << c.architecture << " on " << device;
      EXPECT_TRUE(y.allclose(full, 0.05, 0.05)) << c.architecture << " on " << device;
      EXPECT_FALSE(y.equal(full)) << c.architecture << " on " << device;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, ReplicaPrecision,
                         testing::Values(std::pair(Precision::kFp16, at::kHalf),
                                         std::pair(Precision::kBf16, at::kBFloat16)),
                         [](const auto& info) { return c10::toString(info.param.second); });

class ReplicaFormat : public SimTest {
 protected:
  // What the network was given.
  struct Seen {
    std::vector<at::ScalarType> types;
    bool channels_last = false;
  };

  static std::shared_ptr<models::Net> Recorder(models::Signature signature, Seen* seen) {
    return std::make_shared<FunctionNet>(
        std::move(signature), [seen](const std::vector<at::Tensor>& inputs) {
          for (const at::Tensor& input : inputs) {
            seen->types.push_back(input.scalar_type());
            seen->channels_last = input.is_contiguous(at::MemoryFormat::ChannelsLast);
          }
          return inputs;
        });
  }
};

TEST_F(ReplicaFormat, ImagesAreKeptWithTheirChannelsLastAndAnsweredAsTheyCame) {
  const std::vector<int64_t> shape = {2, 3, 4, 5};
  const models::TensorSpec image{"x", at::kFloat, {3, 4, 5}};
  for (const c10::Device device : {c10::Device(c10::kCPU), sim0_}) {
    ExecutionOptions options;
    options.channels_last = true;
    Seen seen;
    TorchReplica replica(Recorder({{image}, {image}}, &seen), device, options, nullptr);
    const auto outputs = replica.Run({{Staged(replica, shape, 3)}, {}, {}});
    ASSERT_TRUE(outputs.ok()) << outputs.status();
    EXPECT_TRUE(seen.channels_last);
    EXPECT_TRUE(ToTensor(outputs->front()).equal(Drawn(shape, 3))) << device;
  }
}

TEST_F(ReplicaFormat, ChannelsLastChangesNoAnswer) {
  const ReplicaCase digits{"digits", {}, {5, 1, 8, 8}};
  ExecutionOptions options;
  options.channels_last = true;
  TorchReplica plain(MakeNet(digits, sim0_), sim0_, {}, nullptr);
  TorchReplica replica(MakeNet(digits, sim0_), sim0_, options, nullptr);
  const auto expected = plain.Run({{Staged(plain, digits.input, 1)}, {}, {}});
  const auto outputs = replica.Run({{Staged(replica, digits.input, 1)}, {}, {}});
  ASSERT_TRUE(expected.ok() && outputs.ok()) << outputs.status();
  EXPECT_TRUE(ToTensor(outputs->front()).allclose(ToTensor(expected->front()), 1e-5, 1e-6));
}

TEST_F(ReplicaFormat, OnlyFloatingPointNumbersAreCast) {
  const models::TensorSpec ids{"ids", at::kLong, {2}}, x{"x", at::kFloat, {2}};
  ExecutionOptions options;
  options.precision = Precision::kBf16;
  Seen seen;
  TorchReplica replica(Recorder({{ids, x}, {ids, x}}, &seen), sim0_, options, nullptr);
  auto staged = replica.Stage({16, 8});
  ASSERT_TRUE(staged.ok());
  const std::vector<int64_t> values = {3, 1 << 20};
  std::memcpy((*staged)[0].bytes.data(), values.data(), 16);
  std::memset((*staged)[1].bytes.data(), 0, 8);
  for (size_t i = 0; i < 2; ++i) {
    (*staged)[i].dtype = i == 0 ? DType::kInt64 : DType::kFloat32;
    (*staged)[i].shape = {1, 2};
  }
  const auto outputs = replica.Run({*std::move(staged), {}, {}});
  ASSERT_TRUE(outputs.ok()) << outputs.status();
  EXPECT_EQ(seen.types, (std::vector<at::ScalarType>{at::kLong, at::kBFloat16}));
  EXPECT_TRUE(ToTensor((*outputs)[0]).equal(at::tensor(values).view({1, 2})));
  EXPECT_EQ((*outputs)[1].dtype, DType::kFloat32);
}

TEST_F(ReplicaFormat, PixelsAreNormalisedOnTheDevice) {
  const std::vector<int64_t> shape = {2, 4, 5, 3};
  const models::TensorSpec image{"x", at::kFloat, {3, 4, 5}};
  ExecutionOptions options;
  options.normalise = {Normalisation{ImageLayout::kNhwc, {0.1f, 0.2f, 0.3f}, {1, 2, 3}}};
  options.channels_last = true;
  const at::Tensor pixels = at::randint(256, shape, at::kByte);
  at::Tensor expected = Drawn({2, 3, 4, 5}, 0);
  Normalise(pixels, ImageLayout::kNhwc, at::tensor({0.1f, 0.2f, 0.3f}), at::tensor({1.f, 2.f, 3.f}),
            expected);
  for (const c10::Device device : {c10::Device(c10::kCPU), sim0_}) {
    Seen seen;
    TorchReplica replica(Recorder({{image}, {image}}, &seen), device, options, nullptr);
    for (int n = 0; n < 2; ++n) {
      auto staged = replica.Stage({static_cast<int64_t>(pixels.nbytes())});
      ASSERT_TRUE(staged.ok());
      std::memcpy(staged->front().bytes.data(), pixels.data_ptr(), pixels.nbytes());
      staged->front().shape = shape;
      const auto outputs = replica.Run({*std::move(staged), {}, {}});
      ASSERT_TRUE(outputs.ok()) << outputs.status();
      EXPECT_TRUE(ToTensor(outputs->front()).equal(expected)) << device;
    }
    EXPECT_TRUE(seen.channels_last);
  }
}

class MathMode : public SimTest {
 protected:
  static bool Tf32() {
    return at::globalContext().allowTF32CuBLAS() && at::globalContext().allowTF32CuDNN();
  }
  static bool Ieee() {
    return !at::globalContext().allowTF32CuBLAS() && !at::globalContext().allowTF32CuDNN();
  }
};

TEST_F(MathMode, EachForwardSeesTheSwitchesItsModelAskedFor) {
  std::atomic<int> wrong = 0;
  const auto served = [&](Precision precision, int seed) {
    ExecutionOptions options;
    options.precision = precision;
    TorchReplica replica(MakeFunction({8},
                                      [&](const at::Tensor& x) {
                                        for (int look = 0; look < 20; ++look) {
                                          if (!(precision == Precision::kTf32 ? Tf32() : Ieee()))
                                            ++wrong;
                                          std::this_thread::yield();
                                        }
                                        return x.add(1);
                                      }),
                         sim0_, options, nullptr);
    for (int n = 0; n < 50; ++n) Answer(replica, {1, 8}, seed);
  };
  std::vector<std::thread> threads;
  for (const Precision precision :
       {Precision::kFp32, Precision::kTf32, Precision::kBf16, Precision::kTf32}) {
    threads.emplace_back(served, precision, static_cast<int>(threads.size()));
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  const MathModeLease lease(Precision::kFp32);
  EXPECT_TRUE(Ieee()) << "LibTorch's own default rounds convolutions";
}

TEST_F(MathMode, OneModeIsHeldByManyAndAnotherWaitsItsTurn) {
  auto first = std::make_unique<MathModeLease>(Precision::kTf32);
  std::thread([] { const MathModeLease beside(Precision::kTf32); }).join();
  std::atomic<int> entered = 0;
  std::thread other([&] {
    const MathModeLease lease(Precision::kFp32);
    EXPECT_TRUE(Ieee());
    entered = 1;
  });
  std::this_thread::yield();
  EXPECT_EQ(entered, 0);
  EXPECT_TRUE(Tf32());
  first.reset();
  other.join();
  EXPECT_EQ(entered, 1);
}

TEST_F(MathMode, TheCpusLibraryIsLeftAlone) {
  const auto of_cpu = [] {
    return at::globalContext().float32Precision(at::Float32Backend::MKLDNN, at::Float32Op::MATMUL);
  };
  const at::Float32Precision before = of_cpu();
  const MathModeLease lease(Precision::kTf32);
  EXPECT_EQ(of_cpu(), before);
}

TEST_F(MathMode, CudnnMeasuresAsLongAsAnyoneWarmsUp) {
  EXPECT_FALSE(at::globalContext().benchmarkCuDNN());
  {
    const CudnnBenchmark one;
    { const CudnnBenchmark other; }
    EXPECT_TRUE(at::globalContext().benchmarkCuDNN());
  }
  EXPECT_FALSE(at::globalContext().benchmarkCuDNN());
}

}  // namespace
}  // namespace sconce
