#include <gmock/gmock.h>

#include <optional>
#include <string>

#include "server/base/metrics.h"

namespace sconce {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(DeviceFigures, AreExportedByDeviceAndKind) {
  Metrics metrics;
  metrics.SetDeviceFigure("cuda:0", DeviceFigure::kComputeUtilisation, 0.75);
  metrics.SetDeviceFigure("cuda:0", DeviceFigure::kMemoryUtilisation, 0.25);
  metrics.SetDeviceFigure("cuda:1", DeviceFigure::kTemperature, 61);
  metrics.SetDeviceFigure("cuda:1", DeviceFigure::kPower, 312.5);
  metrics.SetDeviceFigure("cuda:1", DeviceFigure::kEccCorrected, 17);
  metrics.SetDeviceFigure("cuda:1", DeviceFigure::kEccUncorrected, 0);
  const std::string text = metrics.Serialize();
  for (const char* line : {
           "sconce_device_utilisation_ratio{device=\"cuda:0\",part=\"compute\"} 0.75\n",
           "sconce_device_utilisation_ratio{device=\"cuda:0\",part=\"memory\"} 0.25\n",
           "sconce_device_temperature_celsius{device=\"cuda:1\"} 61\n",
           "sconce_device_power_watts{device=\"cuda:1\"} 312.5\n",
           "sconce_device_ecc_errors{device=\"cuda:1\",kind=\"corrected\"} 17\n",
           "sconce_device_ecc_errors{device=\"cuda:1\",kind=\"uncorrected\"} 0\n",
       }) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST(DeviceFigures, AFigureThatIsNotReportedHasNoSeries) {
  Metrics metrics;
  metrics.SetDeviceFigure("cuda:0", DeviceFigure::kPower, std::nullopt);
  EXPECT_THAT(metrics.Serialize(), Not(HasSubstr("sconce_device_power_watts")));
  metrics.SetDeviceFigure("cuda:0", DeviceFigure::kPower, 100);
  EXPECT_THAT(metrics.Serialize(), HasSubstr("sconce_device_power_watts{device=\"cuda:0\"} 100"));
  metrics.SetDeviceFigure("cuda:0", DeviceFigure::kPower, std::nullopt);
  EXPECT_THAT(metrics.Serialize(), Not(HasSubstr("sconce_device_power_watts")));
}

}  // namespace
}  // namespace sconce
