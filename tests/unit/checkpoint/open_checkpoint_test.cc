// What a file is, found by its content; and files that change or vanish while they are read.

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/checkpoint/refusal.h"

namespace sconce {
namespace {

using namespace std::string_literals;

TEST(OpenCheckpointTest, ContainerIsFoundByContentNotByName) {
  const TempDir folder;
  folder.Write("a.safetensors", SmallTorchFile({{"w", {1}}}));
  folder.Write("b.pth",
               SafetensorsFile(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x"));
  const auto zip = OpenCheckpoint(folder.Path("a.safetensors"));
  ASSERT_TRUE(zip.ok()) << zip.status();
  EXPECT_STREQ((*zip)->format(), "torch.save zip");
  const auto safetensors = OpenCheckpoint(folder.Path("b.pth"));
  ASSERT_TRUE(safetensors.ok()) << safetensors.status();
  EXPECT_STREQ((*safetensors)->format(), "safetensors");
}

TEST(OpenCheckpointTest, OtherFilesAreNamed) {
  ExpectRefused("", {"empty file"});
  ExpectRefused("\x80\x02}q\x01.", {"bare pickle"});
  ExpectRefused(std::string(257, 'a') + "ustar" + std::string(400, 'b'), {"tar byte 0"});
  ExpectRefused("version https://git-lfs.github.com/spec/v1\noid sha256:12", {"Git LFS pointer"});
  ExpectRefused("<!DOCTYPE html><html>", {"HTML page"});
  ExpectRefused("\x89HDF\r\n\x1a\n", {"HDF5"});
  ExpectRefused("GGUF\3\0\0\0"s, {"GGUF"});
  ExpectRefused(
      "\x7f"
      "ELF\2\1\1",
      {"shared library"});
  ExpectRefused("{\"metadata\": {\"total_size\": 1}}", {"JSON object", "weight_map"});
  ExpectRefused(std::string(4096, '\0'), {"zeros", "still being written"});
  ExpectRefused("hello, world\n", {"unknown format", "hello, world\\n"});
  ExpectRefused("P", {"unknown format"});
  ExpectRefused("PK\3\4", {"end record", "truncated"});
}

TEST(OpenCheckpointTest, MissingFilesFoldersAndPipesAreRefused) {
  const TempDir folder;
  EXPECT_EQ(OpenCheckpoint(folder.Path("none.pth")).status().code(), absl::StatusCode::kNotFound);
  const absl::Status directory = OpenCheckpoint(folder.path()).status();
  EXPECT_EQ(directory.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(directory.message().find("expected a folder with"), std::string::npos) << directory;
  // Opening a FIFO without a writer must not wait for one.
  ASSERT_EQ(::mkfifo(folder.Path("pipe.pth").c_str(), 0600), 0);
  const absl::Status pipe = OpenCheckpoint(folder.Path("pipe.pth")).status();
  EXPECT_EQ(pipe.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(pipe.message().find("regular file"), std::string::npos) << pipe;
}

TEST(OpenCheckpointTest, SymbolicLinksAreFollowed) {
  const TempDir folder;
  folder.Write("real.pth", SmallTorchFile({{"w", {1}}}));
  folder.Link("real.pth", "model.pth");
  EXPECT_TRUE(OpenCheckpoint(folder.Path("model.pth")).ok());
}

std::vector<std::byte> Room(const TensorDescriptor& tensor) {
  return std::vector<std::byte>(static_cast<size_t>(tensor.size_bytes()));
}

TEST(OpenCheckpointTest, FileThatShrinksWhileItIsReadIsAborted) {
  const TempDir folder;
  folder.Write("model.pth", SmallTorchFile({{"w", std::vector<float>(100'000, 1)}}));
  const auto checkpoint = OpenCheckpoint(folder.Path("model.pth"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  std::filesystem::resize_file(folder.Path("model.pth"), 1000);
  const TensorDescriptor& tensor = (*checkpoint)->tensors()[0];
  std::vector<std::byte> room = Room(tensor);
  const absl::Status read = (*checkpoint)->ReadInto(tensor, absl::MakeSpan(room));
  EXPECT_EQ(read.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(read.message().find(folder.Path("model.pth") +
                                ": archive/data/0: tensor 'w': the file shrank while it was read"),
            0u)
      << read;
  EXPECT_EQ((*checkpoint)->CheckUnchanged().code(), absl::StatusCode::kAborted);
}

TEST(OpenCheckpointTest, FileOverwrittenInPlaceIsNoticedAfterReading) {
  const TempDir folder;
  const std::string first = SmallTorchFile({{"w", {1, 2}}});
  folder.Write("model.pth", first);
  const auto checkpoint = OpenCheckpoint(folder.Path("model.pth"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE((*checkpoint)->CheckUnchanged().ok());
  const std::string second = SmallTorchFile({{"w", {3, 4}}});
  ASSERT_EQ(first.size(), second.size());
  folder.Write("model.pth", second);
  // The clock that stamps files is coarse; what matters is that the stamp moved.
  std::filesystem::last_write_time(
      folder.Path("model.pth"),
      std::filesystem::last_write_time(folder.Path("model.pth")) + std::chrono::seconds(1));
  const absl::Status changed = (*checkpoint)->CheckUnchanged();
  EXPECT_EQ(changed.code(), absl::StatusCode::kAborted);
  EXPECT_NE(changed.message().find("changed while it was read"), std::string::npos) << changed;
}

TEST(OpenCheckpointTest, FileReplacedByARenameIsReadToItsEnd) {
  const TempDir folder;
  folder.Write("model.pth", SmallTorchFile({{"w", {1, 2}}}));
  const auto checkpoint = OpenCheckpoint(folder.Path("model.pth"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  folder.Write("new.pth", SmallTorchFile({{"w", {3, 4}}}));
  folder.Rename("new.pth", "model.pth");
  EXPECT_EQ(Read<float>(**checkpoint, (*checkpoint)->tensors()[0]), (std::vector<float>{1, 2}));
  EXPECT_TRUE((*checkpoint)->CheckUnchanged().ok());
  EXPECT_FALSE((*checkpoint)->files()[0].fingerprint == *FingerprintOf(folder.Path("model.pth")));
}

TEST(OpenCheckpointTest, ConcurrentTruncationNeverCrashesAReader) {
  const TempDir folder;
  const std::string whole = SmallTorchFile({{"w", std::vector<float>(50'000, 1)}});
  const std::string path = folder.Path("model.pth");
  folder.Write("model.pth", whole);
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    while (!stop) {
      std::filesystem::resize_file(path, whole.size() / 3);
      std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
      file.write(whole.data(), static_cast<std::streamsize>(whole.size()));
    }
  });
  for (int i = 0; i < 300; ++i) {
    const auto checkpoint = OpenCheckpoint(path);
    if (!checkpoint.ok()) continue;
    const TensorDescriptor& tensor = (*checkpoint)->tensors()[0];
    std::vector<std::byte> room = Room(tensor);
    (void)(*checkpoint)->ReadInto(tensor, absl::MakeSpan(room));
  }
  stop = true;
  writer.join();
}

TEST(OpenCheckpointTest, ManyThreadsMayReadOneCheckpoint) {
  TensorPickle view;
  view.numel = 4000;
  view.shape = {1000};
  view.strides = {4};
  std::vector<float> values(4000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  CheckpointOptions verify;
  verify.verify_crc = true;
  const Opened opened = OpenBytes(FileOf(view, Bytes(values)), verify);
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        EXPECT_EQ(Read<float>(**opened.checkpoint, opened->tensors()[0])[999], 3996.0f);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace sconce
