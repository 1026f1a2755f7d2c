#include "server/checkpoint/safetensors/safetensors_writer.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/temp_dir.h"
#include "tests/unit/checkpoint/refusal.h"

namespace sconce {
namespace {

using Tensor = SafetensorsWriter::Tensor;

absl::Span<const std::byte> AsBytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string ContentsOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream contents;
  contents << file.rdbuf();
  return contents.str();
}

std::vector<std::string> NamesIn(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  return names;
}

TEST(SafetensorsWriter, WritesTheFormatsOwnHeader) {
  const TempDir folder;
  auto writer = SafetensorsWriter::Create(
      folder.Path("a.safetensors"),
      {{"z", DType::kUInt8, {3}}, {"b\"", DType::kFloat32, {}}, {"a", DType::kFloat32, {0}}},
      {{"format", "pt"}});
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_EQ(writer->order(), (std::vector<size_t>{2, 1, 0}));  // float32 before uint8, then by name
  ASSERT_TRUE(writer->Append(AsBytes("wx")).ok());
  ASSERT_TRUE(writer->Append(AsBytes("yz123")).ok());
  ASSERT_TRUE(writer->Commit().ok());
  std::string json =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},)"
      R"("b\"":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
      R"("z":{"dtype":"U8","shape":[3],"data_offsets":[4,7]}})";
  json.append((8 - json.size() % 8) % 8, ' ');
  std::string size(8, '\0');
  size[0] = static_cast<char>(json.size());
  EXPECT_EQ(ContentsOf(folder.Path("a.safetensors")), size + json + "wxyz123");
  EXPECT_EQ(NamesIn(folder.path()), std::vector<std::string>{"a.safetensors"});
}

TEST(SafetensorsWriter, WritesWhatTheReaderReads) {
  const TempDir folder;
  const std::string path = folder.Path("a.safetensors");
  auto writer = SafetensorsWriter::Create(
      path, {{"half", DType::kFloat16, {2}}, {"four", DType::kFloat4E2M1FNX2, {1, 3}}}, {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE(writer->Append(AsBytes("abcd123")).ok());
  ASSERT_TRUE(writer->Commit().ok());
  const auto checkpoint = OpenCheckpoint(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const TensorDescriptor& four = (*checkpoint)->tensors()[1];
  EXPECT_EQ(four.name, "four");
  EXPECT_EQ(four.shape, (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(Read<char>(**checkpoint, four), (std::vector<char>{'1', '2', '3'}));
}

TEST(SafetensorsWriter, LeavesTheTargetAloneUntilItIsWhole) {
  const TempDir folder;
  folder.Write("a.safetensors", "before");
  {
    auto writer =
        SafetensorsWriter::Create(folder.Path("a.safetensors"), {{"w", DType::kUInt8, {2}}}, {});
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE(writer->Append(AsBytes("x")).ok());
    EXPECT_EQ(writer->Commit().code(), absl::StatusCode::kInternal);  // a byte is missing
    EXPECT_EQ(NamesIn(folder.path()).size(), 2u);
  }
  EXPECT_EQ(ContentsOf(folder.Path("a.safetensors")), "before");
  EXPECT_EQ(NamesIn(folder.path()), std::vector<std::string>{"a.safetensors"});
}

TEST(SafetensorsWriter, GivesTheFileThePermissionsOfANewOne) {
  const TempDir folder;
  const mode_t before = ::umask(0027);
  auto writer =
      SafetensorsWriter::Create(folder.Path("a.safetensors"), {{"w", DType::kUInt8, {0}}}, {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE(writer->Commit().ok());
  ::umask(before);
  struct stat made;
  ASSERT_EQ(::stat(folder.Path("a.safetensors").c_str(), &made), 0);
  EXPECT_EQ(made.st_mode & 0777, 0640u);
}

TEST(SafetensorsWriter, RefusesWhatTheFormatCannotHold) {
  const TempDir folder;
  const auto refused = [&](const std::vector<Tensor>& tensors, std::string_view words) {
    const auto writer = SafetensorsWriter::Create(folder.Path("a.safetensors"), tensors, {});
    ASSERT_FALSE(writer.ok());
    EXPECT_EQ(writer.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(writer.status().message()).find(words), std::string::npos)
        << writer.status();
  };
  refused({{"w", DType::kComplex128, {1}}},
          "tensor 'w': expected a dtype that safetensors has, got "
          "complex128");
  refused({{"w", DType::kUInt8, {1}}, {"w", DType::kUInt8, {1}}}, "each name once");
  refused({{"__metadata__", DType::kUInt8, {1}}}, "keeps this name");
  refused({{"\xff", DType::kUInt8, {1}}}, "UTF-8");
  refused({{"w", DType::kFloat64, {int64_t{1} << 60}}}, "tensor 'w'");
  EXPECT_TRUE(NamesIn(folder.path()).empty());
}

TEST(SafetensorsWriter, SaysWhyAFileCannotBeMade) {
  const TempDir folder;
  folder.MakeFolder("a.safetensors");
  const auto make = [&](const std::string& path) {
    return SafetensorsWriter::Create(folder.Path(path), {{"w", DType::kUInt8, {1}}}, {}).status();
  };
  EXPECT_EQ(make("a.safetensors").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(make("none/a.safetensors").code(), absl::StatusCode::kNotFound);
}

TEST(SafetensorsWriter, SaysThatThereIsNoRoomBeforeTheWork) {
  const TempDir folder;
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 1 << 16;
  std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status =
      SafetensorsWriter::Create(folder.Path("a.safetensors"), {{"w", DType::kUInt8, {1 << 20}}}, {})
          .status();
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, SIG_DFL);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_NE(std::string(status.message()).find("cannot make room for 10"), std::string::npos)
      << status;
  EXPECT_TRUE(NamesIn(folder.path()).empty());
}

}  // namespace
}  // namespace sconce
