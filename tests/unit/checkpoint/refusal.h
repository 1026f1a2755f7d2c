// Opening files made of given bytes, and what their errors must say.

#ifndef SCONCE_TESTS_UNIT_CHECKPOINT_REFUSAL_H_
#define SCONCE_TESTS_UNIT_CHECKPOINT_REFUSAL_H_

#include <gtest/gtest.h>

#include <cstddef>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "server/base/sha256.h"
#include "server/checkpoint/checkpoint.h"
#include "tests/support/checkpoint_builders.h"
#include "tests/support/temp_dir.h"

namespace sconce {

// A checkpoint with the folder that holds its file.
struct Opened {
  std::unique_ptr<TempDir> folder = std::make_unique<TempDir>();
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = absl::UnknownError("not opened");

  Checkpoint* operator->() const { return checkpoint->get(); }
  bool ok() const { return checkpoint.ok(); }
};

inline Opened OpenBytes(std::string_view bytes, const CheckpointOptions& options = {}) {
  Opened opened;
  opened.folder->Write("model.pth", bytes);
  opened.checkpoint = OpenCheckpoint(opened.folder->Path("model.pth"), options);
  return opened;
}

// Expects that the bytes are refused as bad content, with an error that names the file and holds
// all the words.
inline void ExpectRefused(std::string_view bytes, std::initializer_list<std::string_view> words) {
  const Opened opened = OpenBytes(bytes);
  ASSERT_FALSE(opened.ok()) << "opened with " << opened->tensors().size() << " tensors";
  const absl::Status status = opened.checkpoint.status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  const std::string message(status.message());
  EXPECT_EQ(message.rfind(opened.folder->Path("model.pth") + ": ", 0), 0u) << message;
  for (const std::string_view word : words) {
    EXPECT_NE(message.find(word), std::string::npos) << "'" << word << "' in: " << message;
  }
}

inline std::string HexDigest(std::string_view bytes) {
  Sha256 hash;
  hash.Update({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()});
  return ToHex(hash.Finish());
}

// Expects that with verify_sha256 the checkpoint at `path`, whose files are all sound, is read, but
// neither where `file` has no manifest nor where it is another than its manifest says. `file` and
// those that `others` names have no manifests yet; all names are relative to the folder.
inline void ExpectVerified(const TempDir& folder, std::string_view path, const std::string& file,
                           std::initializer_list<std::string> others) {
  CheckpointOptions options;
  options.verify_sha256 = true;
  const auto read_first = [&]() -> absl::Status {
    const auto opened = OpenCheckpoint(folder.Path(path), options);
    if (!opened.ok()) return opened.status();
    const TensorDescriptor& tensor = (*opened)->tensors()[0];
    std::vector<std::byte> bytes(static_cast<size_t>(tensor.size_bytes()));
    return (*opened)->ReadInto(tensor, absl::MakeSpan(bytes));
  };
  const auto write_manifest = [&](const std::string& name, std::string_view digest) {
    const std::string last = name.substr(name.rfind('/') + 1);
    folder.Write(name + ".sha256", absl::StrCat(std::string(digest), "  ", last, "\n"));
  };
  const auto digest_of = [&](const std::string& name) {
    std::ifstream in(folder.Path(name), std::ios::binary);
    return HexDigest(std::string(std::istreambuf_iterator<char>(in), {}));
  };
  for (const std::string& other : others) write_manifest(other, digest_of(other));
  const absl::Status missing = read_first();
  EXPECT_EQ(missing.code(), absl::StatusCode::kFailedPrecondition) << missing;
  EXPECT_NE(missing.message().find(file + ".sha256"), std::string::npos) << missing;
  write_manifest(file, digest_of(file));
  const absl::Status sound = read_first();
  EXPECT_TRUE(sound.ok()) << sound;
  write_manifest(file, HexDigest("other"));
  const absl::Status differs = read_first();
  EXPECT_EQ(differs.code(), absl::StatusCode::kDataLoss) << differs;
  EXPECT_NE(differs.message().find(file + ": expected the SHA-256"), std::string::npos) << differs;
}

// The tensor's contents, as numbers.
template <typename T>
std::vector<T> Read(const Checkpoint& checkpoint, const TensorDescriptor& tensor) {
  std::vector<T> numbers(static_cast<size_t>(tensor.size_bytes()) / sizeof(T));
  const absl::Status read = checkpoint.ReadInto(
      tensor, {reinterpret_cast<std::byte*>(numbers.data()), numbers.size() * sizeof(T)});
  EXPECT_TRUE(read.ok()) << read;
  return numbers;
}

// A sound tensor of `n` floats in the storage "0".
inline TensorPickle Floats(int64_t n = 4) {
  TensorPickle tensor;
  tensor.numel = n;
  tensor.shape = {n};
  tensor.strides = {1};
  return tensor;
}

// The floats 0 to n-1.
inline std::string FloatStorage(int n = 4) {
  std::vector<float> values;
  for (int i = 0; i < n; ++i) values.push_back(static_cast<float>(i));
  return Bytes(values);
}

// A file with this object as its pickle, and the storage "0".
inline std::string FileWith(const std::string& object,
                            const std::string& storage = FloatStorage()) {
  return TorchZip(pickle::Stream(object), {{"0", storage}}).Build();
}

// The same with the state_dict {"w": value}.
inline std::string FileWithEntry(const std::string& value) {
  return FileWith(pickle::OrderedDict({{"w", value}}));
}

inline std::string FileOf(const TensorPickle& tensor, const std::string& storage) {
  return FileWith(pickle::OrderedDict({{"w", tensor.Build()}}), storage);
}

}  // namespace sconce

#endif  // SCONCE_TESTS_UNIT_CHECKPOINT_REFUSAL_H_
