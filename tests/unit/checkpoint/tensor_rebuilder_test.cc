// Descriptions of tensors that lie, in torch.save files, and quantised tensors.

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/checkpoint/refusal.h"

namespace sconce {
namespace {

using pickle::Call;
using pickle::Dict;
using pickle::Global;
using pickle::Int;
using pickle::OrderedDict;
using pickle::Str;
using pickle::Tuple;

void ExpectTensorRefused(const TensorPickle& tensor, std::initializer_list<std::string_view> words,
                         const std::string& storage = FloatStorage()) {
  ExpectRefused(FileOf(tensor, storage), {"archive/data.pkl: tensor 'w': "});
  ExpectRefused(FileOf(tensor, storage), words);
}

std::string QTensor(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
                    const std::string& quantizer, const std::string& storage_class = "QInt8Storage",
                    int64_t numel = 16) {
  TensorPickle tensor;
  tensor.storage_class = Global("torch", storage_class);
  tensor.numel = numel;
  const std::string id =
      Tuple({Str("storage"), tensor.storage_class, Str("0"), Str("cpu"), Int(numel)});
  std::vector<std::string> sizes, steps;
  for (const int64_t size : shape) sizes.push_back(Int(size));
  for (const int64_t stride : strides) steps.push_back(Int(stride));
  return Call(Global("torch._utils", "_rebuild_qtensor"),
              Tuple({id + "Q", Int(0), Tuple(sizes), Tuple(steps), quantizer, pickle::Bool(false),
                     OrderedDict({})}));
}

const char kScale[] = "G\x3F\xE0\0\0\0\0\0\0";  // 0.5

std::string PerTensor() {
  return Tuple({Global("torch", "per_tensor_affine"), std::string(kScale, 9), Int(-3)});
}

TEST(TensorRebuilderTest, QuantisedTensorsCarryTheirQuantizer) {
  const Opened opened = OpenBytes(FileWithEntry(QTensor({4, 4}, {4, 1}, PerTensor())));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  const TensorDescriptor& tensor = opened->tensors()[0];
  EXPECT_EQ(tensor.dtype, DType::kQInt8);
  ASSERT_TRUE(tensor.quantizer.has_value());
  EXPECT_EQ(tensor.quantizer->scale, 0.5);
  EXPECT_EQ(tensor.quantizer->zero_point, -3);
  EXPECT_EQ(tensor.size_bytes(), 16);
}

TEST(TensorRebuilderTest, PackedTypesRoundTheLastDimensionUp) {
  const Opened opened =
      OpenBytes(FileWithEntry(QTensor({2, 15}, {15, 1}, PerTensor(), "QUInt4x2Storage")));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(opened->tensors()[0].size_bytes(), 16);
  ExpectRefused(FileWithEntry(QTensor({2, 17}, {17, 1}, PerTensor(), "QUInt4x2Storage")),
                {"tensor 'w'", "inside the storage's 16 bytes, got 18"});
  ExpectRefused(FileWithEntry(QTensor({15, 2}, {1, 15}, PerTensor(), "QUInt4x2Storage")),
                {"tensor 'w'", "contiguous"});
}

TEST(TensorRebuilderTest, QuantisedTensorsAreCheckedLikeOthers) {
  ExpectRefused(FileWithEntry(QTensor({4, 5}, {4, 1}, PerTensor())),
                {"tensor 'w'", "inside the storage's 16 bytes"});
  ExpectRefused(FileWithEntry(QTensor({4}, {1'000'000'000}, PerTensor())),
                {"tensor 'w'", "inside the storage's 16 bytes"});
  ExpectRefused(FileWithEntry(QTensor({4}, {-1}, PerTensor())),
                {"tensor 'w'", "strides of 0 or more"});
  ExpectRefused(FileWithEntry(QTensor({4}, {1}, Int(1))), {"tensor 'w'", "quantizer", "tuple"});
  ExpectRefused(FileWithEntry(QTensor({4}, {1}, Tuple({Global("os", "system")}))),
                {"tensor 'w'", "known scheme", "os.system"});
  ExpectRefused(FileWithEntry(QTensor({4}, {1}, PerTensor(), "FloatStorage", 4)),
                {"tensor 'w'", "quantised type"});
  TensorPickle plain = Floats(16);
  plain.storage_class = Global("torch", "QInt8Storage");
  ExpectTensorRefused(plain, {"_rebuild_qtensor"});
  const std::string axis =
      Tuple({Global("torch", "per_channel_affine"), Floats().Build(), Floats().Build(), Int(2)});
  ExpectRefused(FileWithEntry(QTensor({4, 4}, {4, 1}, axis)), {"axis", "got 2"});
}

TEST(TensorRebuilderTest, GlobalsOutsideTheAllowListBuildNoTensor) {
  const std::string evil = Call(Global("posix", "system"), Tuple({Str("touch /tmp/owned")}));
  const std::string hooks = OrderedDict({});
  // CVE-2025-32434 and its kin: something else where the tensor's data is built.
  ExpectRefused(FileWithEntry(Call(Global("torch._utils", "_rebuild_parameter"),
                                   Tuple({evil, pickle::Bool(true), hooks}))),
                {"tensor 'w'", "posix.system", "not run"});
  ExpectRefused(FileWithEntry(Call(Global("torch._tensor", "_rebuild_from_type_v2"),
                                   Tuple({Global("builtins", "eval"), Global("torch", "Tensor"),
                                          Tuple({Str("1")}), "}"}))),
                {"tensor 'w'", "builtins.eval", "not run"});
  ExpectRefused(FileWithEntry(Call(Global("torch._utils", "_rebuild_something_new"), ")")),
                {"tensor 'w'", "torch._utils._rebuild_something_new"});
  ExpectRefused(FileWithEntry(Call(Global("torch._utils", "_rebuild_wrapper_subclass"), ")")),
                {"tensor 'w'", "torch._utils._rebuild_wrapper_subclass"});
  // As an entry it is no tensor at all; nothing else in the file makes it a state_dict.
  ExpectRefused(FileWithEntry(evil), {"state_dict", "'w': posix.system"});
  ExpectRefused(FileWith(evil), {"object of class posix.system"});
  // Beside the weights it lies unused.
  EXPECT_TRUE(OpenBytes(FileWith(Dict({{"state_dict", OrderedDict({{"w", Floats().Build()}})},
                                       {"hook", evil}})))
                  .ok());
}

TEST(TensorRebuilderTest, WritingIntoATensorIsRefused) {
  ExpectRefused(FileWithEntry(Floats().Build() + Int(0) + Int(1) + "s"),
                {"archive/data.pkl", "pickle byte", "target of SETITEM"});
}

TEST(TensorRebuilderTest, CyclesAreRefused) {
  ExpectRefused(FileWith("}" + pickle::Put(0) + "(" + Str("state_dict") + pickle::Get(0) + "u"),
                {"'state_dict'", "cycle"});
  ExpectRefused(FileWith("}(" + Str("model") + "}" + pickle::Put(0) + "(" + Str("w") +
                         Floats().Build() + Str("self") + pickle::Get(0) + "uu"),
                {"tensor 'self'", "cycle"});
}

TEST(TensorRebuilderTest, DeepNestingIsRefusedInATensorAndHarmlessElsewhere) {
  std::string nested = Floats().Build();
  for (int i = 0; i < 20; ++i) {
    nested = Call(Global("torch._utils", "_rebuild_parameter"),
                  Tuple({nested, pickle::Bool(true), OrderedDict({})}));
  }
  ExpectRefused(FileWithEntry(nested), {"tensor 'w'", "wrapped in tensors"});
  constexpr int kDepth = 200'000;
  const std::string deep = std::string(kDepth, ']') + std::string(kDepth - 1, 'a');
  EXPECT_TRUE(OpenBytes(FileWith(Dict({{"state_dict", OrderedDict({{"w", Floats().Build()}})},
                                       {"deep", deep}})))
                  .ok());
}

TEST(TensorRebuilderTest, MemoBombsBesideAndInsideTheWeightsCostNothing) {
  std::string bomb = "N\x85";
  for (int i = 0; i < 200; ++i) {
    bomb += pickle::Put(static_cast<uint8_t>(i)) + pickle::Get(static_cast<uint8_t>(i)) + "\x86";
  }
  const Opened opened = OpenBytes(FileWith(Dict(
      {{"state_dict", OrderedDict({{"w", Floats().Build()}, {"bomb", bomb}})}, {"bomb", bomb}})));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(opened->non_tensors()[0].name, "bomb");
}

TEST(TensorRebuilderTest, MalformedPersistentIdsAreRefused) {
  const auto with_id = [](const std::string& id) {
    TensorPickle tensor = Floats();
    tensor.persistent_id = id;
    return tensor;
  };
  const std::string cls = Global("torch", "FloatStorage");
  ExpectTensorRefused(with_id(Str("storage")), {"persistent id", "no tuple"});
  ExpectTensorRefused(with_id(Tuple({Str("storage"), cls, Str("0"), Str("cpu")})),
                      {"persistent id", "other items"});
  ExpectTensorRefused(with_id(Tuple({Str("module"), cls, Str("0"), Str("cpu"), Int(4)})),
                      {"persistent id", "other items"});
  ExpectTensorRefused(with_id(Tuple({Str("storage"), cls, Int(0), Str("cpu"), Int(4)})),
                      {"storage key", "an int"});
  ExpectTensorRefused(with_id(Tuple({Str("storage"), cls, Str("0"), Str("cpu"), Str("4")})),
                      {"number of elements", "a string"});
  ExpectTensorRefused(with_id(Tuple({Str("storage"), cls, Str("0"), Str("cpu"), Int(-4)})),
                      {"storage '0'", "0 or more", "-4"});
  ExpectTensorRefused(
      with_id(Tuple({Str("storage"), Global("os", "system"), Str("0"), Str("cpu"), Int(4)})),
      {"storage class", "os.system"});
  TensorPickle tensor = Floats();
  tensor.key = "../data.pkl";
  ExpectTensorRefused(tensor, {"without '/'", "'../data.pkl'"});
  tensor.key = "";
  ExpectTensorRefused(tensor, {"storage key"});
  tensor.key = "7";
  ExpectTensorRefused(tensor, {"'archive/data/7', got none"});
  ExpectRefused(FileWithEntry(Call(Global("torch._utils", "_rebuild_tensor_v2"),
                                   Tuple({Str("0"), Int(0), ")", ")", pickle::Bool(false), "}"}))),
                {"tensor 'w'", "expected a storage, got a string"});
}

TEST(TensorRebuilderTest, NegativeNumbersAreRefused) {
  TensorPickle tensor = Floats();
  tensor.offset = -1;
  ExpectTensorRefused(tensor, {"offset of 0 or more", "-1"});
  tensor = Floats();
  tensor.shape = {-4};
  ExpectTensorRefused(tensor, {"sizes of 0 or more", "[-4]"});
  tensor = Floats();
  tensor.strides = {-1};
  ExpectTensorRefused(tensor, {"strides of 0 or more", "[-1]"});
}

TEST(TensorRebuilderTest, OverflowsAreRefused) {
  constexpr int64_t kHuge = int64_t{1} << 62;
  TensorPickle tensor = Floats();
  tensor.shape = {kHuge, 4};
  tensor.strides = {0, 0};
  ExpectTensorRefused(tensor, {"elements within 64 bits"});
  tensor.shape = {kHuge};
  tensor.strides = {0};
  ExpectTensorRefused(tensor, {"bytes within 64 bits"});
  tensor.shape = {3};
  tensor.strides = {kHuge};
  ExpectTensorRefused(tensor, {"strides within 64 bits"});
  tensor = Floats();
  tensor.shape = tensor.strides = {};
  tensor.offset = std::numeric_limits<int64_t>::max();
  ExpectTensorRefused(tensor, {"offset within 64 bits"});
  tensor = Floats();
  tensor.numel = kHuge;
  ExpectTensorRefused(tensor, {"storage '0'", "bytes within 64 bits"});
}

TEST(TensorRebuilderTest, ElementsPastTheStorageAreRefused) {
  TensorPickle tensor = Floats();
  tensor.shape = {5};
  ExpectTensorRefused(tensor, {"storage 'archive/data/0'", "16 bytes, which hold 4", "end at 5"});
  tensor = Floats();
  tensor.offset = 1;
  ExpectTensorRefused(tensor, {"inside the storage's 16 bytes", "offset 1"});
  tensor = Floats();
  tensor.shape = {2, 2};
  tensor.strides = {3, 1};
  ExpectTensorRefused(tensor, {"strides [3, 1]", "end at 5"});
  tensor.strides = {2, 1};
  EXPECT_TRUE(OpenBytes(FileOf(tensor, FloatStorage())).ok());
}

TEST(TensorRebuilderTest, RecordsOfAnotherSizeAreRefused) {
  // CVE-2026-24747: more elements than the record has bytes for would be uninitialised memory.
  ExpectTensorRefused(Floats(), {"storage '0'", "expected 16 bytes for 4 elements", "record of 12"},
                      FloatStorage(3));
  ExpectTensorRefused(Floats(), {"storage '0'", "record of 20"}, FloatStorage(5));
}

TEST(TensorRebuilderTest, ConflictingUsesOfOneKeyAreRefused) {
  TensorPickle other = Floats();
  other.storage_class = Global("torch", "IntStorage");
  ExpectRefused(FileWith(OrderedDict({{"a", Floats().Build()}, {"b", other.Build()}})),
                {"tensor 'b'", "storage '0'", "one type and size"});
  other = Floats();
  other.numel = 3;
  other.shape = {3};
  ExpectRefused(FileWith(OrderedDict({{"a", Floats().Build()}, {"b", other.Build()}})),
                {"tensor 'b'", "storage '0'", "4 and 3 elements"});
}

TEST(TensorRebuilderTest, BadRanksAreRefused) {
  TensorPickle tensor = Floats();
  tensor.strides = {1, 1};
  ExpectTensorRefused(tensor, {"as many strides as sizes"});
  tensor = Floats();
  tensor.shape = tensor.strides = std::vector<int64_t>(65, 1);
  ExpectTensorRefused(tensor, {"at most 64 dimensions", "65"});
}

TEST(TensorRebuilderTest, TensorsWithoutDataAreRefusedOrNamed) {
  const std::string meta = Call(Global("torch._utils", "_rebuild_meta_tensor_no_storage"),
                                Tuple({Global("torch", "float32"), ")", ")", pickle::Bool(false)}));
  ExpectRefused(FileWithEntry(meta), {"only tensors on the meta device"});
  const std::string parameter =
      Call(Global("torch._utils", "_rebuild_parameter"), Tuple({meta, pickle::Bool(true), "}"}));
  const Opened opened =
      OpenBytes(FileWith(OrderedDict({{"w", Floats().Build()}, {"m", meta}, {"p", parameter}})));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(opened->tensors().size(), 1u);
  ASSERT_EQ(opened->non_tensors().size(), 2u);
  EXPECT_EQ(opened->non_tensors()[1].type_name, "tensor on the meta device, without data");
  for (const char* function : {"_rebuild_wrapper_subclass", "_rebuild_nested_tensor"}) {
    ExpectRefused(FileWithEntry(Call(Global("torch._utils", function), Tuple({Int(1)}))),
                  {"tensor 'w'", std::string("got torch._utils.") + function});
  }
}

TEST(TensorRebuilderTest, BytesOfABigEndianMachineAreTurned) {
  const auto big_endian = [](const TensorPickle& tensor, const std::string& bytes) {
    ZipBuilder zip = TorchZip(pickle::Stream(OrderedDict({{"w", tensor.Build()}})), {{"0", bytes}});
    for (ZipRecord& record : zip.records) {
      if (record.name == "archive/byteorder") record.data = "big";
    }
    return OpenBytes(zip.Build());
  };
  TensorPickle tensor = Floats(2);
  tensor.storage_class = Global("torch", "IntStorage");
  const Opened ints = big_endian(tensor, std::string("\0\0\1\2\xff\xff\xff\xfe", 8));
  ASSERT_TRUE(ints.ok()) << ints.checkpoint.status();
  EXPECT_EQ(Read<int32_t>(**ints.checkpoint, ints->tensors()[0]), (std::vector<int32_t>{258, -2}));
  tensor = Floats(1);
  tensor.storage_class = Global("torch", "ComplexFloatStorage");
  const Opened complex = big_endian(tensor, std::string("\x3f\x80\0\0\x40\0\0\0", 8));
  EXPECT_EQ(Read<float>(**complex.checkpoint, complex->tensors()[0]), (std::vector<float>{1, 2}));
  tensor = Floats(3);
  tensor.storage_class = Global("torch", "ByteStorage");
  const Opened bytes = big_endian(tensor, "\1\2\3");
  EXPECT_EQ(Read<uint8_t>(**bytes.checkpoint, bytes->tensors()[0]),
            (std::vector<uint8_t>{1, 2, 3}));
}

TEST(TensorRebuilderTest, ExpandedBombsAreRefused) {
  TensorPickle tensor = Floats();
  tensor.shape = {1'000'000, 1'000'000};
  tensor.strides = {0, 0};
  ExpectTensorRefused(tensor, {"at most 64 times its storage's 16 bytes", "4000000000000 bytes"});
  tensor.shape = {100, 100};
  const Opened small = OpenBytes(FileOf(tensor, FloatStorage()));
  ASSERT_TRUE(small.ok()) << small.checkpoint.status();
  EXPECT_EQ(Read<float>(**small.checkpoint, small->tensors()[0]), std::vector<float>(10'000, 0));
}

TEST(TensorRebuilderTest, NamesAreMadePrintable) {
  TensorPickle tensor = Floats();
  tensor.offset = -1;
  ExpectRefused(FileWith(OrderedDict({{"evil\x1b[2J\nname", tensor.Build()}})),
                {"tensor 'evil\\x1b[2J\\nname'"});
}

TEST(TensorRebuilderTest, WrongArgumentsOfARebuildAreRefused) {
  ExpectRefused(FileWithEntry(Call(Global("torch._utils", "_rebuild_tensor_v2"), ")")),
                {"tensor 'w'", "6 to 7 arguments of _rebuild_tensor_v2", "got 0"});
  TensorPickle tensor = Floats();
  tensor.metadata = Int(1);
  ExpectTensorRefused(tensor, {"dict of tensor metadata"});
  tensor.metadata = Dict({{"conj", Int(1)}});
  ExpectTensorRefused(tensor, {"bool as 'conj'"});
  tensor = Floats();
  tensor.dtype = Global("os", "float32");
  ExpectTensorRefused(tensor, {"dtype of torch", "os.float32"});
  tensor = Floats();
  tensor.storage_class = Global("torch.storage", "UntypedStorage");
  tensor.numel = 16;
  ExpectTensorRefused(tensor, {"element type", "untyped"});
}

}  // namespace
}  // namespace sconce
