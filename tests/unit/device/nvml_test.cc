// Against libraries that only look like NVML (fake_nvml.c).
#include "server/device/nvidia/nvml.h"

#include <dlfcn.h>
#include <gmock/gmock.h>

#include <string>

namespace sconce {
namespace {

using testing::HasSubstr;

std::string MessageOf(const std::string& library) {
  const auto nvml = Nvml::Open(library);
  if (nvml.ok()) return "it was opened";
  EXPECT_EQ(nvml.status().code(), absl::StatusCode::kUnavailable);
  return std::string(nvml.status().message());
}

TEST(NvmlTest, ACardReportsWhatItKnows) {
  const auto nvml = Nvml::Open(FAKE_NVML);
  ASSERT_TRUE(nvml.ok()) << nvml.status();
  const auto reading = (*nvml)->Read("0000:3b:00.0");
  ASSERT_TRUE(reading.ok()) << reading.status();
  EXPECT_EQ(reading->memory_used_bytes, 5'000'000'000);
  EXPECT_EQ(reading->memory_total_bytes, 80'000'000'000);
  EXPECT_EQ(reading->compute_utilisation, 0.75);
  EXPECT_EQ(reading->memory_utilisation, 0.3);
  EXPECT_EQ(reading->temperature_celsius, 61);
  EXPECT_EQ(reading->power_watts, 312.5);
  EXPECT_EQ(reading->ecc_corrected_errors, 17);
  EXPECT_EQ(reading->ecc_uncorrected_errors, 2);
}

TEST(NvmlTest, WhatACardDoesNotSupportIsEmptyAndNotZero) {
  const auto nvml = Nvml::Open(FAKE_NVML);
  ASSERT_TRUE(nvml.ok()) << nvml.status();
  const auto reading = (*nvml)->Read("0000:AF:00.0");
  ASSERT_TRUE(reading.ok()) << reading.status();
  EXPECT_EQ(reading->memory_total_bytes, 24'000'000'000);
  EXPECT_EQ(reading->temperature_celsius, 61);
  EXPECT_FALSE(reading->power_watts.has_value());
  EXPECT_FALSE(reading->ecc_corrected_errors.has_value());
  EXPECT_FALSE(reading->ecc_uncorrected_errors.has_value());
}

TEST(NvmlTest, FunctionsThatAnOlderLibraryLacksLeaveTheirFiguresEmpty) {
  const auto nvml = Nvml::Open(FAKE_NVML_OLD);
  ASSERT_TRUE(nvml.ok()) << nvml.status();
  const auto reading = (*nvml)->Read("0000:3b:00.0");
  ASSERT_TRUE(reading.ok()) << reading.status();
  EXPECT_EQ(reading->memory_used_bytes, 5'000'000'000);
  EXPECT_FALSE(reading->compute_utilisation.has_value());
  EXPECT_FALSE(reading->memory_utilisation.has_value());
  EXPECT_FALSE(reading->temperature_celsius.has_value());
  EXPECT_FALSE(reading->power_watts.has_value());
  EXPECT_FALSE(reading->ecc_corrected_errors.has_value());
}

TEST(NvmlTest, ADeviceThatIsNotThereIsNotFound) {
  const auto nvml = Nvml::Open(FAKE_NVML);
  ASSERT_TRUE(nvml.ok()) << nvml.status();
  for (const char* bus_id : {"0000:00:00.0", ""}) {
    EXPECT_EQ((*nvml)->Read(bus_id).status().code(), absl::StatusCode::kNotFound);
  }
}

TEST(NvmlTest, WhyTheLibraryCannotBeUsedIsSaid) {
  EXPECT_THAT(MessageOf("libsconce-no-such.so.1"), HasSubstr("libsconce-no-such.so.1"));
  EXPECT_THAT(MessageOf("libm.so.6"), HasSubstr("libm.so.6 is not NVML"));
  EXPECT_THAT(MessageOf(FAKE_NVML_BROKEN), HasSubstr("Driver Not Loaded"));
}

TEST(NvmlTest, ItIsShutDownAsOftenAsItWasStarted) {
  void* library = dlopen(FAKE_NVML, RTLD_NOW);
  ASSERT_NE(library, nullptr);
  const auto starts = reinterpret_cast<int (*)()>(dlsym(library, "FakeNvmlStarts"));
  {
    const auto nvml = Nvml::Open(FAKE_NVML);
    ASSERT_TRUE(nvml.ok()) << nvml.status();
    EXPECT_EQ(starts(), 1);
  }
  EXPECT_EQ(starts(), 0);
  dlclose(library);
}

}  // namespace
}  // namespace sconce
