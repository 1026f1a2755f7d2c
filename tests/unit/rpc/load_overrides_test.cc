#include "server/rpc/load_overrides.h"

#include <gtest/gtest.h>

#include <string>

namespace sconce {
namespace {

using inference::RepositoryModelLoadRequest;

RepositoryModelLoadRequest WithFile(const std::string& parameter, const std::string& bytes) {
  RepositoryModelLoadRequest request;
  (*request.mutable_parameters())[parameter].set_bytes_param(bytes);
  return request;
}

absl::Status Refusal(RepositoryModelLoadRequest request, int64_t max_file_bytes = 100) {
  return TakeLoadOverrides(&request, max_file_bytes).status();
}

TEST(LoadOverridesTest, AreTakenFromTheParametersAsTritonNamesThem) {
  RepositoryModelLoadRequest request = WithFile("file:1/model.safetensors", "weights");
  (*request.mutable_parameters())["config"].set_string_param("{}");
  const auto overrides = TakeLoadOverrides(&request, 7);
  ASSERT_TRUE(overrides.ok()) << overrides.status();
  EXPECT_EQ(overrides->config_json, "{}");
  ASSERT_EQ(overrides->files.size(), 1u);
  EXPECT_EQ(overrides->files.at("model.safetensors"), "weights");
}

TEST(LoadOverridesTest, NoneAreNone) {
  RepositoryModelLoadRequest request;
  const auto overrides = TakeLoadOverrides(&request, 0);
  ASSERT_TRUE(overrides.ok());
  EXPECT_TRUE(overrides->empty());
}

TEST(LoadOverridesTest, AConfigurationAloneNeedsNoPermission) {
  RepositoryModelLoadRequest request;
  (*request.mutable_parameters())["config"].set_string_param("{\"max_batch_size\": 4}");
  const auto overrides = TakeLoadOverrides(&request, 0);
  ASSERT_TRUE(overrides.ok()) << overrides.status();
  EXPECT_EQ(overrides->config_json, "{\"max_batch_size\": 4}");
}

TEST(LoadOverridesTest, FilesAreRefusedUnlessTheFlagAllowsThem) {
  const absl::Status refused = Refusal(WithFile("file:model.pth", "weights"), 0);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(refused.message().find("--inline-weights-max-bytes"), refused.message().npos);
}

TEST(LoadOverridesTest, AFileBeyondTheCapIsRefusedWithBothSizes) {
  EXPECT_TRUE(Refusal(WithFile("file:model.pth", "12345678"), 8).ok());
  EXPECT_EQ(Refusal(WithFile("file:model.pth", "123456789"), 8),
            absl::ResourceExhaustedError("parameter 'file:model.pth': expected at most 8 bytes "
                                         "(--inline-weights-max-bytes), got 9"));
}

TEST(LoadOverridesTest, APathStaysWithinTheFolder) {
  for (const std::string path : {"", "/etc/passwd", "../model.pth", "1/../../model.pth",
                                 "1//model.pth", "./model.pth", "1/", ".."}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Refusal(WithFile("file:" + path, "weights")))) << path;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(Refusal(WithFile(std::string("file:a\0b", 8), "weights"))));
  EXPECT_TRUE(
      absl::IsInvalidArgument(Refusal(WithFile("file:" + std::string(256, 'x'), "weights"))));
}

TEST(LoadOverridesTest, WeightsAndAProgramAreTakenAndNoMore) {
  RepositoryModelLoadRequest request = WithFile("file:a.safetensors", "weights");
  (*request.mutable_parameters())["file:program.pt2"].set_bytes_param("program");
  EXPECT_TRUE(Refusal(request).ok());
  request = WithFile("file:a.safetensors", "weights");
  (*request.mutable_parameters())["file:program.pt2"].set_bytes_param("program");
  (*request.mutable_parameters())["file:b.safetensors"].set_bytes_param("weights");
  const absl::Status refused = Refusal(request);
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(refused.message().find("expected one weights file and perhaps one program"),
            refused.message().npos);
}

TEST(LoadOverridesTest, WrongTypesAndEmptyValuesAreRefused) {
  RepositoryModelLoadRequest request;
  (*request.mutable_parameters())["file:model.pth"].set_string_param("weights");
  EXPECT_EQ(Refusal(request).message(),
            "parameter 'file:model.pth' expects the file's content as bytes, got something else");
  EXPECT_TRUE(absl::IsInvalidArgument(Refusal(WithFile("file:model.pth", ""))));
  request.clear_parameters();
  (*request.mutable_parameters())["config"].set_bytes_param("{}");
  EXPECT_TRUE(absl::IsInvalidArgument(Refusal(request)));
  (*request.mutable_parameters())["config"].set_string_param("");
  EXPECT_TRUE(absl::IsInvalidArgument(Refusal(request)));
  (*request.mutable_parameters())["config"].set_string_param(std::string(kMaxConfigBytes + 1, ' '));
  EXPECT_TRUE(absl::IsInvalidArgument(Refusal(request)));
}

TEST(LoadOverridesTest, UnknownParametersAreNotIgnored) {
  RepositoryModelLoadRequest request;
  (*request.mutable_parameters())["priority\n"].set_int64_param(1);
  EXPECT_EQ(Refusal(request),
            absl::UnimplementedError("parameter 'priority\\n' is not supported, expected 'config' "
                                     "or 'file:' and a file's name"));
}

}  // namespace
}  // namespace sconce
