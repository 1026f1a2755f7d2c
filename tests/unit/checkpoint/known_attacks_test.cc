// Attacks on PyTorch's readers, and on tools that look through files before PyTorch reads them,
// each named after its report. docs/security.md lists them.

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/unit/checkpoint/refusal.h"

namespace sconce {
namespace {

using namespace std::string_literals;
using pickle::Bool;
using pickle::Call;
using pickle::Dict;
using pickle::Global;
using pickle::Int;
using pickle::OrderedDict;
using pickle::Str;
using pickle::Stream;
using pickle::Tuple;

// What would leave a file behind if anything called it.
struct Trap {
  TempDir folder;
  std::string path = folder.Path("owned");

  std::string Call(std::string_view module, std::string_view name) const {
    return pickle::Call(Global(module, name), Tuple({Str("touch " + path)}));
  }
  bool IsSprung() const { return std::filesystem::exists(path); }
};

// The same object in every container that holds pickles.
std::vector<std::pair<std::string, std::string>> Containers(const std::string& object) {
  LegacyFile legacy;
  legacy.object = Stream(object);
  legacy.storages = {{"0", 4, FloatStorage()}};
  return {{"zip", FileWith(object)}, {"legacy", legacy.Build()}};
}

// weights_only=True was no boundary in PyTorch before 2.6.
TEST(KnownAttacksTest, CVE202532434CallsInPicklesAreNeverMade) {
  const Trap trap;
  const std::string calls[] = {
      trap.Call("os", "system"),
      trap.Call("posix", "system"),
      trap.Call("builtins", "exec"),
      // What Python's own reader would allow.
      trap.Call("torch.serialization", "load"),
      trap.Call("torch.utils._config_module", "load_config"),
      Global("os", "system") + Tuple({Str("touch " + trap.path)}) + "\x81",
  };
  for (const std::string& call : calls) {
    const std::string weights = OrderedDict({{"w", Floats().Build()}});
    for (const auto& [name, bytes] : Containers(Dict({{"state_dict", weights}, {"x", call}}))) {
      SCOPED_TRACE(name);
      const Opened opened = OpenBytes(bytes);
      ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
      EXPECT_EQ(Read<float>(**opened.checkpoint, opened->tensors()[0])[3], 3.0f);
    }
    const std::string argument = Call(Global("torch._utils", "_rebuild_parameter"),
                                      Tuple({call, Bool(true), OrderedDict({})}));
    for (const auto& [name, bytes] : Containers(OrderedDict({{"w", argument}}))) {
      SCOPED_TRACE(name);
      EXPECT_FALSE(OpenBytes(bytes).ok());
    }
  }
  EXPECT_FALSE(trap.IsSprung());
}

// SETITEM wrote into tensors, and a storage could claim more elements than its record holds.
TEST(KnownAttacksTest, CVE202624747ItemsOfTensorsAndClaimedElementsAreRefused) {
  const std::string item = Int(1 << 20) + Int(0x41414141);
  const std::pair<const char*, const char*> cases[] = {{"s", "target of SETITEM"},
                                                       {"u", "target of SETITEMS"}};
  for (const auto& [opcode, words] : cases) {
    const std::string mark = *opcode == 'u' ? "(" : "";
    ExpectRefused(FileWithEntry(Floats().Build() + mark + item + opcode),
                  {"archive/data.pkl", "pickle byte", words, "_rebuild_tensor_v2"});
    ExpectRefused(FileWithEntry("]" + mark + item + opcode), {words, "a list"});
    ExpectRefused(FileWithEntry(Floats().Build() + "\x85" + mark + item + opcode),
                  {words, "a tuple"});
  }
  TensorPickle more = Floats(1024);
  ExpectRefused(FileOf(more, FloatStorage(4)),
                {"tensor 'w'", "storage '0'", "expected 4096 bytes for 1024 elements", "16"});
}

// Strides of quantised tensors went unchecked, so that reading one read other memory.
TEST(KnownAttacksTest, StridesOfQuantisedTensorsAreChecked) {
  const auto quantised = [](int64_t size, int64_t stride, int64_t offset) {
    const std::string storage =
        Tuple({Str("storage"), Global("torch", "QInt8Storage"), Str("0"), Str("cpu"), Int(16)}) +
        "Q";
    const std::string scheme = Tuple(
        {Global("torch", "per_tensor_affine"), std::string("G\x3F\xE0\0\0\0\0\0\0", 9), Int(0)});
    return FileWithEntry(Call(Global("torch._utils", "_rebuild_qtensor"),
                              Tuple({storage, Int(offset), Tuple({Int(size)}), Tuple({Int(stride)}),
                                     scheme, Bool(false), OrderedDict({})})));
  };
  EXPECT_TRUE(OpenBytes(quantised(16, 1, 0)).ok());
  ExpectRefused(quantised(2, 16, 0), {"tensor 'w'", "inside the storage's 16 bytes"});
  ExpectRefused(quantised(2, INT64_MAX, 0), {"tensor 'w'", "64 bits"});
  ExpectRefused(quantised(2, -1, 8), {"tensor 'w'", "strides of 0 or more"});
  ExpectRefused(quantised(1, 1, 16), {"tensor 'w'", "inside the storage's 16 bytes"});
}

// Scanners keep lists of dangerous functions, and one was not on them. There is no list here.
TEST(KnownAttacksTest, CVE20251716FunctionsThatNoListNamesAreNotCalledEither) {
  const Trap trap;
  const std::string install = Call(Global("pip", "main"), Tuple({pickle::List({Str(trap.path)})}));
  ExpectRefused(FileWithEntry(install), {"state_dict", "'w': pip.main"});
  ExpectRefused(FileWith(install), {"pip.main"});
  EXPECT_FALSE(trap.IsSprung());
}

// A pickle under another name in the archive was not looked at by scanners, but loaded by the
// first.
TEST(KnownAttacksTest, CVE20251889OtherPicklesOfAnArchiveAreNotRead) {
  const Trap trap;
  ZipBuilder zip =
      TorchZip(Stream(OrderedDict({{"w", Floats().Build()}})), {{"0", FloatStorage()}});
  for (const char* name : {"archive/config.p", "archive/data.pkl.bak", "archive/evil"}) {
    ZipRecord record;
    record.name = name;
    record.data = Stream(trap.Call("os", "system"));
    zip.records.push_back(record);
  }
  const Opened opened = OpenBytes(zip.Build());
  ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
  EXPECT_EQ(opened->tensors().size(), 1u);
  // A bare pickle is one by its content, whatever it is called.
  ExpectRefused(Stream(trap.Call("os", "system")), {"a bare pickle"});
  EXPECT_FALSE(trap.IsSprung());
}

// A local header with another name made scanners stop where PyTorch went on.
TEST(KnownAttacksTest, CVE20251944NamesThatDifferInTheLocalHeaderAreRefused) {
  for (const size_t record : {0, 4}) {
    ZipBuilder zip =
        TorchZip(Stream(OrderedDict({{"w", Floats().Build()}})), {{"0", FloatStorage()}});
    zip.records[record].local_name = "archive/other.pk";
    ExpectRefused(zip.Build(), {"record 'archive/data", "same name"});
  }
}

// Flag bits that say "encrypted" made scanners skip what PyTorch read.
TEST(KnownAttacksTest, CVE20251945FlagsThatHideARecordAreRefused) {
  for (const uint16_t flag : {0x1, 0x40, 0x2000}) {
    for (const bool is_local : {false, true}) {
      ZipBuilder zip =
          TorchZip(Stream(OrderedDict({{"w", Floats().Build()}})), {{"0", FloatStorage()}});
      const auto flags = static_cast<uint16_t>(0x0808 | flag);
      is_local ? void(zip.records[0].local_flags = flags) : void(zip.records[0].flags = flags);
      const Opened opened = OpenBytes(zip.Build());
      ASSERT_FALSE(opened.ok());
      EXPECT_NE(opened.checkpoint.status().message().find("encrypted"), std::string::npos)
          << opened.checkpoint.status();
    }
  }
  // A wrong checksum stopped scanners too. It is compared on request; PyTorch itself writes such.
  ZipBuilder zip =
      TorchZip(Stream(OrderedDict({{"w", Floats().Build()}})), {{"0", FloatStorage()}});
  zip.records[0].crc = 1;
  EXPECT_TRUE(OpenBytes(zip.Build()).ok());
  CheckpointOptions verify;
  verify.verify_crc = true;
  EXPECT_EQ(OpenBytes(zip.Build(), verify).checkpoint.status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace sconce
