// Folders of torch.distributed.checkpoint that are not what they should be, and other folders.

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/unit/checkpoint/refusal.h"

namespace sconce {
namespace {

constexpr std::string_view kModule = "torch.distributed.checkpoint.metadata";

std::string Object(std::string_view name,
                   const std::vector<std::pair<std::string, std::string>>& fields) {
  return pickle::Call(pickle::Global(kModule, name), pickle::Tuple({})) + pickle::Dict(fields) +
         "b";
}

std::string Numbers(const std::vector<int64_t>& numbers) {
  std::vector<std::string> items;
  for (const int64_t number : numbers) items.push_back(pickle::Int(number));
  return pickle::Tuple(items);
}

std::string Size(const std::vector<int64_t>& numbers) {
  return pickle::Call(pickle::Global("torch", "Size"), pickle::Tuple({Numbers(numbers)}));
}

// What torch.save writes of a tensor of `n` floats.
std::string Saved(int64_t n) {
  return TorchZip(pickle::Stream(Floats(n).Build()), {{"0", FloatStorage(static_cast<int>(n))}})
      .Build();
}

struct Chunk {
  std::vector<int64_t> position;
  std::vector<int64_t> shape;
  int64_t offset = 0;
  int64_t length = 0;
  std::string file = "__0_0.distcp";
};

// A checkpoint of one tensor "w".
struct Distributed {
  std::vector<int64_t> shape = {6};
  std::string dtype = "float32";
  std::vector<Chunk> chunks;
  std::string data;
  std::string transforms = pickle::None();

  Distributed() {
    Add({0}, {4}, Saved(4));
    Add({4}, {2}, Saved(2));
  }

  void Add(std::vector<int64_t> position, std::vector<int64_t> size, const std::string& saved) {
    chunks.push_back({std::move(position), std::move(size), static_cast<int64_t>(data.size()),
                      static_cast<int64_t>(saved.size())});
    data += saved;
  }

  std::string Metadata() const {
    std::vector<std::string> described;
    std::vector<std::pair<std::string, std::string>> stored;
    for (const Chunk& chunk : chunks) {
      described.push_back(Object("ChunkStorageMetadata", {{"offsets", Size(chunk.position)},
                                                          {"sizes", Size(chunk.shape)}}));
      stored.push_back(
          {Object("MetadataIndex", {{"fqn", pickle::Str("w")}, {"offset", Size(chunk.position)}}),
           Object("_StorageInfo", {{"relative_path", pickle::Str(chunk.file)},
                                   {"offset", pickle::Int(chunk.offset)},
                                   {"length", pickle::Int(chunk.length)},
                                   {"transform_descriptors", transforms}})});
    }
    const std::string properties =
        Object("TensorProperties", {}) + pickle::Tuple({pickle::Global("torch", dtype)}) + "b";
    const std::string tensor = Object(
        "TensorStorageMetadata",
        {{"properties", properties}, {"size", Size(shape)}, {"chunks", pickle::List(described)}});
    return Object("Metadata", {{"state_dict_metadata", pickle::Dict({{"w", tensor}})},
                               {"storage_data", RawDict(stored)}});
  }

  // A dict whose keys are values of any kind.
  static std::string RawDict(const std::vector<std::pair<std::string, std::string>>& items) {
    std::string opcodes = "}(";
    for (const auto& [key, value] : items) opcodes += key + value;
    return opcodes + "u";
  }
};

struct Folder {
  TempDir folder;
  absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const Distributed& distributed) const {
    folder.Write("d/__0_0.distcp", distributed.data);
    folder.Write("d/.metadata", pickle::Stream(distributed.Metadata()));
    return OpenCheckpoint(folder.Path("d"));
  }
};

void ExpectError(const absl::Status& status, std::initializer_list<std::string_view> words) {
  ASSERT_FALSE(status.ok());
  const std::string message(status.message());
  for (const std::string_view word : words) {
    EXPECT_NE(message.find(word), std::string::npos) << "'" << word << "' in: " << message;
  }
}

TEST(DistributedCheckpointTest, ChunksAreReadAsOneTensor) {
  const Folder folder;
  const auto opened = folder.Open(Distributed());
  ASSERT_TRUE(opened.ok()) << opened.status();
  ASSERT_EQ((*opened)->tensors().size(), 1u);
  EXPECT_EQ(Read<float>(**opened, (*opened)->tensors()[0]), (std::vector<float>{0, 1, 2, 3, 0, 1}));
  EXPECT_TRUE((*opened)->CheckUnchanged().ok());
}

TEST(DistributedCheckpointTest, TheMetadataIsVerifiedToo) {
  const Folder folder;
  ASSERT_TRUE(folder.Open(Distributed()).ok());
  ExpectVerified(folder.folder, "d", "d/.metadata", {"d/__0_0.distcp"});
}

TEST(DistributedCheckpointTest, FilesOutsideTheFolderAreRefused) {
  const Folder folder;
  folder.folder.Write("secret", Distributed().data);
  folder.folder.MakeFolder("d");
  folder.folder.Link("../secret", "d/link");
  for (const char* name : {"../secret", "/etc/passwd", "link", "", ".."}) {
    SCOPED_TRACE(name);
    Distributed bad;
    for (Chunk& chunk : bad.chunks) chunk.file = name;
    ExpectError(folder.Open(bad).status(), {folder.folder.Path("d"), "expected a"});
  }
  Distributed missing;
  missing.chunks[1].file = "gone";
  ExpectError(folder.Open(missing).status(), {"tensor 'w'", "gone", "cannot be found"});
}

TEST(DistributedCheckpointTest, ChunksThatDoNotFitAreRefused) {
  const Folder folder;
  Distributed bad;
  bad.chunks[1].position = {3};
  ExpectError(folder.Open(bad).status(), {"tensor 'w'", "overlap"});
  bad = Distributed();
  bad.shape = {7};
  ExpectError(folder.Open(bad).status(), {"tensor 'w'", "holes"});
  bad = Distributed();
  bad.shape = {5};
  ExpectError(folder.Open(bad).status(), {"tensor 'w'", "inside shape [5]"});
  bad = Distributed();
  bad.dtype = "float64";
  ExpectError(folder.Open(bad).status(), {"tensor 'w'", "chunk at [0]", "float64", "float32"});
  bad = Distributed();
  bad.chunks[0].shape = {3};
  bad.chunks[1].position = {3};
  bad.chunks[1].shape = {3};
  ExpectError(folder.Open(bad).status(), {"tensor 'w'", "shape [3]", "shape [4]"});
  bad = Distributed();
  bad.dtype = "qint8";
  ExpectError(folder.Open(bad).status(), {"tensor 'w'", "known dtype"});
  bad = Distributed();
  bad.shape = {int64_t{1} << 62, int64_t{1} << 62};
  ExpectError(folder.Open(bad).status(), {"tensor 'w'", "64 bits"});
}

TEST(DistributedCheckpointTest, PlacesThatCannotBeAreRefused) {
  const Folder folder;
  Distributed bad;
  bad.chunks[1].offset = 0;
  ExpectError(folder.Open(bad).status(), {"storage_data", "overlapping"});
  bad = Distributed();
  bad.chunks[1].length = 1'000'000;
  ExpectError(folder.Open(bad).status(), {"tensor 'w'", "inside the file"});
  bad = Distributed();
  bad.chunks[1].length -= 1;
  ExpectError(folder.Open(bad).status(), {"tensor 'w'", "zip end record"});
  bad = Distributed();
  bad.chunks[1].offset = -1;
  ExpectError(folder.Open(bad).status(), {"storage_data", "0 or more"});
  bad = Distributed();
  bad.chunks[1].length = INT64_MAX;
  ExpectError(folder.Open(bad).status(), {"storage_data", "63 bits"});
  bad = Distributed();
  bad.transforms = pickle::List({pickle::Str("zstd")});
  ExpectError(folder.Open(bad).status(), {"storage_data", "transformed"});
}

TEST(DistributedCheckpointTest, MetadataThatIsNoneIsRefused) {
  const Folder folder;
  const std::vector<std::pair<std::string, std::string>> cases = {
      {pickle::Dict({}), "class Metadata"},
      {pickle::Call(pickle::Global("os", "system"), pickle::Tuple({pickle::Str("x")})),
       "class Metadata"},
      {Object("Metadata", {}), "state_dict_metadata"},
      {Object("Metadata", {{"state_dict_metadata", pickle::Dict({})}}), "storage_data"},
      {Object("Metadata",
              {{"state_dict_metadata", pickle::Dict({})}, {"storage_data", pickle::Dict({})}}),
       "without any"},
      {Object("Metadata", {{"state_dict_metadata", pickle::Dict({{"w", pickle::Int(1)}})},
                           {"storage_data", pickle::Dict({})}}),
       "TensorStorageMetadata"},
  };
  for (const auto& [opcodes, words] : cases) {
    SCOPED_TRACE(words);
    folder.folder.Write("d/.metadata", pickle::Stream(opcodes));
    ExpectError(OpenCheckpoint(folder.folder.Path("d")).status(), {folder.folder.Path("d"), words});
  }
}

TEST(FolderTest, WhatIsThereIsNamed) {
  const TempDir folder;
  folder.MakeFolder("m");
  ExpectError(OpenCheckpoint(folder.Path("m")).status(), {"expected a folder with", "no file"});
  folder.Write("m/a.bin", "x");
  folder.Write("m/b.bin", "x");
  ExpectError(OpenCheckpoint(folder.Path("m")).status(), {"2 files", "a.bin, b.bin"});
  folder.Write("m/model.safetensors", "x");
  folder.Write("m/.metadata", "x");
  ExpectError(OpenCheckpoint(folder.Path("m")).status(),
              {"expected one checkpoint", ".metadata", "model.safetensors"});
}

// RepositoryScanTest.WeightsAreChosenAsTransformersDoes has the same for the server.
TEST(FolderTest, WeightsAreChosenAsTransformersDoes) {
  const TempDir folder;
  const std::vector<std::string> order = {"model.safetensors", "model.safetensors.index.json",
                                          "pytorch_model.bin", "pytorch_model.bin.index.json"};
  const std::string one =
      SafetensorsFile(R"({"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", FloatStorage());
  for (const std::string& name : order) {
    folder.Write("m/" + name,
                 name.ends_with(".json") ? R"({"weight_map":{"w":"shard"}})" : std::string(one));
  }
  folder.Write("m/shard", one);
  for (const std::string& name : order) {
    const auto opened = OpenCheckpoint(folder.Path("m"));
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_EQ((*opened)->files().front().path, folder.Path("m/" + name));
    folder.Remove("m/" + name);
  }
}

TEST(FolderTest, ABrokenConfigIsNoReasonToFail) {
  const TempDir folder;
  folder.Write("m/model.safetensors",
               SafetensorsFile(R"({"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})",
                               FloatStorage()));
  for (const std::string& config : {std::string("{"), std::string(100'000, '[')}) {
    folder.Write("m/config.json", config);
    const auto opened = OpenCheckpoint(folder.Path("m"));
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_EQ((*opened)->metadata().back().value, "not read: it is no valid JSON");
    EXPECT_EQ(Read<float>(**opened, (*opened)->tensors()[0]).size(), 4u);
  }
}

TEST(ShardIndexTest, TensorsThatTheIndexDoesNotNameAreRefused) {
  const TempDir folder;
  folder.Write("m/part", SmallTorchFile({{"a", {1}}, {"b", {2}}}));
  folder.Write("m/index", R"({"weight_map":{"a":"part"}})");
  ExpectError(OpenCheckpoint(folder.Path("m/index")).status(), {"shard 'part'", "got 'b' too"});
  folder.Write("m/index", R"({"weight_map":{"a":"part","b":"part"}})");
  EXPECT_TRUE(OpenCheckpoint(folder.Path("m/index")).ok());
  CheckpointOptions options;
  options.max_metadata_bytes = 8;
  ExpectError(OpenCheckpoint(folder.Path("m/index"), options).status(),
              {"index of at most 8 bytes"});
  std::string many = R"({"weight_map":{"x":"x")";
  for (int i = 0; i < 5000; ++i) {
    many += ",\"" + std::to_string(i) + "\":\"" + std::to_string(i) + "\"";
  }
  folder.Write("m/index", many + "}}");
  ExpectError(OpenCheckpoint(folder.Path("m/index")).status(), {"at most 4096 shards"});
}

std::string Program(std::string_view config) {
  ZipBuilder zip;
  const std::vector<std::pair<std::string, std::string>> records = {
      {"p/archive_format", "pt2"},
      {"p/data/weights/model_weights_config.json", std::string(config)},
      {"p/data/weights/weight_0", FloatStorage()}};
  for (const auto& [name, data] : records) {
    ZipRecord record;
    record.name = name;
    record.data = data;
    zip.records.push_back(record);
  }
  return zip.Build();
}

std::string Weight(std::string_view fields) {
  return R"({"config":{"w":{"path_name":"weight_0","use_pickle":false,"tensor_meta":{)" +
         std::string(fields) + "}}}}";
}

TEST(ExportedProgramTest, WeightsThatCannotBeAreRefused) {
  const std::string rest = R"(,"strides":[{"as_int":1}],"storage_offset":{"as_int":0})";
  const std::string sound = R"("dtype":7,"layout":7,"sizes":[{"as_int":4}])" + rest;
  const Opened opened = OpenBytes(Program(Weight(sound)));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(Read<float>(**opened.checkpoint, opened->tensors()[0]),
            (std::vector<float>{0, 1, 2, 3}));
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"("dtype":7,"layout":7,"sizes":[{"as_int":5}])" + rest, "inside the storage's 16 bytes"},
      {R"("dtype":7,"layout":7,"sizes":[{"as_int":-1}])" + rest, "0 or more"},
      {R"("dtype":7,"layout":7,"sizes":[{"as_expr":"s0"}])" + rest, "as many strides as sizes"},
      {R"("dtype":99,"layout":7,"sizes":[{"as_int":4}])" + rest, "known dtype"},
      {R"("dtype":7,"layout":1,"sizes":[{"as_int":4}])" + rest, "layout"},
      {R"("dtype":7,"dtype":7)", "'dtype' twice"},
      {R"("dtype":7,"x":)" + std::string(100'000, '['), "nested"},
  };
  for (const auto& [fields, words] : cases) {
    SCOPED_TRACE(words);
    ExpectRefused(Program(Weight(fields)), {"tensor 'w'", words});
  }
  ExpectRefused(Program(R"({"config":{"w":{"path_name":"../weight_0","tensor_meta":{}}}})"),
                {"tensor 'w'", "data/weights/../weight_0", "got none"});
  ExpectRefused(Program("[]"), {"'config'"});
  ExpectRefused(Program("{"), {"valid JSON"});
}

}  // namespace
}  // namespace sconce
