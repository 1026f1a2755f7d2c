// Files of torch.save from before PyTorch 1.6, and what must be refused in them (case 39 of what a
// reader must refuse).

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "server/checkpoint/pickle/pickle_reader.h"
#include "tests/unit/checkpoint/refusal.h"

namespace sconce {
namespace {

using pickle::Dict;
using pickle::Global;
using pickle::Int;
using pickle::List;
using pickle::None;
using pickle::OrderedDict;
using pickle::Str;
using pickle::Stream;
using pickle::Tuple;

std::string StorageId(const std::string& key, int64_t numel, const std::string& view = None(),
                      const std::string& storage_class = "FloatStorage") {
  return Tuple(
      {Str("storage"), Global("torch", storage_class), Str(key), Str("cpu"), Int(numel), view});
}

std::string Tensor(const std::string& key, int64_t numel, const std::string& view = None(),
                   int64_t size = 4) {
  TensorPickle tensor = Floats(size);
  tensor.persistent_id = StorageId(key, numel, view);
  return tensor.Build();
}

// {"w": 4 floats}
LegacyFile Sound() {
  LegacyFile file;
  file.object = Stream(OrderedDict({{"w", Tensor("77", 4)}}));
  file.storages = {{"77", 4, FloatStorage()}};
  return file;
}

TEST(LegacyCheckpointTest, TensorsAreReadFromTheirStorages) {
  LegacyFile file;
  file.object = Stream(OrderedDict({{"b", Tensor("9", 4)}, {"a", Tensor("10", 2, None(), 2)}}));
  file.storages = {{"10", 2, Bytes<float>({7, 8})}, {"9", 4, FloatStorage()}};
  const Opened opened = OpenBytes(file.Build());
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_STREQ(opened->format(), "torch.save before 1.6");
  ASSERT_EQ(opened->tensors().size(), 2u);
  EXPECT_EQ(opened->tensors()[0].name, "b");
  EXPECT_EQ(Read<float>(**opened.checkpoint, opened->tensors()[0]),
            (std::vector<float>{0, 1, 2, 3}));
  EXPECT_EQ(Read<float>(**opened.checkpoint, opened->tensors()[1]), (std::vector<float>{7, 8}));
}

TEST(LegacyCheckpointTest, AViewIsAPartOfItsStorage) {
  const auto view = [](int64_t offset, int64_t size) {
    return Tuple({Str("78"), Int(offset), Int(size)});
  };
  LegacyFile file = Sound();
  file.object =
      Stream(OrderedDict({{"all", Tensor("77", 4)}, {"part", Tensor("77", 4, view(1, 2), 2)}}));
  const Opened opened = OpenBytes(file.Build());
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(opened->storages().size(), 1u);
  EXPECT_EQ(Read<float>(**opened.checkpoint, opened->tensors()[1]), (std::vector<float>{1, 2}));

  file.object = Stream(OrderedDict({{"w", Tensor("77", 4, view(1, 2), 3)}}));
  ExpectRefused(file.Build(), {"tensor 'w'", "inside the storage's 8 bytes"});
  for (const auto& [offset, size] : {std::pair(3, 2), {-1, 2}, {0, 5}, {5, 0}}) {
    file.object = Stream(OrderedDict({{"w", Tensor("77", 4, view(offset, size), 1)}}));
    ExpectRefused(file.Build(), {"object", "storage '77'", "view"});
  }
  file.object = Stream(OrderedDict({{"w", Tensor("77", 4, Int(1))}}));
  ExpectRefused(file.Build(), {"storage '77'", "None or a tuple"});
}

TEST(LegacyCheckpointTest, StoragesBesideTheWeightsCountForThePlaces) {
  LegacyFile file;
  file.object = Stream(Dict({{"state_dict", OrderedDict({{"w", Tensor("2", 4)}})},
                             {"momentum", List({Tensor("1", 2, None(), 2)})}}));
  file.storages = {{"1", 2, Bytes<float>({7, 8})}, {"2", 4, FloatStorage()}};
  const Opened opened = OpenBytes(file.Build());
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(opened->storages().size(), 1u);
  EXPECT_EQ(Read<float>(**opened.checkpoint, opened->tensors()[0]),
            (std::vector<float>{0, 1, 2, 3}));
}

TEST(LegacyCheckpointTest, ClassesComeWithTheirSource) {
  LegacyFile file = Sound();
  const std::string module_class =
      Tuple({Str("module"), Global("my.nets", "Net"), Str("net.py"), Str("class Net: ...")}) + "Q";
  file.object = Stream(module_class + ")\x81" +
                       Dict({{"_parameters", OrderedDict({{"w", Tensor("77", 4)}})},
                             {"_modules", OrderedDict({})}}) +
                       "b");
  const Opened opened = OpenBytes(file.Build());
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(opened->modules().at(0).class_name, "my.nets.Net");
  EXPECT_EQ(opened->tensors().at(0).name, "w");
}

// PyTorch writes storages in little-endian order on every machine.
TEST(LegacyCheckpointTest, ABigEndianMachinesFileIsReadAsAnyOther) {
  LegacyFile file = Sound();
  file.sys_info = Stream(Dict({{"little_endian", pickle::Bool(false)}}));
  const Opened opened = OpenBytes(file.Build());
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_NE(opened->producer().find("big-endian"), std::string::npos);
  EXPECT_EQ(Read<float>(**opened.checkpoint, opened->tensors()[0]),
            (std::vector<float>{0, 1, 2, 3}));
}

TEST(LegacyCheckpointTest, AWrongPreambleIsRefused) {
  LegacyFile file = Sound();
  file.magic = Stream("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x18");
  ExpectRefused(file.Build(), {"magic number", "another number"});
  file = Sound();
  file.protocol = Stream(Int(1000));
  ExpectRefused(file.Build(), {"protocol version", "1001", "1000"});
  file.protocol = Stream(Str("1001"));
  ExpectRefused(file.Build(), {"protocol version", "a string"});
  file = Sound();
  file.sys_info = Stream(None());
  ExpectRefused(file.Build(), {"sys_info", "a dict"});
}

TEST(LegacyCheckpointTest, KeysThatAreNotTheObjectsAreRefused) {
  LegacyFile file = Sound();
  file.keys = Stream(List({}));
  ExpectRefused(file.Build(), {"storage keys", "1 storages", "0 keys"});
  file.keys = Stream(List({Str("77"), Str("78")}));
  ExpectRefused(file.Build(), {"storage keys", "2 keys"});
  file.keys = Stream(List({Str("78")}));
  ExpectRefused(file.Build(), {"storage keys", "'78'"});
  file.keys = Stream(List({Int(77)}));
  ExpectRefused(file.Build(), {"storage keys", "an int"});
  file.keys = Stream(Str("77"));
  ExpectRefused(file.Build(), {"storage keys", "a list"});

  file = Sound();
  file.object = Stream(OrderedDict({{"a", Tensor("1", 4)}, {"b", Tensor("2", 4)}}));
  file.storages = {{"1", 4, FloatStorage()}, {"2", 4, FloatStorage()}};
  EXPECT_TRUE(OpenBytes(file.Build()).ok());
  file.keys = Stream(List({Str("1"), Str("1")}));
  ExpectRefused(file.Build(), {"storage '1'", "twice"});
}

TEST(LegacyCheckpointTest, ACountThatIsNotTheStoragesIsRefused) {
  for (const int64_t count : {int64_t{3}, int64_t{5}, int64_t{-1}, INT64_MAX}) {
    LegacyFile file = Sound();
    file.storages[0].count = count;
    ExpectRefused(file.Build(), {"storage '77'", "4 elements", "got " + std::to_string(count)});
  }
}

TEST(LegacyCheckpointTest, SizesThatDoNotFitAreRefused) {
  LegacyFile file = Sound();
  file.object = Stream(OrderedDict({{"w", Tensor("77", -1)}}));
  ExpectRefused(file.Build(), {"storage '77'", "got -1"});
  file.object = Stream(OrderedDict({{"w", Tensor("77", INT64_MAX / 2)}}));
  ExpectRefused(file.Build(), {"storage '77'", "64 bits"});
  file = Sound();
  file.storages[0].bytes.pop_back();
  ExpectRefused(file.Build(), {"storage '77'", "16 bytes", "after 15"});
  file.storages[0].bytes = FloatStorage() + "x";
  ExpectRefused(file.Build(), {"end of the file", "1 bytes more"});
  file = Sound();
  TensorPickle half = Floats();
  half.persistent_id = StorageId("77", 4, None(), "HalfStorage");
  file.object = Stream(OrderedDict({{"a", Tensor("77", 4)}, {"b", half.Build()}}));
  ExpectRefused(file.Build(), {"storage '77'", "one type"});
}

TEST(LegacyCheckpointTest, AFileCutAnywhereIsRefused) {
  const std::string whole = Sound().Build();
  // Shorter ones are not known as files of this format.
  for (size_t size = 5; size < whole.size(); ++size) {
    ExpectRefused(whole.substr(0, size), {"expected"});
  }
}

TEST(LegacyCheckpointTest, ThePickleIsLimited) {
  LegacyFile file = Sound();
  file.object = Stream(OrderedDict({{std::string(9000, 'n'), Tensor("77", 4)}}));
  CheckpointOptions options;
  options.max_metadata_bytes = 8000;
  const Opened opened = OpenBytes(file.Build(), options);
  ASSERT_FALSE(opened.ok());
  EXPECT_NE(opened.checkpoint.status().message().find("a pickle of at most"), std::string::npos)
      << opened.checkpoint.status();
  EXPECT_TRUE(OpenBytes(file.Build()).ok());
}

// ---- ReadPickle.

absl::StatusOr<std::string> PickleIn(const std::string& content, int64_t max_bytes = 1 << 30) {
  TempDir folder;
  folder.Write("file", content);
  const absl::StatusOr<File> file = File::Open(folder.Path("file"));
  FileSection section{.offset = 0, .end = file->size_bytes()};
  absl::StatusOr<std::string> stream = ReadPickle(*file, section, max_bytes);
  if (stream.ok()) {
    EXPECT_EQ(section.offset, static_cast<int64_t>(stream->size()));
  }
  return stream;
}

TEST(PickleReaderTest, APickleEndsAtItsStop) {
  const std::string after(100'000, '.');
  const std::string streams[] = {
      Stream(None()),
      Stream(Str("a . in a string") + "0" + Global("m.o", "d.u") + "0" + None()),
      Stream(std::string("\x95\x00\x00\x00\x00\x00\x00\x00\x00", 9) + "\x8c\x02..", 4),
      Stream(List(std::vector<std::string>(20'000, Int(0x2E2E2E2E)))),
      Stream(Str(std::string(300'000, '.'))),
      Stream(Global(std::string(10'000, 'm'), "n")),
      Stream("I46\n0(" + Global("m", "n") + "o"),
      Stream("\x8a\x02.." + std::string("0G") + "........"),
  };
  for (const std::string& stream : streams) {
    const absl::StatusOr<std::string> read = PickleIn(stream + after);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, stream);
    EXPECT_FALSE(PickleIn(stream.substr(0, stream.size() - 1)).ok());
    EXPECT_FALSE(PickleIn(stream, static_cast<int64_t>(stream.size()) - 1).ok());
    EXPECT_TRUE(PickleIn(stream, static_cast<int64_t>(stream.size())).ok());
  }
}

TEST(PickleReaderTest, LengthsAreCheckedBeforeAnythingIsRead) {
  const std::string sizes[] = {"X\xff\xff\xff\xff", "T\xff\xff\xff\xff",
                               "\x8e\xff\xff\xff\xff\xff\xff\xff\xff",
                               "\x8d\xff\xff\xff\xff\xff\xff\xff\x7f"};
  for (const std::string& size : sizes) {
    const absl::Status status = PickleIn("\x80\x04" + size + "abc.").status();
    EXPECT_NE(status.message().find("that remain"), std::string::npos) << status;
  }
  EXPECT_NE(PickleIn("\x80\x02\x01.").status().message().find("unknown opcode 0x01"),
            std::string::npos);
}

}  // namespace
}  // namespace sconce
