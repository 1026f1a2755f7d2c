// Pickle streams that lie, and what sound ones become.

#include "server/checkpoint/pickle/pickle_machine.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <string_view>

#include "tests/support/checkpoint_builders.h"

namespace sconce {
namespace {

using namespace std::string_literals;
using pickle::Int;
using pickle::Str;
using pickle::Stream;

PickleTree Parsed(const std::string& stream) {
  absl::StatusOr<PickleTree> tree = ParsePickle(stream);
  EXPECT_TRUE(tree.ok()) << tree.status();
  return std::move(tree).value();
}

void ExpectBad(const std::string& stream, std::initializer_list<std::string_view> words) {
  const absl::StatusOr<PickleTree> tree = ParsePickle(stream);
  ASSERT_FALSE(tree.ok());
  const std::string message(tree.status().message());
  EXPECT_EQ(message.rfind("pickle byte ", 0), 0u) << message;
  for (const std::string_view word : words) {
    EXPECT_NE(message.find(word), std::string::npos) << "'" << word << "' in: " << message;
  }
}

void ExpectBadBody(const std::string& opcodes, std::initializer_list<std::string_view> words) {
  ExpectBad(Stream(opcodes), words);
}

TEST(PickleMachineTest, ScalarsAreRead) {
  const auto integer = [](const std::string& opcodes) {
    const PickleTree tree = Parsed(Stream(opcodes));
    EXPECT_EQ(tree.kind(tree.root()), PickleKind::kInt);
    return tree.Int(tree.root());
  };
  EXPECT_EQ(integer("K\xFF"), 255);
  EXPECT_EQ(integer("M\xFF\xFF"), 65535);
  EXPECT_EQ(integer("J\xFF\xFF\xFF\xFF"), -1);
  EXPECT_EQ(integer("\x8a\0"s), 0);
  EXPECT_EQ(integer("\x8a\x01\xFE"s), -2);
  EXPECT_EQ(integer("\x8a\x05\0\0\0\x80\0"s), int64_t{1} << 31);
  EXPECT_EQ(integer("\x8a\x08\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F"s), INT64_MAX);
  EXPECT_EQ(integer("\x8b\x01\0\0\0\x07"s), 7);
  EXPECT_EQ(integer("I94578123456789\n"), 94578123456789);
  EXPECT_EQ(integer("I-9223372036854775808\n"), INT64_MIN);
  EXPECT_EQ(integer("I00\n0K\7"), 7);
  EXPECT_TRUE(Parsed(Stream("I01\n")).Bool(0));
  const PickleTree real = Parsed(Stream("G\x3F\xF8\0\0\0\0\0\0"s));
  EXPECT_EQ(real.Float(real.root()), 1.5);
  const PickleTree big = Parsed(Stream("\x8a\x09\0\0\0\0\0\0\0\0\x01"s));
  EXPECT_EQ(big.kind(big.root()), PickleKind::kBigInt);
}

TEST(PickleMachineTest, ContainersAreRead) {
  const PickleTree tree = Parsed(Stream("}(" + Str("a") + "]" + Int(1) + "a" + Str("b") +
                                        "(\x88\x89Nt" + "u" + Str("c") + ")s"));
  const PickleId a = tree.Lookup(tree.root(), "a");
  ASSERT_EQ(tree.kind(a), PickleKind::kList);
  EXPECT_EQ(tree.Int(tree.Items(a)[0]), 1);
  const PickleId b = tree.Lookup(tree.root(), "b");
  ASSERT_EQ(tree.Items(b).size(), 3u);
  EXPECT_TRUE(tree.Bool(tree.Items(b)[0]));
  EXPECT_EQ(tree.kind(tree.Items(b)[2]), PickleKind::kNone);
  EXPECT_TRUE(tree.Items(tree.Lookup(tree.root(), "c")).empty());
}

TEST(PickleMachineTest, NothingIsCalled) {
  const PickleTree tree =
      Parsed(Stream(pickle::Call(pickle::Global("posix", "system"), "(" + Str("reboot") + "t")));
  ASSERT_EQ(tree.kind(tree.root()), PickleKind::kCall);
  EXPECT_EQ(tree.TypeName(tree.root()), "posix.system");
}

TEST(PickleMachineTest, Python2OrderedDictTakesItsItemsFromTheArguments) {
  const auto pair = [](const char* key, int value) {
    return "](U\x01"s + key + "K" + static_cast<char>(value) + "e";
  };
  const PickleTree tree = Parsed(Stream(pickle::Call(
      pickle::Global("collections", "OrderedDict"), "](" + pair("x", 1) + pair("y", 2) + "e\x85")));
  ASSERT_EQ(tree.kind(tree.root()), PickleKind::kDict);
  EXPECT_EQ(tree.Int(tree.Lookup(tree.root(), "y")), 2);
}

TEST(PickleMachineTest, Protocol4IsRead) {
  const std::string body = "}\x94(\x8c\x01k\x94\x8c\x02os\x8c\x06system\x93\x94\x8c\x01lh\x01u";
  const std::string frame = "\x95" + LittleEndian<uint64_t>(body.size() + 1);  // STOP included
  const PickleTree tree = Parsed(Stream(frame + body, 4));
  EXPECT_TRUE(tree.IsGlobal(tree.Lookup(tree.root(), "k"), "os", "system"));
  EXPECT_EQ(tree.AsString(tree.Lookup(tree.root(), "l")), "k");
}

TEST(PickleMachineTest, UnknownOpcodesAndProtocolsAreRefused) {
  ExpectBadBody("i", {"unknown opcode 0x69"});         // INST: protocol 0
  ExpectBadBody("\x82\x01", {"unknown opcode 0x82"});  // EXT1: a registry of the process
  ExpectBadBody("\x97", {"unknown opcode 0x97"});      // NEXT_BUFFER: data out of the stream
  ExpectBadBody("\x80\x02", {"PROTO", "another"});
  ExpectBad("\x80\x06N.", {"protocol 2 to 5", "6"});
  ExpectBad("\x80\x01N.", {"protocol 2 to 5", "1"});
  ExpectBad("N.", {"PROTO"});
  ExpectBad("", {"PROTO"});
}

TEST(PickleMachineTest, StackUnderflowAndMissingMarksAreRefused) {
  ExpectBadBody("R", {"2 values on the stack for REDUCE, got 0"});
  ExpectBadBody("]a", {"2 values on the stack for APPEND, got 1"});
  ExpectBadBody("}NNs(s", {"SETITEM, got 0"});
  ExpectBadBody("N\x87", {"TUPLE3", "got 1"});
  ExpectBadBody("t", {"MARK on the stack for TUPLE"});
  ExpectBadBody("]e", {"MARK on the stack for APPENDS"});
  ExpectBadBody("}u", {"MARK on the stack for SETITEMS"});
  ExpectBadBody("(NNu", {"container below the MARK"});
  ExpectBadBody("}((NNu", {"container below the MARK"});
  ExpectBadBody("N(R", {"REDUCE, got 0"});
  ExpectBadBody("0", {"POP"});
  ExpectBadBody("1", {"MARK on the stack for POP_MARK"});
  ExpectBadBody("Q", {"BINPERSID"});
  ExpectBadBody("", {"one value at STOP, got 0"});
  ExpectBadBody("NN", {"one value at STOP, got 2"});
  ExpectBadBody("N(", {"no open MARK at STOP"});
}

TEST(PickleMachineTest, UnknownMemoEntriesAreRefused) {
  ExpectBadBody("h\0"s, {"memo", "unknown entry 0"});
  ExpectBadBody("Nq\0h\1"s, {"memo", "unknown entry 1"});
  ExpectBadBody("Nq\2h\1"s, {"memo", "unknown entry 1"});
  ExpectBadBody("j\xFF\xFF\xFF\xFF", {"memo", "unknown entry 4294967295"});
  ExpectBadBody("q\0"s, {"memo entry", "got 0"});
}

TEST(PickleMachineTest, HugeMemoIndexIsRefused) {
  ExpectBadBody("Nr\xFF\xFF\xFF\xFF", {"memo index", "4294967295"});
  ExpectBadBody("Nr\0\0\0\x10"s, {"memo index", "268435456"});
  ExpectBadBody("Nr\x05\0\0\0"s, {"memo index of at most 4 in a stream of 9 bytes, got 5"});
}

TEST(PickleMachineTest, StringsLongerThanTheStreamAreRefused) {
  ExpectBadBody("X\xFF\xFF\xFF\xFFxx", {"string", "4294967295"});
  ExpectBadBody("U\x09xx", {"string", "9"});
  ExpectBadBody("T\xFF\xFF\xFF\xFFxx", {"string", "-1"});
  ExpectBadBody("\x8d\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFFxx", {"string", "18446744073709551615"});
  ExpectBadBody("\x8b\xFF\xFF\xFF\x7F", {"integer", "2147483647"});
  ExpectBadBody("\x8b\xFF\xFF\xFF\xFF", {"integer", "-1"});
  ExpectBadBody("\x95\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", {"frame", "18446744073709551615"});
  ExpectBad("\x80\x02X\x01", {"4 bytes", "end of the stream"});
  ExpectBad(
      "\x80\x02"
      "ctorch",
      {"line", "end of the stream"});
}

TEST(PickleMachineTest, InvalidUtf8IsRefused) {
  for (const std::string& bad : {"\xFF"s, "a\x80"s, "\xC0\x80"s, "\xE0\x80\x80"s, "\xC3"s,
                                 "\xF4\x90\x80\x80"s, "12345678\xFE"s}) {
    ExpectBadBody(Str(bad), {"valid UTF-8"});
  }
  // Python writes lone surrogates, which some paths hold.
  EXPECT_TRUE(ParsePickle(Stream(Str("\xED\xB2\x80"))).ok());
  // Python 2's strings may be anything.
  EXPECT_TRUE(ParsePickle(Stream("U\x01\xFF")).ok());
}

TEST(PickleMachineTest, WrongTypesAreRefused) {
  const std::string tensor =
      pickle::Call(pickle::Global("torch._utils", "_rebuild_tensor_v2"), ")");
  ExpectBadBody("N)R", {"class or function for REDUCE", "None"});
  ExpectBadBody(Str("os.system") + ")R", {"class or function for REDUCE", "a string"});
  ExpectBadBody(pickle::Global("os", "system") + Str("ls") + "R",
                {"tuple of arguments for REDUCE", "a string"});
  ExpectBadBody(pickle::Global("os", "system") + "]\x81", {"tuple of arguments for NEWOBJ"});
  ExpectBadBody("N}b", {"target of BUILD", "None"});
  ExpectBadBody("}}b", {"target of BUILD", "a dict"});
  ExpectBadBody("]}b", {"target of BUILD", "a list"});
  ExpectBadBody(tensor + "}b", {"target of BUILD", "torch._utils._rebuild_tensor_v2"});
  // CVE-2026-24747: writing items into what is no dict.
  ExpectBadBody("]" + Int(0) + Int(1) + "s", {"target of SETITEM", "a list"});
  ExpectBadBody(tensor + Int(0) + Int(1) + "s",
                {"target of SETITEM", "torch._utils._rebuild_tensor_v2"});
  ExpectBadBody(tensor + "(" + Int(0) + Int(1) + "u", {"target of SETITEMS"});
  ExpectBadBody(Str("x") + "(" + Int(0) + Int(1) + "u", {"target of SETITEMS", "a string"});
  ExpectBadBody("}Na", {"target of APPEND", "a dict"});
  ExpectBadBody(tensor + "(NNe", {"target of APPENDS"});
  ExpectBadBody("}]Ns", {"hashable key", "a list"});
  ExpectBadBody(pickle::Call(pickle::Global("collections", "OrderedDict"), "N\x85"),
                {"OrderedDict"});
  ExpectBadBody(pickle::Call(pickle::Global("collections", "OrderedDict"), "]Na\x85"),
                {"pair", "None"});
  ExpectBadBody("NN\x93", {"two strings for STACK_GLOBAL"});
  ExpectBadBody("c\nsystem\n", {"names of a module"});
}

TEST(PickleMachineTest, OddSetItemsAreRefused) {
  ExpectBadBody("}(" + Str("a") + "u", {"pairs", "odd number of values, 1"});
}

TEST(PickleMachineTest, MemoExpansionCostsNothing) {
  // 2^60 leaves to whoever unfolds it; sixty tuples to us.
  std::string opcodes = "N\x85";
  for (int i = 0; i < 60; ++i)
    opcodes += "q"s + static_cast<char>(i) + "h" + static_cast<char>(i) + "\x86";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(ParsePickle(Stream(opcodes)).ok());
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(PickleMachineTest, RepeatedFillingIsBounded) {
  // One long list of pairs, made into an OrderedDict again and again.
  std::string opcodes = "](";
  for (int i = 0; i < 1000; ++i) opcodes += i == 0 ? "NN\x86q\1" : "h\1";
  opcodes += "e\x85q\2" + pickle::Global("collections", "OrderedDict") + "q\3" + "0";
  for (int i = 0; i < 1000; ++i) opcodes += "h\3h\2R0";
  const absl::StatusOr<PickleTree> tree = ParsePickle(Stream(opcodes), /*max_values=*/100'000);
  ASSERT_FALSE(tree.ok());
  EXPECT_NE(tree.status().message().find("at most 100000 values"), std::string::npos)
      << tree.status();
}

TEST(PickleMachineTest, CyclesAreHeldWithoutBeingFollowed) {
  const PickleTree tree = Parsed(Stream("]q\0h\0a"s));
  EXPECT_EQ(tree.Items(tree.root())[0], tree.root());
}

TEST(PickleMachineTest, DeepNestingNeedsNoStack) {
  constexpr int kDepth = 300'000;
  const PickleTree tree = Parsed(Stream(std::string(kDepth, ']') + std::string(kDepth - 1, 'a')));
  EXPECT_EQ(tree.Items(tree.root()).size(), 1u);
}

TEST(PickleMachineTest, TooManyValuesAreRefused) {
  const absl::StatusOr<PickleTree> tree =
      ParsePickle(Stream("(" + std::string(100, ']') + "t"), 50);
  ASSERT_FALSE(tree.ok());
  EXPECT_NE(tree.status().message().find("at most 50 values"), std::string::npos);
}

TEST(PickleMachineTest, TrailingBytesAndMissingStopAreRefused) {
  ExpectBad(Stream("N") + "x", {"nothing after STOP", "1 bytes more"});
  ExpectBad("\x80\x02N", {"STOP", "end of the stream"});
}

TEST(PickleMachineTest, LongNamesOfGlobalsAreRefused) {
  EXPECT_TRUE(ParsePickle(Stream(pickle::Global(std::string(1024, 'm'), "n"))).ok());
  ExpectBadBody(pickle::Global(std::string(1025, 'm'), "n"), {"at most 1024 bytes"});
  ExpectBad(Stream(Str("m") + Str(std::string(1025, 'n')) + "\x93", 4), {"at most 1024 bytes"});
}

TEST(PickleMachineTest, Python2sOpcodesAreRead) {
  const PickleTree tree = Parsed(Stream("(cmod\nOld\nK\1K\2o}(" + Str("a") + "K\3ub"));
  ASSERT_EQ(tree.kind(tree.root()), PickleKind::kCall);
  EXPECT_EQ(tree.TypeName(tree.root()), "mod.Old");
  EXPECT_EQ(tree.Items(tree.Arguments(tree.root())).size(), 2u);
  EXPECT_EQ(tree.Int(tree.Lookup(tree.State(tree.root()), "a")), 3);
  ExpectBadBody("(o", {"a class above the MARK"});
  ExpectBadBody("o", {"MARK", "OBJ"});
  ExpectBadBody("(No", {"a class or function for OBJ", "None"});
  for (const char* line : {"\n", "1L\n", "0x1\n", "9223372036854775808\n", " 1\n", "1 \n"}) {
    ExpectBadBody(std::string("I") + line, {"decimal digits"});
  }
  ExpectBadBody("I12", {"a line"});
}

TEST(PickleMachineTest, PopAndMarksFollowPython) {
  EXPECT_TRUE(ParsePickle(Stream("N(NN1"s)).ok());
  EXPECT_TRUE(ParsePickle(Stream("N(0"s)).ok());
}

TEST(PickleMachineTest, EveryTruncationIsRefused) {
  TensorPickle tensor;
  const std::string whole = Stream(pickle::OrderedDict({{"w", tensor.Build()}}));
  ASSERT_TRUE(ParsePickle(whole).ok());
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(ParsePickle(whole.substr(0, size)).ok()) << size;
  }
}

}  // namespace
}  // namespace sconce
