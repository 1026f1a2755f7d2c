#include "server/checkpoint/pickle/pickle_machine.h"

#include <bit>
#include <charconv>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/utf8.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/pickle/pickle_assembler.h"
#include "server/checkpoint/pickle/pickle_opcodes.h"
#include "server/checkpoint/pickle/pickle_stack.h"
#include "server/checkpoint/pickle/pickle_stream.h"

namespace sconce {
namespace {

constexpr uint8_t kLowestProtocol = 2;
constexpr uint8_t kHighestProtocol = 5;
constexpr size_t kMaxGlobalBytes = 1024;

// Python's pickler writes lone surrogates as if they were characters.
bool IsText(std::string_view bytes) { return IsUtf8(bytes, Surrogates::kAllow); }

class Machine {
 public:
  Machine(std::string stream, size_t max_values)
      : tree_(std::move(stream), max_values),
        stream_(tree_.stream()),
        assembler_(tree_, stack_, max_values) {}

  absl::StatusOr<PickleTree> Run() {
    absl::Status status = Start();
    while (status.ok() && !stopped_) {
      opcode_at_ = stream_.position();
      const absl::StatusOr<uint8_t> opcode = stream_.Take<uint8_t>();
      status = opcode.ok() ? Step(static_cast<PickleOpcode>(*opcode))
                           : Refused("expected the STOP opcode, got the end of the stream");
    }
    if (status.ok() && stream_.remaining() > 0) {
      opcode_at_ = stream_.position();
      status = Refused("expected nothing after STOP, got ", stream_.remaining(), " bytes more");
    }
    if (!status.ok()) return InContext(absl::StrCat("pickle byte ", opcode_at_), status);
    return std::move(tree_);
  }

 private:
  absl::Status Start() {
    const absl::StatusOr<uint8_t> opcode = stream_.Take<uint8_t>();
    const absl::StatusOr<uint8_t> protocol = stream_.Take<uint8_t>();
    if (!protocol.ok() || static_cast<PickleOpcode>(*opcode) != PickleOpcode::kProto) {
      return Refused("expected the PROTO opcode at the start, got something else");
    }
    if (*protocol < kLowestProtocol || *protocol > kHighestProtocol) {
      return Refused("expected pickle protocol ", kLowestProtocol, " to ", kHighestProtocol,
                     ", got ", *protocol);
    }
    return absl::OkStatus();
  }

  absl::Status Step(PickleOpcode opcode) {
    using enum PickleOpcode;
    switch (opcode) {
      case kProto:
        return Refused("expected the PROTO opcode at the start only, got another");
      case kFrame:
        return Frame();
      case kStop:
        return Stop();
      case kMark:
        stack_.PushMark();
        return absl::OkStatus();
      case kPop:
        return Pop();
      case kPopMark:
        return PopMark();
      case kNone:
        return assembler_.Push(tree_.AddNone());
      case kNewTrue:
        return assembler_.Push(tree_.AddBool(true));
      case kNewFalse:
        return assembler_.Push(tree_.AddBool(false));
      case kInt:
        return PushDecimal();
      case kBinInt:
        return PushInteger<int32_t>();
      case kBinInt1:
        return PushInteger<uint8_t>();
      case kBinInt2:
        return PushInteger<uint16_t>();
      case kLong1:
        return PushLong<uint8_t>();
      case kLong4:
        return PushLong<int32_t>();
      case kBinFloat:
        return PushFloat();
      case kShortBinString:
        return PushText<uint8_t>(TextType::kPython2String);
      case kBinString:
        return PushText<int32_t>(TextType::kPython2String);
      case kShortBinUnicode:
        return PushText<uint8_t>(TextType::kUnicode);
      case kBinUnicode:
        return PushText<uint32_t>(TextType::kUnicode);
      case kBinUnicode8:
        return PushText<uint64_t>(TextType::kUnicode);
      case kShortBinBytes:
        return PushText<uint8_t>(TextType::kBytes);
      case kBinBytes:
        return PushText<uint32_t>(TextType::kBytes);
      case kBinBytes8:
      case kByteArray8:
        return PushText<uint64_t>(TextType::kBytes);
      case kEmptyTuple:
        return assembler_.Push(tree_.AddTuple({}));
      case kTuple1:
        return assembler_.ShortTuple(1);
      case kTuple2:
        return assembler_.ShortTuple(2);
      case kTuple3:
        return assembler_.ShortTuple(3);
      case kTuple:
        return assembler_.Tuple();
      case kEmptyList:
        return assembler_.Push(tree_.AddContainer(PickleKind::kList));
      case kEmptySet:
        return assembler_.Push(tree_.AddContainer(PickleKind::kSet));
      case kEmptyDict:
        return assembler_.Push(tree_.AddContainer(PickleKind::kDict));
      case kFrozenSet:
        return assembler_.FrozenSet();
      case kAppend:
        return assembler_.Append();
      case kAppends:
        return assembler_.AppendMany(PickleKind::kList, "APPENDS");
      case kAddItems:
        return assembler_.AppendMany(PickleKind::kSet, "ADDITEMS");
      case kSetItem:
        return assembler_.SetItem();
      case kSetItems:
        return assembler_.SetItems();
      case kBinGet:
        return Get<uint8_t>();
      case kLongBinGet:
        return Get<uint32_t>();
      case kBinPut:
        return Put<uint8_t>();
      case kLongBinPut:
        return Put<uint32_t>();
      case kMemoize:
        return Memoize(memo_.size());
      case kGlobal:
        return GlobalFromLines();
      case kStackGlobal:
        return GlobalFromStack();
      case kReduce:
        return assembler_.Reduce();
      case kNewObj:
        return assembler_.NewObject(/*has_keywords=*/false);
      case kNewObjEx:
        return assembler_.NewObject(/*has_keywords=*/true);
      case kObj:
        return assembler_.ObjectAboveMark();
      case kBuild:
        return assembler_.Build();
      case kBinPersId:
        return assembler_.Persistent();
    }
    return Refused("expected an opcode of protocol 2 to 5, got unknown opcode 0x",
                   absl::Hex(static_cast<uint8_t>(opcode), absl::kZeroPad2));
  }

  absl::Status Frame() {
    const absl::StatusOr<uint64_t> size = stream_.Take<uint64_t>();
    if (!size.ok()) return size.status();
    if (*size <= stream_.remaining()) return absl::OkStatus();
    return Refused("expected a frame of at most ", stream_.remaining(), " bytes, got ", *size);
  }

  absl::Status Stop() {
    if (stack_.marks() > 0) return Refused("expected no open MARK at STOP, got ", stack_.marks());
    if (stack_.size() != 1) return Refused("expected one value at STOP, got ", stack_.size());
    tree_.SetRoot(stack_.Top());
    stopped_ = true;
    return absl::OkStatus();
  }

  absl::Status Pop() {
    // Python's POP takes a mark where one is on top.
    if (stack_.IsMarkOnTop()) {
      stack_.DropToMark();
      return absl::OkStatus();
    }
    if (absl::Status need = stack_.Need(1, "POP"); !need.ok()) return need;
    stack_.Drop(1);
    return absl::OkStatus();
  }

  absl::Status PopMark() {
    if (absl::Status need = stack_.NeedMark("POP_MARK"); !need.ok()) return need;
    stack_.DropToMark();
    return absl::OkStatus();
  }

  // ---- Scalars and text.

  template <typename T>
  absl::Status PushInteger() {
    const absl::StatusOr<T> value = stream_.Take<T>();
    if (!value.ok()) return value.status();
    return assembler_.Push(tree_.AddInt(*value));
  }

  // A line with a number; "00" and "01" are bools.
  absl::Status PushDecimal() {
    const absl::StatusOr<std::string_view> line = stream_.TakeLine();
    if (!line.ok()) return line.status();
    if (*line == "00" || *line == "01") return assembler_.Push(tree_.AddBool(*line == "01"));
    int64_t value = 0;
    const auto [end, error] = std::from_chars(line->data(), line->data() + line->size(), value);
    if (error == std::errc() && end == line->data() + line->size())
      return assembler_.Push(tree_.AddInt(value));
    return Refused("expected an int of 64 bits in decimal digits, got something else");
  }

  // Python's longs: two's complement, little-endian, as many bytes as it takes.
  template <typename Length>
  absl::Status PushLong() {
    const absl::StatusOr<std::string_view> bytes = stream_.TakeCounted<Length>("an integer");
    if (!bytes.ok()) return bytes.status();
    if (bytes->size() > sizeof(int64_t))
      return assembler_.Push(tree_.AddText(PickleKind::kBigInt, *bytes));
    const bool is_negative = !bytes->empty() && (static_cast<uint8_t>(bytes->back()) & 0x80) != 0;
    uint64_t bits = is_negative ? ~uint64_t{0} : 0;
    for (size_t i = bytes->size(); i-- > 0;) {
      bits = bits << 8 | static_cast<uint8_t>((*bytes)[i]);
    }
    return assembler_.Push(tree_.AddInt(static_cast<int64_t>(bits)));
  }

  absl::Status PushFloat() {
    const absl::StatusOr<uint64_t> bits = stream_.Take<uint64_t>();
    if (!bits.ok()) return bits.status();
    return assembler_.Push(tree_.AddFloat(std::bit_cast<double>(__builtin_bswap64(*bits))));
  }

  enum class TextType { kUnicode, kBytes, kPython2String };

  template <typename Length>
  absl::Status PushText(TextType type) {
    const absl::StatusOr<std::string_view> text = stream_.TakeCounted<Length>("a string");
    if (!text.ok()) return text.status();
    PickleKind kind = PickleKind::kBytes;
    if (type != TextType::kBytes) {
      const bool is_text = IsText(*text);
      if (!is_text && type == TextType::kUnicode) {
        return Refused("expected valid UTF-8, got other bytes");
      }
      // Python 2's str is text or bytes; what is UTF-8 can be a key.
      if (is_text) kind = PickleKind::kString;
    }
    return assembler_.Push(tree_.AddText(kind, *text));
  }

  // ---- The memo. Its size is bounded by the stream's: a writer numbers its values from 0, and
  // each takes two bytes to store.

  absl::Status Memoize(size_t index) {
    if (absl::Status need = stack_.Need(1, "a memo entry"); !need.ok()) return need;
    if (index > stream_.size() / 2) {
      return Refused("expected a memo index of at most ", stream_.size() / 2, " in a stream of ",
                     stream_.size(), " bytes, got ", index);
    }
    if (index >= memo_.size()) memo_.resize(index + 1, kNoPickle);
    memo_[index] = stack_.Top();
    return absl::OkStatus();
  }

  template <typename Index>
  absl::Status Put() {
    const absl::StatusOr<Index> index = stream_.Take<Index>();
    if (!index.ok()) return index.status();
    return Memoize(*index);
  }

  template <typename Index>
  absl::Status Get() {
    const absl::StatusOr<Index> index = stream_.Take<Index>();
    if (!index.ok()) return index.status();
    if (*index >= memo_.size() || memo_[*index] == kNoPickle) {
      return Refused("expected a memo entry that was stored before, got unknown entry ", *index);
    }
    return assembler_.Push(memo_[*index]);
  }

  // ---- Globals.

  absl::Status PushGlobal(std::string_view module, std::string_view name) {
    // STACK_GLOBAL may name the same long string again and again.
    if (module.size() > kMaxGlobalBytes || name.size() > kMaxGlobalBytes) {
      return Refused("expected the names of a module and of something in it, of at most ",
                     kMaxGlobalBytes, " bytes each, got a longer one");
    }
    if (module.empty() || name.empty() || !IsText(module) || !IsText(name)) {
      return Refused(
          "expected the names of a module and of something in it, got an empty or invalid one");
    }
    return assembler_.Push(tree_.AddGlobal(module, name));
  }

  absl::Status GlobalFromLines() {
    const absl::StatusOr<std::string_view> module = stream_.TakeLine();
    if (!module.ok()) return module.status();
    const absl::StatusOr<std::string_view> name = stream_.TakeLine();
    if (!name.ok()) return name.status();
    return PushGlobal(*module, *name);
  }

  absl::Status GlobalFromStack() {
    if (absl::Status need = stack_.Need(2, "STACK_GLOBAL"); !need.ok()) return need;
    const std::optional<std::string_view> name = tree_.AsString(stack_.Take());
    const std::optional<std::string_view> module = tree_.AsString(stack_.Take());
    if (!name.has_value() || !module.has_value()) {
      return Refused("expected two strings for STACK_GLOBAL, got something else");
    }
    return PushGlobal(*module, *name);
  }

  PickleTree tree_;
  PickleStream stream_;  // over the tree's copy of the bytes
  PickleStack stack_;
  PickleAssembler assembler_;
  std::vector<PickleId> memo_;
  size_t opcode_at_ = 0;
  bool stopped_ = false;
};

}  // namespace

absl::StatusOr<PickleTree> ParsePickle(std::string stream, size_t max_values) {
  if (stream.size() >= std::numeric_limits<uint32_t>::max()) {
    return Refused("expected a pickle of less than 4 GiB, got ", stream.size(), " bytes");
  }
  return Machine(std::move(stream), max_values).Run();
}

}  // namespace sconce
