// Pickles as sequences of opcodes with their arguments. What a writer would emit around a tensor is
// inserted whole, since chance alone does not put twenty opcodes in order.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "server/checkpoint/pickle/pickle_opcodes.h"
#include "tests/fuzz/mutators.h"
#include "tests/support/checkpoint_builders.h"

namespace sconce {
namespace {

using namespace std::string_view_literals;

// What follows an opcode.
struct Argument {
  enum class Kind { kNone, kFixed, kCounted, kLines };
  Kind kind = Kind::kNone;
  size_t n = 0;  // bytes, bytes of the length, lines
};

Argument ArgumentOf(PickleOpcode opcode) {
  using enum PickleOpcode;
  switch (opcode) {
    case kProto:
    case kBinInt1:
    case kBinGet:
    case kBinPut:
      return {Argument::Kind::kFixed, 1};
    case kBinInt2:
      return {Argument::Kind::kFixed, 2};
    case kBinInt:
    case kLongBinGet:
    case kLongBinPut:
      return {Argument::Kind::kFixed, 4};
    case kBinFloat:
    case kFrame:
      return {Argument::Kind::kFixed, 8};
    case kLong1:
    case kShortBinString:
    case kShortBinBytes:
    case kShortBinUnicode:
      return {Argument::Kind::kCounted, 1};
    case kLong4:
    case kBinString:
    case kBinUnicode:
    case kBinBytes:
      return {Argument::Kind::kCounted, 4};
    case kBinUnicode8:
    case kBinBytes8:
    case kByteArray8:
      return {Argument::Kind::kCounted, 8};
    case kInt:
      return {Argument::Kind::kLines, 1};
    case kGlobal:
      return {Argument::Kind::kLines, 2};
    default:
      return {};
  }
}

constexpr PickleOpcode kWithoutArgument[] = {
    PickleOpcode::kMark,       PickleOpcode::kPop,         PickleOpcode::kPopMark,
    PickleOpcode::kNone,       PickleOpcode::kReduce,      PickleOpcode::kAppend,
    PickleOpcode::kBuild,      PickleOpcode::kEmptyDict,   PickleOpcode::kAppends,
    PickleOpcode::kEmptyList,  PickleOpcode::kSetItem,     PickleOpcode::kTuple,
    PickleOpcode::kEmptyTuple, PickleOpcode::kSetItems,    PickleOpcode::kBinPersId,
    PickleOpcode::kNewObj,     PickleOpcode::kTuple1,      PickleOpcode::kTuple2,
    PickleOpcode::kTuple3,     PickleOpcode::kNewTrue,     PickleOpcode::kNewFalse,
    PickleOpcode::kEmptySet,   PickleOpcode::kAddItems,    PickleOpcode::kFrozenSet,
    PickleOpcode::kNewObjEx,   PickleOpcode::kStackGlobal, PickleOpcode::kMemoize,
    PickleOpcode::kObj};

constexpr std::string_view kGlobals[] = {
    "torch._utils\n_rebuild_tensor\n"sv,
    "torch._utils\n_rebuild_tensor_v2\n"sv,
    "torch._utils\n_rebuild_tensor_v3\n"sv,
    "torch._utils\n_rebuild_parameter\n"sv,
    "torch._utils\n_rebuild_parameter_with_state\n"sv,
    "torch._utils\n_rebuild_qtensor\n"sv,
    "torch._utils\n_rebuild_sparse_tensor\n"sv,
    "torch._utils\n_rebuild_meta_tensor_no_storage\n"sv,
    "torch._utils\n_rebuild_device_tensor_from_cpu_tensor\n"sv,
    "torch._tensor\n_rebuild_from_type_v2\n"sv,
    "torch.nn.parameter\nParameter\n"sv,
    "torch.serialization\n_get_layout\n"sv,
    "torch\nSize\n"sv,
    "torch\nFloatStorage\n"sv,
    "torch\nLongStorage\n"sv,
    "torch\nByteStorage\n"sv,
    "torch\nQUInt8Storage\n"sv,
    "torch\nQInt8Storage\n"sv,
    "torch\nQUInt4x2Storage\n"sv,
    "torch\nComplexFloatStorage\n"sv,
    "torch.storage\nUntypedStorage\n"sv,
    "torch\nfloat32\n"sv,
    "torch\nint64\n"sv,
    "torch\nfloat8_e4m3fn\n"sv,
    "torch\nfloat4_e2m1fn_x2\n"sv,
    "torch\nper_tensor_affine\n"sv,
    "torch\nper_channel_affine\n"sv,
    "collections\nOrderedDict\n"sv,
    "collections\ndefaultdict\n"sv,
    "_codecs\nencode\n"sv,
    "numpy.core.multiarray\nscalar\n"sv,
    "numpy._core.multiarray\n_reconstruct\n"sv,
    "numpy\nndarray\n"sv,
    "numpy\ndtype\n"sv,
    "torch.nn.modules.linear\nLinear\n"sv,
    "torch.nn.modules.container\nSequential\n"sv,
    "torch.distributed.checkpoint.metadata\nTensorStorageMetadata\n"sv,
    "torch.distributed.checkpoint.metadata\nChunkStorageMetadata\n"sv,
    "torch.distributed.checkpoint.metadata\nMetadataIndex\n"sv,
    "os\nsystem\n"sv,
};

constexpr std::string_view kTexts[] = {"storage"sv,
                                       "module"sv,
                                       "cpu"sv,
                                       "0"sv,
                                       "1"sv,
                                       "w"sv,
                                       "state_dict"sv,
                                       "model"sv,
                                       "_metadata"sv,
                                       "version"sv,
                                       "conj"sv,
                                       "neg"sv,
                                       "_parameters"sv,
                                       "_buffers"sv,
                                       "_modules"sv,
                                       "_non_persistent_buffers_set"sv,
                                       "training"sv,
                                       "_extra_state"sv,
                                       "torch.strided"sv,
                                       "torch.sparse_coo"sv,
                                       "torch.sparse_csr"sv,
                                       "../0"sv,
                                       "aside"sv,
                                       "../outside.bin"sv,
                                       ""sv,
                                       "latin1"sv,
                                       "little_endian"sv,
                                       "type_sizes"sv,
                                       "protocol_version"sv,
                                       "f4"sv,
                                       "<"sv,
                                       "module.w"sv,
                                       "\xed\xa0\x80"sv,
                                       "a\x1b[31m"sv};

struct Op {
  PickleOpcode opcode;
  std::string argument;  // without its length
};

using Ops = std::vector<Op>;

uint64_t Length(std::string_view bytes) {
  uint64_t length = 0;
  for (size_t i = bytes.size(); i-- > 0;) length = length << 8 | static_cast<uint8_t>(bytes[i]);
  return length;
}

// Takes one pickle, STOP included, off the front of `bytes`. An opcode whose argument is cut off
// ends it too.
Ops DecodePickle(std::string_view& bytes) {
  Ops ops;
  while (!bytes.empty()) {
    const auto opcode = static_cast<PickleOpcode>(bytes[0]);
    const Argument argument = ArgumentOf(opcode);
    size_t start = 1, size = 0;
    switch (argument.kind) {
      case Argument::Kind::kNone:
        break;
      case Argument::Kind::kFixed:
        size = argument.n;
        break;
      case Argument::Kind::kCounted:
        start += argument.n;
        if (start > bytes.size()) return ops;
        size = Length(bytes.substr(1, argument.n));
        break;
      case Argument::Kind::kLines:
        for (size_t line = 0; line < argument.n; ++line) {
          const size_t end = bytes.find('\n', start + size);
          if (end == std::string_view::npos) return ops;
          size = end + 1 - start;
        }
        break;
    }
    if (size > bytes.size() - start) return ops;
    // A frame's size would be wrong after any change, and Python does without frames.
    if (opcode != PickleOpcode::kFrame)
      ops.push_back({opcode, std::string(bytes.substr(start, size))});
    bytes.remove_prefix(start + size);
    if (opcode == PickleOpcode::kStop) break;
  }
  return ops;
}

std::string Encode(const Ops& ops) {
  std::string bytes;
  for (const Op& op : ops) {
    bytes += static_cast<char>(op.opcode);
    const Argument argument = ArgumentOf(op.opcode);
    if (argument.kind == Argument::Kind::kCounted) {
      bytes += LittleEndian<uint64_t>(op.argument.size()).substr(0, argument.n);
    }
    bytes += op.argument;
  }
  return bytes;
}

// What writers emit, each leaving one value on the stack.
const std::vector<Ops>& Phrases() {
  static const std::vector<Ops> phrases = [] {
    TensorPickle tensor;
    tensor.numel = 4;
    tensor.shape = {2, 2};
    tensor.strides = {2, 1};
    TensorPickle typed = tensor;
    typed.storage_class = pickle::Global("torch.storage", "UntypedStorage");
    typed.numel = 16;
    typed.dtype = pickle::Global("torch", "float32");
    TensorPickle conjugate = tensor;
    conjugate.metadata = pickle::Dict({{"conj", pickle::Bool(true)}, {"neg", pickle::Bool(true)}});
    const std::string size = pickle::Tuple({pickle::Int(2), pickle::Int(2)});
    const std::string hooks = pickle::OrderedDict({});
    const auto call = [](std::string_view module, std::string_view name,
                         const std::vector<std::string>& arguments) {
      return pickle::Call(pickle::Global(module, name), pickle::Tuple(arguments));
    };
    const std::string storage =
        pickle::Tuple({pickle::Str("storage"), pickle::Global("torch", "QUInt8Storage"),
                       pickle::Str("1"), pickle::Str("cpu"), pickle::Int(16)}) +
        "Q";
    const std::string layout =
        call("torch.serialization", "_get_layout", {pickle::Str("torch.sparse_coo")});
    std::vector<std::string> texts = {
        tensor.Build(),
        typed.Build(),
        conjugate.Build(),
        call("torch._utils", "_rebuild_parameter", {tensor.Build(), pickle::Bool(true), hooks}),
        call("torch._utils", "_rebuild_qtensor",
             {storage, pickle::Int(0), size, size,
              pickle::Tuple({pickle::Global("torch", "per_tensor_affine"),
                             std::string("G\x3f\xe0\0\0\0\0\0\0", 9), pickle::Int(3)}),
              pickle::Bool(false), hooks}),
        call("torch._utils", "_rebuild_qtensor",
             {storage, pickle::Int(0), size, size,
              pickle::Tuple({pickle::Global("torch", "per_channel_affine"), tensor.Build(),
                             tensor.Build(), pickle::Int(0)}),
              pickle::Bool(false), hooks}),
        call("torch._utils", "_rebuild_sparse_tensor",
             {layout, pickle::Tuple({tensor.Build(), tensor.Build(), size})}),
        call("torch._utils", "_rebuild_meta_tensor_no_storage",
             {pickle::Global("torch", "float32"), size, size, pickle::Bool(false)}),
        call("torch._tensor", "_rebuild_from_type_v2",
             {pickle::Global("torch._utils", "_rebuild_tensor_v2"),
              pickle::Global("torch.nn.parameter", "Parameter"), tensor.Arguments(),
              pickle::Dict({})}),
        pickle::OrderedDict(
            {{"w", tensor.Build()}},
            pickle::OrderedDict({{"", pickle::Dict({{"version", pickle::Int(1)}})}})),
        pickle::Dict({{"state_dict", pickle::OrderedDict({{"w", tensor.Build()}})},
                      {"epoch", pickle::Int(3)}}),
        pickle::Global("torch.nn.modules.linear", "Linear") + ")\x81" +
            pickle::Dict({{"_parameters", pickle::OrderedDict({{"weight", tensor.Build()}})},
                          {"_buffers", pickle::OrderedDict({})},
                          {"_modules", pickle::OrderedDict({})},
                          {"in_features", pickle::Int(2)}}) +
            "b",
    };
    std::vector<Ops> decoded;
    for (const std::string& text : texts) {
      std::string_view rest = text;
      decoded.push_back(DecodePickle(rest));
    }
    return decoded;
  }();
  return phrases;
}

std::string RandomArgument(PickleOpcode opcode, Random& random) {
  const Argument argument = ArgumentOf(opcode);
  switch (argument.kind) {
    case Argument::Kind::kNone:
      return "";
    case Argument::Kind::kFixed:
      return LittleEndian(random.Integer()).substr(0, argument.n);
    case Argument::Kind::kLines:
      return std::string(random.Pick(kGlobals));
    case Argument::Kind::kCounted:
      if (opcode == PickleOpcode::kLong1 || opcode == PickleOpcode::kLong4) {
        return LittleEndian(random.Integer()).substr(0, random.Below(9));
      }
      return std::string(random.Pick(kTexts));
  }
  return "";
}

Op RandomOp(Random& random) {
  if (!random.OneIn(3)) return {random.Pick(kWithoutArgument), ""};
  constexpr PickleOpcode kWithArgument[] = {
      PickleOpcode::kBinGet,         PickleOpcode::kBinPut,          PickleOpcode::kBinInt,
      PickleOpcode::kBinInt1,        PickleOpcode::kBinInt2,         PickleOpcode::kLong1,
      PickleOpcode::kBinFloat,       PickleOpcode::kGlobal,          PickleOpcode::kBinUnicode,
      PickleOpcode::kShortBinString, PickleOpcode::kShortBinUnicode, PickleOpcode::kShortBinBytes,
      PickleOpcode::kBinBytes,       PickleOpcode::kLongBinGet,      PickleOpcode::kLongBinPut};
  const PickleOpcode opcode = random.Pick(kWithArgument);
  if (opcode == PickleOpcode::kBinGet || opcode == PickleOpcode::kBinPut) {
    return {opcode, std::string(1, static_cast<char>(random.Below(24)))};
  }
  return {opcode, RandomArgument(opcode, random)};
}

void MutateArgument(Op& op, Random& random) {
  const Argument argument = ArgumentOf(op.opcode);
  if (argument.kind == Argument::Kind::kNone || random.OneIn(2)) {
    op.argument = RandomArgument(op.opcode, random);
    return;
  }
  MutateBytes(op.argument);
  if (argument.kind == Argument::Kind::kFixed) op.argument.resize(argument.n);
  if (argument.kind == Argument::Kind::kCounted && argument.n == 1) {
    op.argument.resize(std::min<size_t>(op.argument.size(), 255));
  }
  if (argument.kind == Argument::Kind::kLines &&
      std::count(op.argument.begin(), op.argument.end(), '\n') != 2) {
    op.argument = random.Pick(kGlobals);
  }
}

void MutateOps(Ops& ops, Random& random) {
  const auto at = [&](size_t index) { return ops.begin() + static_cast<ptrdiff_t>(index); };
  for (size_t changes = 1 + random.Below(3); changes > 0; --changes) {
    const size_t place = random.Below(ops.size() + 1);
    if (ops.empty()) {
      ops.push_back(RandomOp(random));
      continue;
    }
    const auto [start, count] = random.Range(ops.size(), 12);
    switch (random.Below(8)) {
      case 0:
        ops.erase(at(start), at(start + std::min<size_t>(count, 3)));
        break;
      case 1: {
        const Ops copy(at(start), at(start + count));
        ops.insert(at(place), copy.begin(), copy.end());
        break;
      }
      case 2:
        ops.insert(at(place), RandomOp(random));
        break;
      case 3: {
        const Ops& phrase = random.Pick(Phrases());
        ops.insert(at(place), phrase.begin(), phrase.end());
        break;
      }
      case 4:
        std::swap(ops[start], ops[random.Below(ops.size())]);
        break;
      case 5:
        ops[start] = RandomOp(random);
        break;
      default:
        // Most arguments are worth a change, and half of the opcodes have none: look for one.
        for (size_t i = 0; i < ops.size(); ++i) {
          Op& op = ops[(start + i) % ops.size()];
          if (ArgumentOf(op.opcode).kind == Argument::Kind::kNone) continue;
          MutateArgument(op, random);
          break;
        }
        break;
    }
  }
}

}  // namespace

void MutatePickle(std::string& bytes, Random& random) {
  std::string_view rest = bytes;
  Ops ops = DecodePickle(rest);
  const std::string tail(rest);
  // PROTO and STOP stay, mostly.
  const bool has_ends = ops.size() >= 2 && ops.front().opcode == PickleOpcode::kProto &&
                        ops.back().opcode == PickleOpcode::kStop && !random.OneIn(32);
  if (!has_ends) {
    MutateOps(ops, random);
    bytes = Encode(ops) + tail;
    return;
  }
  const Ops first(ops.begin(), ops.begin() + 1), last(ops.end() - 1, ops.end());
  Ops inner(ops.begin() + 1, ops.end() - 1);
  MutateOps(inner, random);
  bytes = Encode(first) + Encode(inner) + Encode(last) + tail;
}

void MutatePicklesIn(std::string& bytes, Random& random) {
  if (random.OneIn(6)) return MutateBytes(bytes);
  std::vector<size_t> starts;
  for (size_t at = bytes.find('\x80'); at != std::string::npos; at = bytes.find('\x80', at + 1)) {
    if (at + 1 < bytes.size() && bytes[at + 1] >= 2 && bytes[at + 1] <= 5) starts.push_back(at);
  }
  if (starts.empty()) return MutateBytes(bytes);
  const size_t start = random.Pick(starts);
  std::string from_there = bytes.substr(start);
  MutatePickle(from_there, random);
  bytes.replace(start, std::string::npos, from_there);
}

}  // namespace sconce
