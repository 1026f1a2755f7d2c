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
#include "absl/types/span.h"
#include "server/base/utf8.h"
#include "server/checkpoint/error_context.h"
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
      : max_values_(max_values), tree_(std::move(stream), max_values), stream_(tree_.stream()) {}

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
        return Push(tree_.AddNone());
      case kNewTrue:
        return Push(tree_.AddBool(true));
      case kNewFalse:
        return Push(tree_.AddBool(false));
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
        return Push(tree_.AddTuple({}));
      case kTuple1:
        return ShortTuple(1);
      case kTuple2:
        return ShortTuple(2);
      case kTuple3:
        return ShortTuple(3);
      case kTuple:
        return Tuple();
      case kEmptyList:
        return Push(tree_.AddContainer(PickleKind::kList));
      case kEmptySet:
        return Push(tree_.AddContainer(PickleKind::kSet));
      case kEmptyDict:
        return Push(tree_.AddContainer(PickleKind::kDict));
      case kFrozenSet:
        return FrozenSet();
      case kAppend:
        return Append();
      case kAppends:
        return AppendMany(PickleKind::kList, "APPENDS");
      case kAddItems:
        return AppendMany(PickleKind::kSet, "ADDITEMS");
      case kSetItem:
        return SetItem();
      case kSetItems:
        return SetItems();
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
        return Reduce();
      case kNewObj:
        return NewObject(/*has_keywords=*/false);
      case kNewObjEx:
        return NewObject(/*has_keywords=*/true);
      case kObj:
        return ObjectAboveMark();
      case kBuild:
        return Build();
      case kBinPersId:
        return Persistent();
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

  absl::Status Push(PickleId id) {
    if (id == kNoPickle) return TooManyValues();
    stack_.Push(id);
    return absl::OkStatus();
  }

  absl::Status TooManyValues() const {
    return Refused("expected at most ", max_values_, " values, got more");
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
    return Push(tree_.AddInt(*value));
  }

  // A line with a number; "00" and "01" are bools.
  absl::Status PushDecimal() {
    const absl::StatusOr<std::string_view> line = stream_.TakeLine();
    if (!line.ok()) return line.status();
    if (*line == "00" || *line == "01") return Push(tree_.AddBool(*line == "01"));
    int64_t value = 0;
    const auto [end, error] = std::from_chars(line->data(), line->data() + line->size(), value);
    if (error == std::errc() && end == line->data() + line->size())
      return Push(tree_.AddInt(value));
    return Refused("expected an int of 64 bits in decimal digits, got something else");
  }

  // Python's longs: two's complement, little-endian, as many bytes as it takes.
  template <typename Length>
  absl::Status PushLong() {
    const absl::StatusOr<std::string_view> bytes = stream_.TakeCounted<Length>("an integer");
    if (!bytes.ok()) return bytes.status();
    if (bytes->size() > sizeof(int64_t)) return Push(tree_.AddText(PickleKind::kBigInt, *bytes));
    const bool is_negative = !bytes->empty() && (static_cast<uint8_t>(bytes->back()) & 0x80) != 0;
    uint64_t bits = is_negative ? ~uint64_t{0} : 0;
    for (size_t i = bytes->size(); i-- > 0;) {
      bits = bits << 8 | static_cast<uint8_t>((*bytes)[i]);
    }
    return Push(tree_.AddInt(static_cast<int64_t>(bits)));
  }

  absl::Status PushFloat() {
    const absl::StatusOr<uint64_t> bits = stream_.Take<uint64_t>();
    if (!bits.ok()) return bits.status();
    return Push(tree_.AddFloat(std::bit_cast<double>(__builtin_bswap64(*bits))));
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
    return Push(tree_.AddText(kind, *text));
  }

  // ---- Containers.

  absl::Status ShortTuple(size_t size) {
    if (absl::Status need = stack_.Need(size, "TUPLE1 to TUPLE3"); !need.ok()) return need;
    const PickleId id = tree_.AddTuple(stack_.Last(size));
    stack_.Drop(size);
    return Push(id);
  }

  absl::Status Tuple() {
    if (absl::Status need = stack_.NeedMark("TUPLE"); !need.ok()) return need;
    const PickleId id = tree_.AddTuple(stack_.AboveMark());
    stack_.DropToMark();
    return Push(id);
  }

  absl::Status FrozenSet() {
    if (absl::Status need = stack_.NeedMark("FROZENSET"); !need.ok()) return need;
    const PickleId id = tree_.AddContainer(PickleKind::kSet);
    if (id == kNoPickle || !tree_.Append(id, stack_.AboveMark())) return TooManyValues();
    stack_.DropToMark();
    return Push(id);
  }

  // Objects of foreign classes may be filled like the list or dict they are derived from; what they
  // would hold is of no use to us and is dropped. A tensor is never filled.
  bool IsForeignObject(PickleId id) const {
    return tree_.kind(id) == PickleKind::kCall && !BuildsTensor(tree_, tree_.Callable(id));
  }

  std::string Describe(PickleId id) const {
    if (tree_.kind(id) != PickleKind::kCall) return PickleKindName(tree_.kind(id));
    return absl::StrCat("an object of ", tree_.TypeName(id));
  }

  absl::Status AppendTo(PickleId target, PickleKind kind, absl::Span<const PickleId> items,
                        const char* opcode) {
    if (IsForeignObject(target)) return absl::OkStatus();
    if (tree_.kind(target) != kind) {
      return Refused("expected ", PickleKindName(kind), " as the target of ", opcode, ", got ",
                     Describe(target));
    }
    return tree_.Append(target, items) ? absl::OkStatus() : TooManyValues();
  }

  absl::Status Append() {
    if (absl::Status need = stack_.Need(2, "APPEND"); !need.ok()) return need;
    const PickleId item = stack_.Take();
    return AppendTo(stack_.Top(), PickleKind::kList, {&item, 1}, "APPEND");
  }

  absl::Status AppendMany(PickleKind kind, const char* opcode) {
    if (absl::Status need = stack_.NeedContainerBelowMark(opcode); !need.ok()) return need;
    absl::Status done = AppendTo(stack_.BelowMark(), kind, stack_.AboveMark(), opcode);
    stack_.DropToMark();
    return done;
  }

  absl::Status SetIn(PickleId target, absl::Span<const PickleId> keys_and_values,
                     const char* opcode) {
    for (size_t i = 0; i < keys_and_values.size(); i += 2) {
      const PickleKind key = tree_.kind(keys_and_values[i]);
      if (key == PickleKind::kList || key == PickleKind::kDict) {
        return Refused("expected a hashable key for ", opcode, ", got ", PickleKindName(key));
      }
    }
    return AppendTo(target, PickleKind::kDict, keys_and_values, opcode);
  }

  absl::Status SetItem() {
    if (absl::Status need = stack_.Need(3, "SETITEM"); !need.ok()) return need;
    absl::Status done = SetIn(stack_.Last(3)[0], stack_.Last(2), "SETITEM");
    stack_.Drop(2);
    return done;
  }

  absl::Status SetItems() {
    if (absl::Status need = stack_.NeedContainerBelowMark("SETITEMS"); !need.ok()) return need;
    const absl::Span<const PickleId> items = stack_.AboveMark();
    if (items.size() % 2 != 0) {
      return Refused("expected pairs of key and value for SETITEMS, got an odd number of values, ",
                     items.size());
    }
    absl::Status done = SetIn(stack_.BelowMark(), items, "SETITEMS");
    stack_.DropToMark();
    return done;
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
    return Push(memo_[*index]);
  }

  // ---- Globals and objects.

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
    return Push(tree_.AddGlobal(module, name));
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

  absl::Status Reduce() {
    if (absl::Status need = stack_.Need(2, "REDUCE"); !need.ok()) return need;
    const PickleId arguments = stack_.Take();
    return PushCall(stack_.Take(), arguments, "REDUCE");
  }

  absl::Status NewObject(bool has_keywords) {
    const char* opcode = has_keywords ? "NEWOBJ_EX" : "NEWOBJ";
    if (absl::Status need = stack_.Need(has_keywords ? 3 : 2, opcode); !need.ok()) return need;
    if (has_keywords && tree_.kind(stack_.Take()) != PickleKind::kDict) {
      return Refused("expected a dict of keyword arguments for NEWOBJ_EX, got something else");
    }
    const PickleId arguments = stack_.Take();
    return PushCall(stack_.Take(), arguments, opcode);
  }

  // A class and its arguments, down to the mark.
  absl::Status ObjectAboveMark() {
    if (absl::Status need = stack_.NeedMark("OBJ"); !need.ok()) return need;
    const absl::Span<const PickleId> items = stack_.AboveMark();
    if (items.empty()) return Refused("expected a class above the MARK for OBJ, got none");
    const PickleId callable = items[0];
    const PickleId arguments = tree_.AddTuple(items.subspan(1));
    if (arguments == kNoPickle) return TooManyValues();
    stack_.DropToMark();
    return PushCall(callable, arguments, "OBJ");
  }

  // The standard dicts become dicts here, so that what follows can fill them; everything else is
  // only written down.
  absl::Status PushCall(PickleId callable, PickleId arguments, const char* opcode) {
    const PickleKind kind = tree_.kind(callable);
    if (kind != PickleKind::kGlobal && kind != PickleKind::kCall) {
      return Refused("expected a class or function for ", opcode, ", got ", PickleKindName(kind));
    }
    if (tree_.kind(arguments) != PickleKind::kTuple) {
      return Refused("expected a tuple of arguments for ", opcode, ", got ",
                     PickleKindName(tree_.kind(arguments)));
    }
    const bool is_ordered_dict = tree_.IsGlobal(callable, "collections", "OrderedDict");
    if (!is_ordered_dict && !tree_.IsGlobal(callable, "collections", "defaultdict")) {
      return Push(tree_.AddCall(callable, arguments));
    }
    const PickleId dict = tree_.AddContainer(PickleKind::kDict, /*has_attributes=*/true);
    if (dict == kNoPickle) return TooManyValues();
    if (is_ordered_dict) {
      absl::Status filled = FillFromPairs(dict, tree_.Items(arguments));
      if (!filled.ok()) return filled;
    }
    return Push(dict);
  }

  // Python 2 gave an OrderedDict its items as one argument, a list of lists of two.
  absl::Status FillFromPairs(PickleId dict, absl::Span<const PickleId> arguments) {
    if (arguments.empty()) return absl::OkStatus();
    const auto is_sequence = [this](PickleId id) {
      return tree_.kind(id) == PickleKind::kList || tree_.kind(id) == PickleKind::kTuple;
    };
    if (arguments.size() != 1 || !is_sequence(arguments[0])) {
      return Refused("expected an OrderedDict to be made of nothing or of a list of pairs, got ",
                     arguments.size(), " arguments");
    }
    for (const PickleId pair : tree_.Items(arguments[0])) {
      if (!is_sequence(pair) || tree_.Items(pair).size() != 2) {
        return Refused("expected a pair of key and value in an OrderedDict, got ",
                       PickleKindName(tree_.kind(pair)));
      }
      if (absl::Status set = SetIn(dict, tree_.Items(pair), "OrderedDict"); !set.ok()) return set;
    }
    return absl::OkStatus();
  }

  absl::Status Build() {
    if (absl::Status need = stack_.Need(2, "BUILD"); !need.ok()) return need;
    const PickleId state = stack_.Take();
    const PickleId target = stack_.Top();
    const bool has_attributes = tree_.kind(target) == PickleKind::kDict
                                    ? tree_.HasAttributes(target)
                                    : IsForeignObject(target);
    if (!has_attributes) {
      return Refused("expected an object or an OrderedDict as the target of BUILD, got ",
                     Describe(target));
    }
    tree_.SetState(target, state);
    return absl::OkStatus();
  }

  absl::Status Persistent() {
    if (absl::Status need = stack_.Need(1, "BINPERSID"); !need.ok()) return need;
    const PickleId id = stack_.Take();
    const PickleId module_class = ModuleClass(id);
    return Push(module_class != kNoPickle ? module_class : tree_.AddPersistent(id));
  }

  // Before PyTorch 1.6 a module's class came with its source, as ('module', class, file, source)
  // or, in the very first versions, (class, file, source). What is meant is the class.
  PickleId ModuleClass(PickleId id) const {
    if (tree_.kind(id) != PickleKind::kTuple) return kNoPickle;
    absl::Span<const PickleId> items = tree_.Items(id);
    if (items.size() == 4 && tree_.AsString(items[0]) == "module") items.remove_prefix(1);
    if (items.size() != 3 || tree_.kind(items[0]) != PickleKind::kGlobal) return kNoPickle;
    return items[0];
  }

  const size_t max_values_;
  PickleTree tree_;
  PickleStream stream_;  // over the tree's copy of the bytes
  PickleStack stack_;
  std::vector<PickleId> memo_;
  size_t opcode_at_ = 0;
  bool stopped_ = false;
};

}  // namespace

bool BuildsTensor(const PickleTree& tree, PickleId callable) {
  if (tree.kind(callable) != PickleKind::kGlobal) return false;
  const PickleTree::Global global = tree.GlobalName(callable);
  return (global.module == "torch._utils" || global.module == "torch._tensor" ||
          global.module == "torch.tensor") &&
         global.name.starts_with("_rebuild");
}

absl::StatusOr<PickleTree> ParsePickle(std::string stream, size_t max_values) {
  if (stream.size() >= std::numeric_limits<uint32_t>::max()) {
    return Refused("expected a pickle of less than 4 GiB, got ", stream.size(), " bytes");
  }
  return Machine(std::move(stream), max_values).Run();
}

}  // namespace sconce
