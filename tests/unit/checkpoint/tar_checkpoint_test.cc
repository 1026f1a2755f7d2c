// The tar archives of the first versions of torch.save, and what must be refused in them (case 40
// of what a reader must refuse; CVE-2025-32434).

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tests/unit/checkpoint/refusal.h"

namespace sconce {
namespace {

using pickle::Dict;
using pickle::Global;
using pickle::Int;
using pickle::List;
using pickle::OrderedDict;
using pickle::Str;
using pickle::Stream;
using pickle::Tuple;

std::string TensorId(const std::string& id) { return Str(id) + "Q"; }

std::string Storage(int64_t id, int64_t count, const std::string& bytes,
                    const std::string& storage_class = "FloatStorage") {
  return Stream(Tuple({Int(id), Str("cpu"), Global("torch", storage_class)})) +
         LittleEndian(count) + bytes;
}

std::string Tensor(int64_t id, int64_t storage, int32_t rank, const std::vector<int64_t>& numbers) {
  return Stream(Tuple({Int(id), Int(storage), Global("torch", "FloatTensor")})) +
         LittleEndian(rank) + std::string("\1\2\3\4") + Bytes(numbers);
}

// {"w": [2, 2] floats}
struct TarFile {
  std::string sys_info = Stream(Dict({}));
  std::string storage_count = Stream(Int(1));
  std::string storages = Storage(5, 4, FloatStorage());
  std::string views = Stream("]");
  std::string tensor_count = Stream(Int(1));
  std::string tensors = Tensor(6, 5, 2, {2, 2, 1, 2, 0});
  std::string object = Stream(OrderedDict({{"w", TensorId("6")}}));

  std::vector<TarMember> Members() const {
    return {{"sys_info", sys_info},
            {"pickle", object},
            {"tensors", tensor_count + tensors},
            {"storages", storage_count + storages + views}};
  }
  std::string Build() const { return Tar(Members()); }
};

TEST(TarCheckpointTest, TensorsAreReadFromTheirStorages) {
  const Opened opened = OpenBytes(TarFile().Build());
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_STREQ(opened->format(), "torch.save tar");
  const TensorDescriptor& tensor = opened->tensors().at(0);
  EXPECT_EQ(tensor.name, "w");
  EXPECT_EQ(tensor.shape, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(Read<float>(**opened.checkpoint, tensor), (std::vector<float>{0, 2, 1, 3}));
}

TEST(TarCheckpointTest, ViewsAndExtendedHeaders) {
  TarFile file;
  file.views = Stream(List({Tuple({Int(8), Int(5), Int(1), Int(2)})}));
  file.tensors = Tensor(6, 8, 1, {2, 1, 0});
  std::vector<TarMember> members = file.Members();
  members.insert(members.begin(), {"././@PaxHeader", "28 mtime=1480000000.1234567\n", 'x'});
  const Opened opened = OpenBytes(Tar(members));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(Read<float>(**opened.checkpoint, opened->tensors()[0]), (std::vector<float>{1, 2}));

  file.tensors = Tensor(6, 8, 1, {3, 1, 0});
  ExpectRefused(file.Build(), {"tensors", "tensor 0", "inside the storage's 8 bytes"});
  file.views = Stream(List({Tuple({Int(8), Int(5), Int(3), Int(2)})}));
  ExpectRefused(file.Build(), {"storages", "views", "inside the storage's 4 elements"});
  file.views = Stream(List({Tuple({Int(8), Int(7), Int(0), Int(1)})}));
  ExpectRefused(file.Build(), {"views", "id of a storage", "7"});
  file.views = Stream(List({Tuple({Int(5), Int(5), Int(0), Int(1)})}));
  ExpectRefused(file.Build(), {"views", "5 twice"});
}

TEST(TarCheckpointTest, LinksAndOtherThingsThanFilesAreRefused) {
  for (const char type : {'1', '2', '3', '5', '6', 'L', 'S'}) {
    std::vector<TarMember> members = TarFile().Members();
    members[1].type = type;
    members[1].link = "/etc/passwd";
    ExpectRefused(Tar(members), {"tar byte 1024", "regular files", "'pickle'"});
  }
}

TEST(TarCheckpointTest, OtherMembersAreRefused) {
  for (const char* name : {"../pickle", "/etc/passwd", "folder/pickle", "model.pth", ""}) {
    std::vector<TarMember> members = TarFile().Members();
    members.push_back({name, "x"});
    ExpectRefused(Tar(members), {"expected members sys_info", "unpack it first"});
  }
  std::vector<TarMember> twice = TarFile().Members();
  twice.push_back(twice[1]);
  ExpectRefused(Tar(twice), {"'pickle' twice"});
  std::vector<TarMember> without = TarFile().Members();
  without.pop_back();
  ExpectRefused(Tar(without), {"a member 'storages'"});
  std::vector<TarMember> many(100, {"x", "", 'g'});
  ExpectRefused(Tar(many), {"at most 16 headers"});
}

TEST(TarCheckpointTest, HeadersThatLieAreRefused) {
  std::vector<TarMember> members = TarFile().Members();
  members[3].size = "00000100000";
  ExpectRefused(Tar(members), {"bytes that remain", "32768"});
  members[3].size = "0000000009x";
  ExpectRefused(Tar(members), {"octal"});
  members[3].size = std::string("\x80\0\0\0\0\0\0\0\0\0\1\0", 12);
  ExpectRefused(Tar(members), {"octal"});
  members = TarFile().Members();
  members[2].good_checksum = false;
  ExpectRefused(Tar(members), {"checksum"});
  for (const char* line :
       {"13 path=other\n", "9 size=1\n", "13 linkpath=x\n", "22 GNU.sparse.map=1\n"}) {
    members = TarFile().Members();
    members.insert(members.begin(), {"@PaxHeader", line, 'x'});
    ExpectRefused(Tar(members), {"extended header without"});
  }
  members[0].data = "nonsense";
  ExpectRefused(Tar(members), {"lines of keys and values"});
  members[0].data = std::string(100'000, 'x');
  ExpectRefused(Tar(members), {"extended header of at most"});
}

TEST(TarCheckpointTest, NumbersOfDimensionsAreBounded) {
  for (const int32_t rank : {-1, 65, 1 << 30, INT32_MIN}) {
    TarFile file;
    file.tensors = Tensor(6, 5, rank, {2, 2, 1, 2, 0});
    ExpectRefused(file.Build(), {"tensors: tensor 0", "0 to 64 dimensions", std::to_string(rank)});
  }
  TarFile file;
  file.tensors = Tensor(6, 5, 3, {2, 2, 1, 2, 0});
  ExpectRefused(file.Build(), {"tensors: tensor 0", "7 numbers"});
}

TEST(TarCheckpointTest, TensorsOutsideTheirStorageAreRefused) {
  const std::vector<int64_t> cases[] = {{2, 3, 2, 1, 0},  {2, 2, 2, 1, 1},
                                        {2, 2, 2, 1, -1}, {-2, 2, 2, 1, 0},
                                        {2, 2, -2, 1, 0}, {INT64_MAX, 2, 2, 1, 0}};
  for (const std::vector<int64_t>& numbers : cases) {
    TarFile file;
    file.tensors = Tensor(6, 5, 2, numbers);
    ExpectRefused(file.Build(), {"tensors: tensor 0", "expected"});
  }
}

TEST(TarCheckpointTest, StoragesThatLieAreRefused) {
  for (const int64_t count : {int64_t{1000}, int64_t{-1}, INT64_MAX}) {
    TarFile file;
    file.storages = Storage(5, count, FloatStorage());
    ExpectRefused(file.Build(), {"storages: storage 0", "expected"});
  }
  TarFile file;
  file.storage_count = Stream(Int(2));
  ExpectRefused(file.Build(), {"storages: storage 1"});
  file.storages += Storage(5, 4, FloatStorage());
  ExpectRefused(file.Build(), {"storages: storage 1", "5 twice"});
  file.storage_count = Stream(Int(-1));
  ExpectRefused(file.Build(), {"number of storages"});
  file.storage_count = Stream(Int(int64_t{1} << 40));
  ExpectRefused(file.Build(), {"at most 1048576 storages"});
  file = TarFile();
  file.storages = Storage(5, 4, FloatStorage(), "posix.system");
  ExpectRefused(file.Build(), {"storages: storage 0", "storage class of torch"});
  file = TarFile();
  file.views += "x";
  ExpectRefused(file.Build(), {"storages: expected nothing more"});
}

TEST(TarCheckpointTest, IdsWithoutATensorAreRefused) {
  TarFile file;
  file.object = Stream(OrderedDict({{"w", TensorId("7")}}));
  ExpectRefused(file.Build(), {"tensor 'w'", "id of a tensor", "7"});
  file.object = Stream(OrderedDict({{"w", TensorId("6x")}}));
  ExpectRefused(file.Build(), {"tensor 'w'", "a number as an id"});
  file.object = Stream(OrderedDict({{"w", Tuple({Str("storage")}) + "Q"}}));
  ExpectRefused(file.Build(), {"tensor 'w'", "a number as an id"});
}

// CVE-2025-32434: what the object calls is written down here as anywhere.
TEST(TarCheckpointTest, NothingIsCalled) {
  TarFile file;
  file.object = Stream(Dict({{"state_dict", OrderedDict({{"w", TensorId("6")}})},
                             {"evil", pickle::Call(Global("os", "system"), Tuple({Str("ls")}))}}));
  const Opened opened = OpenBytes(file.Build());
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(opened->metadata().at(0).name, "evil");
  EXPECT_EQ(opened->metadata().at(0).value, "os.system('ls')");
  file.object = Stream(OrderedDict(
      {{"w", pickle::Call(Global("torch._utils", "_rebuild_tensor_v2"), Floats().Arguments())}}));
  ExpectRefused(file.Build(), {"tensor 'w'", "storage"});
}

}  // namespace
}  // namespace sconce
