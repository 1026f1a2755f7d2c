// Files that change or shrink while a checkpoint of any container is open (case 43 of what a reader
// must refuse): reading them gives an error or what was there, never a crash or a mixture.

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/checkpoint/refusal.h"

namespace sconce {
namespace {

using pickle::Global;
using pickle::Int;
using pickle::OrderedDict;
using pickle::Str;
using pickle::Stream;
using pickle::Tuple;

// More than is read ahead by any means.
constexpr int kFloats = 1 << 16;

// A checkpoint {"w": floats} in one container.
struct Case {
  const char* name;
  std::vector<std::pair<std::string, std::string>> files;
  std::string opens;    // the path given, "" for the folder
  std::string changes;  // the file that holds the bytes
};

std::string SafetensorsOfFloats() {
  const std::string size = std::to_string(kFloats * 4);
  return SafetensorsFile(R"({"w":{"dtype":"F32","shape":[)" + std::to_string(kFloats) +
                             R"(],"data_offsets":[0,)" + size + "]}}",
                         FloatStorage(kFloats));
}

std::vector<Case> Cases() {
  const std::string floats = FloatStorage(kFloats);
  const std::string object = OrderedDict({{"w", Floats(kFloats).Build()}});
  LegacyFile legacy;
  legacy.object = Stream(object);
  legacy.storages = {{"0", kFloats, floats}};
  const std::string tar = Tar({
      {"sys_info", Stream("}")},
      {"pickle", Stream(OrderedDict({{"w", Int(6) + "Q"}}))},
      {"tensors", Stream(Int(1)) + Stream(Tuple({Int(6), Int(5), Global("torch", "FloatTensor")})) +
                      LittleEndian<int32_t>(1) + std::string(4, '\0') +
                      Bytes<int64_t>({kFloats, 1, 0})},
      {"storages", Stream(Int(1)) +
                       Stream(Tuple({Int(5), Str("cpu"), Global("torch", "FloatStorage")})) +
                       LittleEndian<int64_t>(kFloats) + floats + Stream("]")},
  });
  const std::string index = R"({"weight_map":{"w":"part"}})";
  return {
      {"zip", {{"a", FileWith(object, floats)}}, "a", "a"},
      {"legacy", {{"a", legacy.Build()}}, "a", "a"},
      {"tar", {{"a", tar}}, "a", "a"},
      {"safetensors", {{"a", SafetensorsOfFloats()}}, "a", "a"},
      {"index", {{"a.json", index}, {"part", SafetensorsOfFloats()}}, "a.json", "part"},
      {"folder",
       {{"model.safetensors.index.json", index}, {"part", SafetensorsOfFloats()}},
       "",
       "part"},
  };
}

struct OpenCase {
  std::unique_ptr<TempDir> folder = std::make_unique<TempDir>();
  std::unique_ptr<Checkpoint> checkpoint;
};

OpenCase Open(const Case& test) {
  OpenCase open;
  for (const auto& [name, bytes] : test.files) open.folder->Write(name, bytes);
  auto checkpoint =
      OpenCheckpoint(test.opens.empty() ? open.folder->path() : open.folder->Path(test.opens));
  EXPECT_TRUE(checkpoint.ok()) << test.name << ": " << checkpoint.status();
  if (checkpoint.ok()) open.checkpoint = *std::move(checkpoint);
  return open;
}

void ExpectAborted(const absl::Status& read, const std::string& path) {
  EXPECT_EQ(read.code(), absl::StatusCode::kAborted) << read;
  const std::string message(read.message());
  EXPECT_NE(message.find(path), std::string::npos) << message;
  EXPECT_NE(message.find("the file shrank while it was read"), std::string::npos) << message;
}

TEST(ChangingFilesTest, AFileThatShrinksIsAnErrorThatNamesFileAndTensor) {
  for (const Case& test : Cases()) {
    SCOPED_TRACE(test.name);
    const OpenCase open = Open(test);
    ASSERT_NE(open.checkpoint, nullptr);
    const std::string path = open.folder->Path(test.changes);
    std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
    const TensorDescriptor& tensor = open.checkpoint->tensors().at(0);
    std::vector<std::byte> room(static_cast<size_t>(tensor.size_bytes()));
    const absl::Status read = open.checkpoint->ReadInto(tensor, absl::MakeSpan(room));
    ExpectAborted(read, path);
    EXPECT_NE(read.message().find("tensor 'w'"), std::string::npos) << read;
    const auto end = absl::MakeSpan(room).first(64);
    ExpectAborted(open.checkpoint->ReadRange(tensor, tensor.size_bytes() - 64, end), path);
    const TensorRequest request{&tensor, absl::MakeSpan(room)};
    ExpectAborted(open.checkpoint->ReadTensors({&request, 1}, {}), path);
    EXPECT_EQ(open.checkpoint->CheckUnchanged().code(), absl::StatusCode::kAborted);
  }
}

TEST(ChangingFilesTest, AFileOverwrittenInPlaceIsNoticed) {
  for (const Case& test : Cases()) {
    SCOPED_TRACE(test.name);
    const OpenCase open = Open(test);
    ASSERT_NE(open.checkpoint, nullptr);
    const std::string path = open.folder->Path(test.changes);
    EXPECT_TRUE(open.checkpoint->CheckUnchanged().ok());
    std::string bytes(std::filesystem::file_size(path), 'x');
    open.folder->Write(test.changes, bytes);
    // The clock that stamps files is coarse; what matters is that the stamp moved.
    std::filesystem::last_write_time(
        path, std::filesystem::last_write_time(path) + std::chrono::seconds(1));
    const absl::Status changed = open.checkpoint->CheckUnchanged();
    EXPECT_EQ(changed.code(), absl::StatusCode::kAborted);
    EXPECT_NE(changed.message().find(path), std::string::npos) << changed;
  }
}

TEST(ChangingFilesTest, AFileReplacedByARenameIsReadToItsEnd) {
  for (const Case& test : Cases()) {
    SCOPED_TRACE(test.name);
    const OpenCase open = Open(test);
    ASSERT_NE(open.checkpoint, nullptr);
    open.folder->Write("new", "something else");
    open.folder->Rename("new", test.changes);
    EXPECT_EQ(Read<float>(*open.checkpoint, open.checkpoint->tensors()[0])[kFloats - 1],
              static_cast<float>(kFloats - 1));
    EXPECT_TRUE(open.checkpoint->CheckUnchanged().ok());
  }
}

}  // namespace
}  // namespace sconce
