// Reading many tensors at once: the same bytes as one by one, in few system calls, verified on
// demand.

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/parallel.h"
#include "server/base/sha256.h"
#include "server/checkpoint/data/manifest.h"
#include "server/checkpoint/data/strided_copy.h"
#include "tests/unit/checkpoint/refusal.h"

namespace sconce {
namespace {

// What this process has asked of the kernel: bytes, and system calls that read.
struct Io {
  int64_t bytes = 0;
  int64_t calls = 0;

  static Io Now() {
    Io io;
    std::ifstream in("/proc/self/io");
    for (std::string name; in >> name;) {
      int64_t value = 0;
      in >> value;
      if (name == "rchar:") io.bytes = value;
      if (name == "syscr:") io.calls = value;
    }
    return io;
  }
};

// Floats `count` * `each`, all different, as a safetensors file.
std::string ManyTensors(int count, int each) {
  std::string header = "{";
  std::string data;
  for (int i = 0; i < count; ++i) {
    const size_t begin = data.size();
    for (int j = 0; j < each; ++j) data += LittleEndian(static_cast<float>(i * each + j));
    absl::StrAppend(&header, i == 0 ? "" : ",", "\"t", i, R"(":{"dtype":"F32","shape":[)", each,
                    R"(],"data_offsets":[)", begin, ",", data.size(), "]}");
  }
  return SafetensorsFile(header + "}", data);
}

// One request per tensor, and the room for them.
struct Room {
  explicit Room(const Checkpoint& checkpoint) {
    for (const TensorDescriptor& tensor : checkpoint.tensors()) {
      rooms.emplace_back(static_cast<size_t>(tensor.size_bytes()), std::byte{0xEE});
    }
    for (size_t i = 0; i < rooms.size(); ++i) {
      requests.push_back({&checkpoint.tensors()[i], absl::MakeSpan(rooms[i])});
    }
  }

  std::vector<std::vector<std::byte>> rooms;
  std::vector<TensorRequest> requests;
};

void ExpectSameAsOneByOne(const Checkpoint& checkpoint, const ReadOptions& options = {}) {
  Room all(checkpoint);
  const absl::Status read = checkpoint.ReadTensors(all.requests, options);
  ASSERT_TRUE(read.ok()) << read;
  for (size_t i = 0; i < all.rooms.size(); ++i) {
    std::vector<std::byte> alone(all.rooms[i].size());
    ASSERT_TRUE(checkpoint.ReadInto(checkpoint.tensors()[i], absl::MakeSpan(alone)).ok());
    EXPECT_EQ(all.rooms[i], alone) << checkpoint.tensors()[i].name;
  }
}

// A torch.save file whose tensors are views of one storage and of another: whole, transposed,
// overlapping, empty.
std::string Views() {
  std::vector<float> numbers;
  for (int i = 0; i < 24; ++i) numbers.push_back(static_cast<float>(i));
  const auto view = [](const char* key, int64_t offset, std::vector<int64_t> shape,
                       std::vector<int64_t> strides) {
    TensorPickle tensor;
    tensor.key = key;
    tensor.numel = 24;
    tensor.offset = offset;
    tensor.shape = std::move(shape);
    tensor.strides = std::move(strides);
    return tensor.Build();
  };
  const std::vector<std::pair<std::string, std::string>> entries = {
      {"v0", view("0", 0, {24}, {1})},        {"v1", view("0", 0, {4, 6}, {1, 4})},
      {"v2", view("0", 3, {10}, {1})},        {"v3", view("0", 8, {0}, {1})},
      {"v4", view("1", 0, {2, 12}, {12, 1})},
  };
  return TorchZip(pickle::Stream(pickle::OrderedDict(entries)),
                  {{"0", Bytes(numbers)}, {"1", Bytes(numbers)}})
      .Build();
}

TEST(TensorReaderTest, ManyTensorsReadAtOnceAreTheSameAsOneByOne) {
  for (const int threads : {1, 3}) {
    const Opened many = OpenBytes(ManyTensors(700, 37));
    ASSERT_TRUE(many.ok()) << many.checkpoint.status();
    ExpectSameAsOneByOne(**many.checkpoint, {.threads = threads, .on_piece = nullptr});
    const Opened views = OpenBytes(Views());
    ASSERT_TRUE(views.ok()) << views.checkpoint.status();
    ExpectSameAsOneByOne(**views.checkpoint, {.threads = threads, .on_piece = nullptr});
  }
}

TEST(TensorReaderTest, LargeTensorsAreReadByTwoThreads) {
  const Opened opened = OpenBytes(ManyTensors(6, 1'500'000));
  ASSERT_TRUE(opened.ok());
  ExpectSameAsOneByOne(**opened.checkpoint, {.threads = 2, .on_piece = nullptr});
}

TEST(TensorReaderTest, PiecesOfARequestComeInOrderAndCoverIt) {
  const Opened opened = OpenBytes(ManyTensors(9, 500'000));
  ASSERT_TRUE(opened.ok());
  Room all(**opened.checkpoint);
  std::vector<size_t> seen(all.requests.size());
  std::atomic<bool> in_order = true;
  ReadOptions options;
  options.threads = 2;
  options.on_piece = [&](size_t i, absl::Span<const std::byte> piece) {
    if (piece.data() != all.rooms[i].data() + seen[i]) in_order = false;
    seen[i] += piece.size();
  };
  ASSERT_TRUE(opened->ReadTensors(all.requests, options).ok());
  EXPECT_TRUE(in_order);
  for (size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], all.rooms[i].size());
}

TEST(TensorReaderTest, OpeningReadsStructureAlone) {
  std::vector<std::pair<std::string, std::vector<float>>> tensors;
  for (int i = 0; i < 100; ++i) {
    tensors.emplace_back(absl::StrCat("layer", i), std::vector<float>(50'000, 1.0f));
  }
  const std::string bytes = SmallTorchFile(tensors);
  const TempDir folder;
  folder.Write("model.pth", bytes);
  const Io before = Io::Now();
  const auto opened = OpenCheckpoint(folder.Path("model.pth"));
  const Io after = Io::Now();
  ASSERT_TRUE(opened.ok()) << opened.status();
  // A few hundred bytes for each tensor, of 20 MB.
  EXPECT_LT(after.bytes - before.bytes, 64 * 1024);
  EXPECT_LT(after.calls - before.calls, 100 + 30);
}

TEST(TensorReaderTest, SmallNeighboursTakeFewSystemCalls) {
  const Opened opened = OpenBytes(ManyTensors(10'000, 16));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  Room all(**opened.checkpoint);
  const Io before = Io::Now();
  ASSERT_TRUE(opened->ReadTensors(all.requests, {}).ok());
  const Io after = Io::Now();
  EXPECT_LT(after.calls - before.calls, 40);
  // Not more than the tensors: 640,000 bytes, and what looking at /proc takes.
  EXPECT_LT(after.bytes - before.bytes, 640'000 + 2'000);
}

TEST(TensorReaderTest, GapsBetweenZipRecordsAreBridged) {
  std::vector<std::pair<std::string, std::vector<float>>> tensors;
  for (int i = 0; i < 250; ++i) {
    tensors.emplace_back(absl::StrCat("layer", i), std::vector<float>(100, 1.0f * i));
  }
  const Opened opened = OpenBytes(SmallTorchFile(tensors));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  Room all(**opened.checkpoint);
  const Io before = Io::Now();
  ASSERT_TRUE(opened->ReadTensors(all.requests, {}).ok());
  EXPECT_LT(Io::Now().calls - before.calls, 10);
  ExpectSameAsOneByOne(**opened.checkpoint);
}

TEST(TensorReaderTest, WrongRoomIsRefused) {
  const Opened opened = OpenBytes(ManyTensors(2, 4));
  Room all(**opened.checkpoint);
  all.requests[1].destination.remove_suffix(4);
  const absl::Status read = opened->ReadTensors(all.requests, {});
  EXPECT_EQ(read.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(read.message().find("tensor 't1'"), std::string::npos) << read;
}

TEST(TensorReaderTest, ChecksumsOfMembersAreVerified) {
  std::string bytes = Views();
  CheckpointOptions options;
  options.verify_crc = true;
  {
    const Opened sound = OpenBytes(bytes, options);
    ASSERT_TRUE(sound.ok()) << sound.checkpoint.status();
    ExpectSameAsOneByOne(**sound.checkpoint);
  }
  const size_t at = bytes.find(LittleEndian(17.0f));
  ASSERT_NE(at, std::string::npos);
  bytes[at] ^= 1;
  const Opened damaged = OpenBytes(bytes, options);
  ASSERT_TRUE(damaged.ok()) << damaged.checkpoint.status();
  Room all(**damaged.checkpoint);
  const absl::Status read = damaged->ReadTensors(all.requests, {});
  EXPECT_EQ(read.code(), absl::StatusCode::kDataLoss) << read;
  EXPECT_NE(read.message().find("archive/data/0: tensor 'v"), std::string::npos) << read;
}

class ManifestTest : public testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<Checkpoint>> Open() {
    CheckpointOptions options;
    options.verify_sha256 = true;
    return OpenCheckpoint(folder_.Path("m.bin"), options);
  }
  void WriteManifest(const std::string& digest) {
    folder_.Write("m.bin.sha256", absl::StrCat(digest, "  some/folder/m.bin\n"));
  }

  const TempDir folder_;
};

TEST_F(ManifestTest, SoundFileIsReadInOnePass) {
  for (const std::string& bytes : {ManyTensors(30, 5000), Views()}) {
    folder_.Write("m.bin", bytes);
    WriteManifest(HexDigest(bytes));
    const auto opened = Open();
    ASSERT_TRUE(opened.ok()) << opened.status();
    Room all(**opened);
    const Io before = Io::Now();
    ASSERT_TRUE((*opened)->ReadTensors(all.requests, {}).ok());
    // The file once, and the views that are not plain once more.
    EXPECT_LT(Io::Now().bytes - before.bytes, static_cast<int64_t>(bytes.size()) + 8000);
    ExpectSameAsOneByOne(**opened);
  }
}

TEST_F(ManifestTest, NothingOfADamagedFileIsHandedOut) {
  std::string bytes = ManyTensors(30, 5000);
  folder_.Write("m.bin", bytes);
  WriteManifest(HexDigest(bytes));
  bytes.back() ^= 1;
  folder_.Write("m.bin", bytes);
  const auto opened = Open();
  ASSERT_TRUE(opened.ok()) << opened.status();
  Room all(**opened);
  for (const absl::Status& read :
       {(*opened)->ReadTensors(all.requests, {}),
        (*opened)->ReadInto((*opened)->tensors()[0], all.requests[0].destination)}) {
    EXPECT_EQ(read.code(), absl::StatusCode::kDataLoss) << read;
    EXPECT_NE(read.message().find("m.bin: expected the SHA-256"), std::string::npos) << read;
  }
}

TEST_F(ManifestTest, MissingOrMalformedManifestIsAnError) {
  const std::string bytes = ManyTensors(1, 1);
  folder_.Write("m.bin", bytes);
  const absl::Status missing = Open().status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kFailedPrecondition) << missing;
  EXPECT_NE(missing.message().find("m.bin.sha256"), std::string::npos) << missing;
  folder_.Write("m.bin.sha256", "no digest  m.bin\n");
  const absl::Status malformed = Open().status();
  EXPECT_EQ(malformed.code(), absl::StatusCode::kInvalidArgument) << malformed;
  EXPECT_NE(malformed.message().find("m.bin.sha256: line 1"), std::string::npos) << malformed;
}

TEST(ManifestFormatTest, LinesAreAsSha256sumWritesThem) {
  const std::string a(64, 'a');
  const std::string b(64, 'B');
  const auto found =
      DigestInManifest(absl::StrCat(b, " *other.pth\r\n\n", a, "  x/m.pth"), "m.pth");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(ToHex(*found), a);
  for (const std::string& bad :
       {std::string(), absl::StrCat(a, "  other"), absl::StrCat(a, "  m.pth\n", b, "  m.pth\n"), a,
        absl::StrCat(a, " m.pth"), absl::StrCat(a.substr(1), "  m.pth"),
        absl::StrCat(a.substr(1), "g  m.pth")}) {
    EXPECT_FALSE(DigestInManifest(bad, "m.pth").ok()) << bad;
  }
}

TEST(Sha256Test, GivesTheDigestOfTheStandard) {
  EXPECT_EQ(HexDigest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(ParallelTest, EveryJobIsDoneOnceAndTheFirstErrorIsReturned) {
  std::vector<std::atomic<int>> done(100);
  EXPECT_TRUE(RunInParallel(done.size(), 3, [&](size_t i) {
                ++done[i];
                return absl::OkStatus();
              }).ok());
  for (const std::atomic<int>& count : done) EXPECT_EQ(count, 1);
  const absl::Status failed = RunInParallel(100, 1, [](size_t i) {
    return i < 7 ? absl::OkStatus() : absl::InternalError(absl::StrCat(i));
  });
  EXPECT_EQ(failed.message(), "7");
  EXPECT_TRUE(RunInParallel(0, 4, [](size_t) { return absl::InternalError(""); }).ok());
}

}  // namespace
}  // namespace sconce
