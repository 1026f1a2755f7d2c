#include "server/batching/observation.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "tests/support/fake_replica.h"

namespace sconce {
namespace {

// Whether it is noticed where the last of `count` elements is `last`, and the others `usual`.
template <typename Element>
bool Noticed(DType dtype, Element usual, Element last, size_t count = 3000) {
  std::vector<Element> elements(count, usual);
  elements.back() = last;
  HostTensor tensor{
      dtype,
      {static_cast<int64_t>(count)},
      absl::MakeSpan(reinterpret_cast<std::byte*>(elements.data()), count * sizeof(Element)),
      nullptr};
  return AnyNonFinite({&tensor, 1});
}

TEST(ObservationTest, NanAndInfinitiesAreNoticedInEveryFloatingPointType) {
  const auto infinity = std::numeric_limits<double>::infinity();
  const auto nan = std::numeric_limits<double>::quiet_NaN();
  for (const double last : {infinity, -infinity, nan, -nan}) {
    EXPECT_TRUE(Noticed<double>(DType::kFloat64, 1e300, last));
    EXPECT_TRUE(Noticed<float>(DType::kFloat32, 3e38f, static_cast<float>(last)));
  }
  EXPECT_FALSE(Noticed<double>(DType::kFloat64, 1e300, -1e308));
  EXPECT_FALSE(Noticed<float>(DType::kFloat32, 3e38f, -1e-45f));
  for (const uint16_t bits : {0x7c00, 0xfc00, 0x7e01}) {
    EXPECT_TRUE(Noticed<uint16_t>(DType::kFloat16, 0x7bff, bits)) << bits;
  }
  EXPECT_FALSE(Noticed<uint16_t>(DType::kFloat16, 0x7bff, 0xfbff));
  for (const uint16_t bits : {0x7f80, 0xff80, 0x7fc0}) {
    EXPECT_TRUE(Noticed<uint16_t>(DType::kBFloat16, 0x7f7f, bits)) << bits;
  }
  EXPECT_FALSE(Noticed<uint16_t>(DType::kBFloat16, 0x7f7f, 0x7c00)) << "a large number there";
  EXPECT_FALSE(Noticed<int32_t>(DType::kInt32, 0, 0x7f800000)) << "integers are what they are";
}

TEST(ObservationTest, ARequestThatIsTooLargeToKeepIsNotCopied) {
  InferRequest request;
  request.bytes = {{}};
  request.checked.size_bytes = {RecentRequests::kMaxBytes};
  InferResponse response;
  response.version = MakeFakeVersion("m", 1, {});
  std::byte one{};
  response.outputs = {{DType::kUInt8, {1}, absl::MakeSpan(&one, 1), nullptr}};
  EXPECT_FALSE(CopyForComparison(request, response).has_value());
}

}  // namespace
}  // namespace sconce
