// State_dicts in torch.save files: what is found in them, and how it is read.

#include <gtest/gtest.h>

#include <cstdint>
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

using Entries = std::vector<std::pair<std::string, std::string>>;

std::vector<std::string> Names(const Checkpoint& checkpoint) {
  std::vector<std::string> names;
  for (const TensorDescriptor& tensor : checkpoint.tensors()) names.push_back(tensor.name);
  return names;
}

TEST(StateDictTest, TensorsAreListedInOrderUnderTheirNames) {
  const Opened opened = OpenBytes(SmallTorchFile({{"module.b", {1, 2}}, {"module.a", {3}}}));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(Names(**opened.checkpoint), (std::vector<std::string>{"module.b", "module.a"}));
  EXPECT_EQ(opened->wrapper(), "");
  EXPECT_STREQ(opened->format(), "torch.save zip");
  EXPECT_EQ(opened->path(), opened.folder->Path("model.pth"));
  EXPECT_EQ(opened->files().at(0).fingerprint, *FingerprintOf(opened->path()));
  EXPECT_FALSE(opened->has_module_versions());
  EXPECT_EQ(Read<float>(**opened.checkpoint, opened->tensors()[1]), (std::vector<float>{3}));
  EXPECT_EQ(opened->storages()[1].member, "archive/data/1");
  EXPECT_TRUE(opened->CheckUnchanged().ok());
}

TEST(StateDictTest, WrappersAreLookedThroughInOrderOfPreference) {
  const std::vector<std::string> order = {
      "state_dict", "model_state_dict", "model",    "model_state", "net",
      "ema",        "state_dict_ema",   "model_ema"};
  for (size_t best = 0; best < order.size(); ++best) {
    // The less preferred ones come first in the file.
    Entries entries = {{"epoch", Int(7)}};
    for (size_t i = order.size(); i-- > best;) {
      entries.emplace_back(order[i], OrderedDict({{order[i] + ".w", Floats().Build()}}));
    }
    const Opened opened = OpenBytes(FileWith(Dict(entries)));
    ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
    EXPECT_EQ(opened->wrapper(), order[best]);
    EXPECT_EQ(Names(**opened.checkpoint), (std::vector<std::string>{order[best] + ".w"}));
    const MetadataEntry& first = opened->metadata()[0];
    if (best + 1 < order.size()) {
      EXPECT_EQ(first.name, "state_dicts in the file");
      EXPECT_NE(first.value.find("'model_ema'"), std::string::npos) << first.value;
    } else {
      EXPECT_EQ(first.name, "epoch");
      EXPECT_EQ(first.value, "7");
    }
  }
}

TEST(StateDictTest, AnUnknownWrapperIsTakenIfItIsTheOnlyOne) {
  const std::string weights = OrderedDict({{"w", Floats().Build()}});
  const Opened one = OpenBytes(FileWith(Dict({{"generator", weights}, {"epoch", Int(1)}})));
  ASSERT_TRUE(one.ok()) << one.checkpoint.status();
  EXPECT_EQ(one->wrapper(), "generator");
  ExpectRefused(FileWith(Dict({{"generator", weights}, {"critic", weights}})),
                {"several", "'generator', 'critic'", "model_state_dict"});
}

TEST(StateDictTest, ModuleVersionsComeFromTheMetadata) {
  const std::string metadata = OrderedDict({{"", Dict({{"version", Int(1)}})},
                                            {"bn", Dict({{"version", Int(2)}})},
                                            {"odd", Dict({{"version", pickle::None()}})},
                                            {"odder", Int(3)}});
  const Opened opened = OpenBytes(FileWith(OrderedDict({{"w", Floats().Build()}}, metadata)));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_TRUE(opened->has_module_versions());
  EXPECT_EQ(opened->module_versions(),
            (std::map<std::string, int64_t, std::less<>>{{"", 1}, {"bn", 2}}));
}

TEST(StateDictTest, EntriesThatAreNoTensors) {
  const Opened opened = OpenBytes(FileWith(
      OrderedDict({{"w", Floats().Build()},
                   {"_extra_state", Int(1)},
                   {"block._extra_state", Call(Global("os", "system"), Tuple({Str("ls")}))},
                   {"nothing", pickle::None()},
                   {"count", Int(5)},
                   {"packed", Call(Global("torch.classes", "LinearPackedParams"), ")")}})));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(Names(**opened.checkpoint), (std::vector<std::string>{"w"}));
  ASSERT_EQ(opened->non_tensors().size(), 2u);
  EXPECT_EQ(opened->non_tensors()[0].name, "count");
  EXPECT_EQ(opened->non_tensors()[0].type_name, "int");
  EXPECT_EQ(opened->non_tensors()[1].type_name, "torch.classes.LinearPackedParams");
}

TEST(StateDictTest, TiedWeightsShareAStorage) {
  TensorPickle half = Floats();
  half.shape = {2};
  half.offset = 2;
  const Opened opened = OpenBytes(FileWith(
      OrderedDict({{"a", Floats().Build()}, {"b", Floats().Build()}, {"tail", half.Build()}})));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(opened->storages().size(), 1u);
  EXPECT_EQ(opened->tensors()[0].storage, opened->tensors()[1].storage);
  EXPECT_EQ(Read<float>(**opened.checkpoint, opened->tensors()[2]), (std::vector<float>{2, 3}));
}

TEST(StateDictTest, ParametersAndSubclassesAreLookedThrough) {
  const std::string hooks = OrderedDict({});
  const std::string v2 = Global("torch._utils", "_rebuild_tensor_v2");
  const std::string parameter = Call(Global("torch._utils", "_rebuild_parameter"),
                                     Tuple({Floats().Build(), pickle::Bool(true), hooks}));
  const std::string stateful = Call(Global("torch._utils", "_rebuild_parameter_with_state"),
                                    Tuple({Floats().Build(), pickle::Bool(true), hooks, "}"}));
  const std::string subclass =
      Call(Global("torch._tensor", "_rebuild_from_type_v2"),
           Tuple({v2, Global("mine", "FancyTensor"), Floats().Arguments(), "}"}));
  const std::string device =
      Call(Global("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"),
           Tuple({Floats().Build(), Global("torch", "float32"), Str("xla:0"), pickle::Bool(true)}));
  const Opened opened = OpenBytes(FileWith(
      OrderedDict({{"p", parameter}, {"s", stateful}, {"sub", subclass}, {"dev", device}})));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  const auto& tensors = opened->tensors();
  ASSERT_EQ(tensors.size(), 4u);
  EXPECT_TRUE(tensors[0].is_parameter && tensors[1].is_parameter);
  EXPECT_FALSE(tensors[2].is_parameter || tensors[3].is_parameter);
  for (const TensorDescriptor& tensor : tensors) {
    EXPECT_EQ(Read<float>(**opened.checkpoint, tensor), (std::vector<float>{0, 1, 2, 3}));
  }
}

TEST(StateDictTest, ViewsAreWrittenRowMajor) {
  TensorPickle tensor = Floats(6);
  tensor.shape = {3, 2};
  tensor.strides = {1, 3};
  const Opened transposed = OpenBytes(FileOf(tensor, FloatStorage(6)));
  ASSERT_TRUE(transposed.ok()) << transposed.checkpoint.status();
  EXPECT_EQ(Read<float>(**transposed.checkpoint, transposed->tensors()[0]),
            (std::vector<float>{0, 3, 1, 4, 2, 5}));
  tensor.metadata = Dict({{"neg", pickle::Bool(true)}});
  const Opened negative = OpenBytes(FileOf(tensor, FloatStorage(6)));
  EXPECT_EQ(Read<float>(**negative.checkpoint, negative->tensors()[0]),
            (std::vector<float>{0, -3, -1, -4, -2, -5}));
  tensor = Floats(2);
  tensor.storage_class = Global("torch", "ComplexFloatStorage");
  tensor.metadata = Dict({{"conj", pickle::Bool(true)}});
  const Opened conjugate = OpenBytes(FileOf(tensor, FloatStorage(4)));
  EXPECT_EQ(Read<float>(**conjugate.checkpoint, conjugate->tensors()[0]),
            (std::vector<float>{0, -1, 2, -3}));
}

TEST(StateDictTest, ZeroSizeAndScalarTensors) {
  TensorPickle empty = Floats();
  empty.shape = {0, 1'000'000'000'000};
  empty.strides = {1, 1};
  TensorPickle scalar = Floats();
  scalar.shape = scalar.strides = {};
  scalar.offset = 3;
  const Opened opened =
      OpenBytes(FileWith(OrderedDict({{"empty", empty.Build()}, {"scalar", scalar.Build()}})));
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(opened->tensors()[0].size_bytes(), 0);
  EXPECT_TRUE(opened->ReadInto(opened->tensors()[0], {}).ok());
  EXPECT_EQ(Read<float>(**opened.checkpoint, opened->tensors()[1]), (std::vector<float>{3}));
}

TEST(StateDictTest, EveryStorageClassHasItsDType) {
  const struct {
    const char* storage_class;
    const char* dtype;
    int size;
  } cases[] = {{"DoubleStorage", "float64", 8},
               {"FloatStorage", "float32", 4},
               {"HalfStorage", "float16", 2},
               {"BFloat16Storage", "bfloat16", 2},
               {"LongStorage", "int64", 8},
               {"IntStorage", "int32", 4},
               {"ShortStorage", "int16", 2},
               {"CharStorage", "int8", 1},
               {"ByteStorage", "uint8", 1},
               {"BoolStorage", "bool", 1},
               {"ComplexDoubleStorage", "complex128", 16},
               {"ComplexFloatStorage", "complex64", 8}};
  for (const auto& expected : cases) {
    for (const char* module : {"torch", "torch.cuda"}) {
      SCOPED_TRACE(expected.storage_class);
      TensorPickle tensor = Floats(3);
      tensor.storage_class = Global(module, expected.storage_class);
      const Opened opened =
          OpenBytes(FileOf(tensor, std::string(static_cast<size_t>(3 * expected.size), '\1')));
      ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
      EXPECT_EQ(DTypeName(opened->tensors()[0].dtype), expected.dtype);
    }
  }
  for (const char* dtype :
       {"uint16", "uint32", "uint64", "complex32", "float8_e5m2", "float8_e4m3fn",
        "float8_e5m2fnuz", "float8_e4m3fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2"}) {
    SCOPED_TRACE(dtype);
    const int64_t size = DTypeSize(*DTypeFromName(dtype));
    TensorPickle tensor = Floats(3);
    tensor.storage_class = Global("torch.storage", "UntypedStorage");
    tensor.numel = 3 * size;
    tensor.dtype = Global("torch", dtype);
    const Opened opened = OpenBytes(FileOf(tensor, std::string(static_cast<size_t>(3 * size), 1)));
    ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
    EXPECT_EQ(DTypeName(opened->tensors()[0].dtype), dtype);
  }
}

TEST(StateDictTest, ReadIntoChecksItsArguments) {
  const Opened opened = OpenBytes(FileOf(Floats(), FloatStorage()));
  ASSERT_TRUE(opened.ok());
  std::vector<std::byte> bytes(15);
  const absl::Status small = opened->ReadInto(opened->tensors()[0], absl::MakeSpan(bytes));
  EXPECT_NE(small.message().find("tensor 'w': expected a destination of 16 bytes"),
            std::string::npos)
      << small;
  TensorDescriptor foreign = opened->tensors()[0];
  foreign.storage = 1;
  EXPECT_FALSE(opened->ReadInto(foreign, absl::MakeSpan(bytes)).ok());
  foreign.storage = 0;
  foreign.offset = 100;
  bytes.resize(16);
  EXPECT_FALSE(opened->ReadInto(foreign, absl::MakeSpan(bytes)).ok());
}

// Found by fuzzing: no bytes were copied from and to nowhere, which memcpy does not allow.
TEST(StateDictTest, AnEmptyRangeIsRead) {
  const Opened opened = OpenBytes(FileOf(Floats(), FloatStorage()));
  ASSERT_TRUE(opened.ok());
  for (const int64_t offset : {0, 8, 16}) {
    EXPECT_TRUE(opened->ReadRange(opened->tensors()[0], offset, {}).ok()) << offset;
  }
}

TEST(StateDictTest, WhatIsNoStateDictIsDescribed) {
  ExpectRefused(FileWith(pickle::Call(Global("my.nets", "Net"), ")") + "}b"),
                {"object of class my.nets.Net", "torch.nn.Module"});
  ExpectRefused(FileWith(Floats().Build()), {"single tensor"});
  ExpectRefused(FileWith("]"), {"a list"});
  ExpectRefused(FileWith(Dict({{"epoch", Int(1)}, {"lr", Str("x")}})),
                {"without any", "{'epoch': int, 'lr': str}"});
}

TEST(StateDictTest, KeysThatAreNoNamesAreRefused) {
  ExpectRefused(FileWith("}" + Int(1) + Floats().Build() + "s"), {"strings as keys", "an int"});
  ExpectRefused(FileWith(OrderedDict({{"a\xED\xA0\x80", Floats().Build()}})), {"valid UTF-8"});
}

TEST(StateDictTest, DuplicateKeysAreRefused) {
  ExpectRefused(FileWith(OrderedDict({{"w", Floats().Build()}, {"w", Floats().Build()}})),
                {"'w' twice"});
  ExpectRefused(
      FileWith(Dict({{"model", OrderedDict({{"w", Floats().Build()}, {"w", pickle::None()}})}})),
      {"tensor 'w'", "each name once"});
  const std::string weights = OrderedDict({{"w", Floats().Build()}});
  ExpectRefused(FileWith(Dict({{"model", weights}, {"model", weights}})), {"'model' twice"});
}

TEST(StateDictTest, ChecksumsAreComparedWhenAsked) {
  TensorPickle half = Floats();
  half.shape = {2};
  ZipBuilder zip =
      TorchZip(pickle::Stream(OrderedDict({{"whole", Floats().Build()}, {"half", half.Build()}})),
               {{"0", FloatStorage()}});
  CheckpointOptions verify;
  verify.verify_crc = true;
  std::vector<float> numbers(4);
  const auto bytes = [&](size_t count) {
    return absl::MakeSpan(reinterpret_cast<std::byte*>(numbers.data()), count);
  };
  const Opened good = OpenBytes(zip.Build(), verify);
  ASSERT_TRUE(good.ok()) << good.checkpoint.status();
  EXPECT_TRUE(good->ReadInto(good->tensors()[0], bytes(16)).ok());
  EXPECT_TRUE(good->ReadInto(good->tensors()[1], bytes(8)).ok());

  zip.records[4].crc = 0x12345678;
  const Opened unchecked = OpenBytes(zip.Build());
  EXPECT_TRUE(unchecked->ReadInto(unchecked->tensors()[0], bytes(16)).ok());
  const Opened bad = OpenBytes(zip.Build(), verify);
  ASSERT_TRUE(bad.ok()) << bad.checkpoint.status();
  for (const size_t i : {0, 1}) {
    const absl::Status status = bad->ReadInto(bad->tensors()[i], bytes(i == 0 ? 16 : 8));
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_NE(status.message().find("checksum 12345678"), std::string::npos) << status;
  }
  zip.records[0].crc = 1;
  EXPECT_EQ(OpenBytes(zip.Build(), verify).checkpoint.status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace sconce
