#include "server/rpc/status.h"

#include <gtest/gtest.h>

#include "server/base/printable.h"
#include "server/base/utf8.h"

namespace sconce {
namespace {

TEST(StatusTest, KeepsEveryCode) {
  for (int code = 1; code <= 16; ++code) {
    const grpc::Status status =
        ToGrpcStatus(absl::Status(static_cast<absl::StatusCode>(code), "why"));
    EXPECT_EQ(static_cast<int>(status.error_code()), code);
    EXPECT_EQ(status.error_message(), "why");
  }
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
}

TEST(StatusTest, CodesUnknownToGrpcBecomeUnknown) {
  EXPECT_EQ(ToGrpcStatus(absl::Status(static_cast<absl::StatusCode>(500), "x")).error_code(),
            grpc::StatusCode::UNKNOWN);
}

TEST(StatusTest, KeepsLinesOfOurOwnMessages) {
  EXPECT_EQ(MessageForWire("a\n\tb 'ü'"), "a\n\tb 'ü'");
}

TEST(StatusTest, CutsBetweenCharacters) {
  std::string message = "x";
  for (int i = 0; i < 2000; ++i) message += "ü";
  const std::string cut = MessageForWire(message);
  EXPECT_LE(cut.size(), 2003u);
  EXPECT_EQ(cut.substr(cut.size() - 3), "...");
  EXPECT_TRUE(IsUtf8(cut));
}

TEST(StatusTest, EscapesWhatIsNotUtf8) { EXPECT_EQ(MessageForWire("a\xff\xfe"), "a\\xff\\xfe"); }

}  // namespace
}  // namespace sconce
