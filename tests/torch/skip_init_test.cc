// Networks are built without memory for their weights, and nothing else notices.
#include "models/skip_init.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "models/catalog.h"

namespace sconce::models {
namespace {

const Architecture& Named(absl::string_view name) {
  for (const Architecture* architecture : Catalog()) {
    if (architecture->name() == name) return *architecture;
  }
  ADD_FAILURE() << "the catalog has no " << name;
  return *Catalog()[0];
}

int64_t ResidentBytes() {
  int64_t pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * 4096;
}

TEST(SkipInit, NetworkTakesNeitherTimeNorMemory) {
  const Architecture& vgg = Named("vgg16_bn");
  ASSERT_TRUE(vgg.Create({}).ok());  // what is paid once a process
  const int64_t before = ResidentBytes();
  const auto start = std::chrono::steady_clock::now();
  const auto net = vgg.Create({});
  const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;
  const int64_t bytes = ResidentBytes() - before;
  ASSERT_TRUE(net.ok()) << net.status();
  RecordProperty("build_microseconds", static_cast<int>(taken.count() * 1000));
  RecordProperty("build_bytes", static_cast<int>(bytes));

  // With its weights it would be 553 MB, and most of a second.
  EXPECT_LT(bytes, 8 << 20);
  EXPECT_LT(taken.count(), 100);
  for (const NamedTensor& tensor : (*net)->State()) {
    EXPECT_LE(tensor.tensor.storage().nbytes(), 8u) << tensor.name;
  }
}

TEST(SkipInit, RandomGeneratorIsNotAdvanced) {
  const at::Generator& generator = at::detail::getDefaultCPUGenerator();
  const at::Tensor before = generator.get_state();
  ASSERT_TRUE(Named("resnet18").Create({}).ok());
  EXPECT_TRUE(at::equal(generator.get_state(), before));
}

TEST(SkipInit, OtherThreadsAndLaterTensorsAreNotAffected) {
  const auto expect_normal = [] {
    const at::Tensor random = at::rand({100});
    EXPECT_EQ(random.storage().nbytes(), 400u);
    EXPECT_NE(random[0].item<float>(), random[1].item<float>());
    EXPECT_EQ(at::zeros({3}).add_(1)[2].item<float>(), 1);
  };
  {
    const SkipInit skip_init;
    EXPECT_EQ(at::empty({100}).storage().nbytes(), 4u);
    std::thread(expect_normal).join();
  }
  expect_normal();
}

}  // namespace
}  // namespace sconce::models
