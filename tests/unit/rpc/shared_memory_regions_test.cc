#include "server/rpc/shared_memory_regions.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/support/fake_replica.h"
#include "tests/unit/rpc/fake_regions.h"

namespace sconce {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

class SharedMemoryRegionsTest : public testing::Test {
 protected:
  absl::Status Register(const std::string& name, uint64_t size_bytes = 100) {
    return regions_.Register(name, FakeRegions::Handle(), 0, size_bytes);
  }
  std::string Names() {
    std::string names;
    const auto regions = regions_.Status("");
    for (const auto& region : *regions) absl::StrAppend(&names, region.name, " ");
    return names;
  }

  FakeRegions fake_;
  SharedMemoryRegions regions_{fake_.Opener()};
};

TEST_F(SharedMemoryRegionsTest, ARegionIsFoundFromRegisterToUnregister) {
  EXPECT_TRUE(regions_.available());
  ASSERT_TRUE(Register("a").ok());
  ASSERT_TRUE(Register("b", 200).ok());
  EXPECT_EQ(Names(), "a b ");
  const auto status = regions_.Status("b");
  ASSERT_TRUE(status.ok());
  ASSERT_EQ(status->size(), 1u);
  EXPECT_EQ(status->front().size_bytes, 200);
  EXPECT_EQ(status->front().device_id, 0);
  const auto bytes = regions_.At({"b", 0, 200}, "x");
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(bytes->device, "fake:0");
  EXPECT_EQ(bytes->address.get(), fake_.last_address());
  regions_.Unregister("b");
  EXPECT_EQ(Names(), "a ");
  EXPECT_EQ(regions_.Status("b").status().message(), "there is no shared memory region 'b'");
  EXPECT_EQ(regions_.At({"b", 0, 1}, "net/7: input 'x'").status().message(),
            "net/7: input 'x': there is no shared memory region 'b'");
}

TEST_F(SharedMemoryRegionsTest, UnregisteringWhatIsNotThereOrEverythingIsFine) {
  regions_.Unregister("a");
  regions_.UnregisterAll();
  ASSERT_TRUE(Register("a").ok());
  ASSERT_TRUE(Register("b").ok());
  regions_.UnregisterAll();
  EXPECT_EQ(Names(), "");
  EXPECT_EQ(fake_.open, 0);
  EXPECT_TRUE(regions_.Status("").ok());
}

TEST_F(SharedMemoryRegionsTest, ATakenNameIsRefusedAndTheFirstRegionStays) {
  ASSERT_TRUE(Register("a", 100).ok());
  const absl::Status status = Register("a", 200);
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(status.message(), "shared memory region 'a' is registered already");
  EXPECT_EQ(regions_.Status("a")->front().size_bytes, 100);
  regions_.Unregister("a");
  EXPECT_TRUE(Register("a", 200).ok());
}

TEST_F(SharedMemoryRegionsTest, ARegionThatIsUnregisteredStaysOpenWhileItIsUsed) {
  ASSERT_TRUE(Register("a").ok());
  {
    auto input = regions_.At({"a", 10, 20}, "x");
    auto output = regions_.At({"a", 40, 20}, "x");
    ASSERT_TRUE(input.ok() && output.ok());
    EXPECT_EQ(input->address.get(), fake_.last_address() + 10);
    EXPECT_EQ(input->size_bytes, 20);
    regions_.Unregister("a");
    EXPECT_EQ(fake_.open, 1);
    input = absl::CancelledError("done");
    EXPECT_EQ(fake_.open, 1);
  }
  EXPECT_EQ(fake_.open, 0);
}

TEST_F(SharedMemoryRegionsTest, PlacesOutsideOfTheRegionAreRefused) {
  ASSERT_TRUE(Register("a", 100).ok());
  for (const auto& [offset, size] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 100}, {100, 0}, {99, 1}, {0, 0}}) {
    EXPECT_TRUE(regions_.At({"a", offset, size}, "x").ok()) << offset << " " << size;
  }
  for (const auto& [offset, size] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 101},
                                                {1, 100},
                                                {100, 1},
                                                {101, 0},
                                                {kMax, 1},
                                                {1, kMax},
                                                {kMax, kMax},
                                                {-1, 10},
                                                {50, -1},
                                                {std::numeric_limits<int64_t>::min(), kMax}}) {
    EXPECT_EQ(regions_.At({"a", offset, size}, "x").status().message(),
              absl::StrCat("x: shared memory region 'a' has 100 bytes, got ", size, " from offset ",
                           offset));
  }
}

TEST_F(SharedMemoryRegionsTest, ArgumentsThatAreNotFitAreRefusedBeforeAnythingIsOpened) {
  const std::string good = FakeRegions::Handle();
  EXPECT_EQ(regions_.Register("", good, 0, 1).message(),
            "expected a region's name of 1 to 256 bytes, got 0");
  EXPECT_EQ(regions_.Register(std::string(257, 'x'), good, 0, 1).message(),
            "expected a region's name of 1 to 256 bytes, got 257");
  EXPECT_EQ(regions_.Register("a", good, 0, 0).message(),
            "shared memory region 'a': expected 1 to 4398046511104 bytes, got 0");
  EXPECT_EQ(regions_.Register("a", good, 0, std::numeric_limits<uint64_t>::max()).message(),
            "shared memory region 'a': expected 1 to 4398046511104 bytes, got "
            "18446744073709551615");
  for (const size_t length : {0, 63, 65}) {
    const absl::Status status = regions_.Register("a\n", std::string(length, 'g'), 0, 1);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(),
              absl::StrCat("shared memory region 'a\\n': expected a raw handle of 64 bytes, got ",
                           length));
  }
  EXPECT_EQ(fake_.last_address(), nullptr);
}

TEST_F(SharedMemoryRegionsTest, WhatCannotBeOpenedIsRefusedAndLeavesNothing) {
  EXPECT_EQ(regions_.Register("a", FakeRegions::Handle("bad"), 0, 1).message(),
            "shared memory region 'a': no such handle");
  for (const int64_t device : {int64_t{1}, int64_t{-1}, kMax}) {
    const absl::Status status = regions_.Register("a", FakeRegions::Handle(), device, 1);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(),
              absl::StrCat("shared memory region 'a': expected device_id 0, got ", device));
  }
  EXPECT_EQ(Names(), "");
  EXPECT_TRUE(Register("a").ok());
}

TEST_F(SharedMemoryRegionsTest, NumberAndBytesTogetherAreBounded) {
  FakeRegions untouched;
  const SharedMemoryRegions::Opener small = untouched.Opener();
  SharedMemoryRegions regions([&](int64_t device_id, const std::string& handle, int64_t) {
    return small(device_id, handle, 1);
  });
  const std::string handle = FakeRegions::Handle();
  constexpr uint64_t kHalf = SharedMemoryRegions::kMaxTotalBytes / 2;
  ASSERT_TRUE(regions.Register("a", handle, 0, kHalf).ok());
  const absl::Status status = regions.Register("b", handle, 0, kHalf + 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(),
            "shared memory region 'b': expected at most 4398046511104 bytes in all regions, got "
            "2199023255553 beside 2199023255552 registered");
  EXPECT_TRUE(regions.Register("b", handle, 0, kHalf).ok());
  regions.UnregisterAll();
  for (size_t i = 0; i < SharedMemoryRegions::kMaxRegions; ++i) {
    ASSERT_TRUE(regions.Register(absl::StrCat(i), handle, 0, 1).ok());
  }
  EXPECT_EQ(regions.Register("one more", handle, 0, 1).code(),
            absl::StatusCode::kResourceExhausted);
  regions.Unregister("5");
  EXPECT_TRUE(regions.Register("one more", handle, 0, 1).ok());
}

TEST_F(SharedMemoryRegionsTest, WithoutADeviceEverythingSaysSo) {
  SharedMemoryRegions regions(nullptr);
  EXPECT_FALSE(regions.available());
  const absl::Status status = regions.Register("a", FakeRegions::Handle(), 0, 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("the server has no device"), std::string::npos);
  EXPECT_EQ(regions.At({"a", 0, 1}, "x").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(regions.Status("")->empty());
  regions.UnregisterAll();
}

TEST_F(SharedMemoryRegionsTest, ARegionThatIsBeingOpenedTakesItsNameAndIsNotThereYet) {
  Gate gate;
  gate.Close();
  const SharedMemoryRegions::Opener opener = fake_.Opener();
  SharedMemoryRegions regions([&](int64_t device_id, const std::string& handle, int64_t size) {
    gate.Pass();
    return opener(device_id, handle, size);
  });
  absl::Status first;
  std::thread slow([&] { first = regions.Register("a", FakeRegions::Handle(), 0, 10); });
  gate.AwaitHeld();
  EXPECT_EQ(regions.Register("a", FakeRegions::Handle(), 0, 10).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(regions.Status("")->empty());
  EXPECT_EQ(regions.At({"a", 0, 1}, "x").status().code(), absl::StatusCode::kNotFound);
  regions.Unregister("a");
  regions.UnregisterAll();
  gate.Open();
  slow.join();
  EXPECT_TRUE(first.ok()) << first;
  EXPECT_TRUE(regions.At({"a", 0, 1}, "x").ok());
}

TEST_F(SharedMemoryRegionsTest, ManyThreadsAtOnceLeaveNothingOpen) {
  std::atomic<int> used{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const std::string name = absl::StrCat("region-", t % 2);
      for (int i = 0; i < 300; ++i) {
        (void)Register(name);
        if (auto bytes = regions_.At({name, t * 10, 10}, "x"); bytes.ok()) {
          *static_cast<std::byte*>(bytes->address.get()) = std::byte{1};
          ++used;
        }
        if (i % 3 == 0) regions_.UnregisterAll();
        regions_.Unregister(name);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(used, 0);
  regions_.UnregisterAll();
  EXPECT_EQ(fake_.open, 0);
}

}  // namespace
}  // namespace sconce
