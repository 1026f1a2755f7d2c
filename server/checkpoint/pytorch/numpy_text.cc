#include "server/checkpoint/pytorch/numpy_text.h"

#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "server/base/printable.h"
#include "server/checkpoint/data/half_float.h"

namespace sconce {
namespace {

constexpr int64_t kMaxShownElements = 8;
constexpr size_t kMaxRank = 64;  // numpy's own limit

using Items = absl::Span<const PickleId>;

// numpy.dtype('f8', False, True), then BUILD (version, byte order, ...).
struct NumpyType {
  char kind = '?';  // 'f', 'i', 'u', 'b', 'c', ...
  size_t size = 0;
  bool is_big_endian = false;
  std::string name;  // fit to print
};

std::optional<NumpyType> TypeOf(const PickleTree& tree, PickleId id) {
  if (tree.kind(id) != PickleKind::kCall || !tree.IsGlobal(tree.Callable(id), "numpy", "dtype")) {
    return std::nullopt;
  }
  const Items arguments = tree.Items(tree.Arguments(id));
  const std::optional<std::string_view> code =
      arguments.empty() ? std::nullopt : tree.AsString(arguments[0]);
  if (!code.has_value() || code->empty()) return std::nullopt;
  NumpyType type;
  type.kind = code->front();
  const std::string_view size = code->substr(1);
  std::from_chars(size.data(), size.data() + size.size(), type.size);
  const PickleId state = tree.State(id);
  if (state != kNoPickle && tree.kind(state) == PickleKind::kTuple &&
      tree.Items(state).size() > 1) {
    type.is_big_endian = tree.AsString(tree.Items(state)[1]) == ">";
  }
  const char* family = type.kind == 'f'   ? "float"
                       : type.kind == 'i' ? "int"
                       : type.kind == 'u' ? "uint"
                       : type.kind == 'c' ? "complex"
                                          : nullptr;
  if (family != nullptr && type.size >= 1 && type.size <= 32) {
    type.name = absl::StrCat(family, 8 * type.size);
  } else {
    type.name = type.kind == 'b'   ? "bool"
                : type.kind == 'O' ? "object"
                : type.kind == 'U' ? "str"
                                   : Printable(*code, 16);
  }
  return type;
}

// Bytes as they are, or as protocol 2 has them: _codecs.encode(text, 'latin1').
std::optional<std::string> BytesOf(const PickleTree& tree, PickleId id, size_t max_bytes) {
  if (tree.kind(id) == PickleKind::kCall && tree.IsGlobal(tree.Callable(id), "_codecs", "encode")) {
    const Items arguments = tree.Items(tree.Arguments(id));
    if (arguments.empty()) return std::nullopt;
    const std::optional<std::string_view> text = tree.AsString(arguments[0]);
    if (!text.has_value() || text->size() > 2 * max_bytes) return std::nullopt;
    std::string bytes;
    for (size_t i = 0; i < text->size(); ++i) {
      const auto byte = static_cast<uint8_t>((*text)[i]);
      if (byte < 0x80) {
        bytes.push_back(static_cast<char>(byte));
      } else if ((byte == 0xC2 || byte == 0xC3) && i + 1 < text->size()) {
        const auto next = static_cast<uint8_t>((*text)[++i]);
        bytes.push_back(static_cast<char>((byte & 3) << 6 | (next & 0x3F)));
      } else {
        return std::nullopt;
      }
    }
    return bytes;
  }
  const PickleKind kind = tree.kind(id);
  // Python 2 wrote bytes as strings.
  if (kind != PickleKind::kBytes && kind != PickleKind::kString) return std::nullopt;
  if (tree.Text(id).size() > max_bytes) return std::nullopt;
  return std::string(tree.Text(id));
}

template <typename T>
T Load(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

// REQUIRES: type.size bytes can be read.
std::optional<std::string> ElementText(const NumpyType& type, const char* bytes) {
  char swapped[8];
  if (type.size > sizeof(swapped)) return std::nullopt;
  for (size_t i = 0; i < type.size; ++i) {
    swapped[i] = type.is_big_endian ? bytes[type.size - 1 - i] : bytes[i];
  }
  if (type.kind == 'b' && type.size == 1) return swapped[0] != 0 ? "True" : "False";
  if (type.kind == 'f' && type.size == 8) return DescribeFloat(Load<double>(swapped));
  if (type.kind == 'f' && type.size == 4) {
    std::array<char, 32> digits;
    const auto end =
        std::to_chars(digits.data(), digits.data() + digits.size(), Load<float>(swapped));
    return std::string(digits.data(), end.ptr);
  }
  if (type.kind == 'f' && type.size == 2) {
    return DescribeFloat(HalfToFloat(Load<uint16_t>(swapped)));
  }
  if (type.kind != 'i' && type.kind != 'u') return std::nullopt;
  const bool is_signed = type.kind == 'i';
  switch (type.size) {
    case 1:
      return is_signed ? absl::StrCat(Load<int8_t>(swapped)) : absl::StrCat(Load<uint8_t>(swapped));
    case 2:
      return is_signed ? absl::StrCat(Load<int16_t>(swapped))
                       : absl::StrCat(Load<uint16_t>(swapped));
    case 4:
      return is_signed ? absl::StrCat(Load<int32_t>(swapped))
                       : absl::StrCat(Load<uint32_t>(swapped));
    case 8:
      return is_signed ? absl::StrCat(Load<int64_t>(swapped))
                       : absl::StrCat(Load<uint64_t>(swapped));
    default:
      return std::nullopt;
  }
}

bool IsMultiarray(std::string_view module) {
  return module == "numpy.core.multiarray" || module == "numpy._core.multiarray";
}

std::optional<std::string> DescribeArray(const PickleTree& tree, PickleId shape, PickleId dtype,
                                         PickleId data) {
  const std::optional<NumpyType> type = TypeOf(tree, dtype);
  if (!type.has_value() || tree.kind(shape) != PickleKind::kTuple) return std::nullopt;
  const Items sizes = tree.Items(shape);
  if (sizes.size() > kMaxRank) return std::nullopt;
  std::vector<int64_t> numbers;
  int64_t elements = 1;
  for (const PickleId size : sizes) {
    if (tree.kind(size) != PickleKind::kInt || tree.Int(size) < 0) return std::nullopt;
    numbers.push_back(tree.Int(size));
    if (__builtin_mul_overflow(elements, numbers.back(), &elements)) return std::nullopt;
  }
  std::string text =
      absl::StrCat(type->name, " array of shape [", absl::StrJoin(numbers, ", "), "]");
  if (elements == 0 || elements > kMaxShownElements || type->size == 0 || type->size > 8) {
    return text;
  }
  const auto count = static_cast<size_t>(elements);
  const std::optional<std::string> bytes = BytesOf(tree, data, count * type->size);
  if (!bytes.has_value() || bytes->size() != count * type->size) return text;
  std::string shown;
  for (size_t i = 0; i < count; ++i) {
    const std::optional<std::string> element = ElementText(*type, bytes->data() + i * type->size);
    if (!element.has_value()) return text;
    absl::StrAppend(&shown, i == 0 ? "" : ", ", *element);
  }
  return absl::StrCat(text, ": ", shown);
}

}  // namespace

std::string DescribeFloat(double value) {
  std::array<char, 32> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  return std::string(digits.data(), end.ptr);
}

std::optional<std::string> DescribeNumpy(const PickleTree& tree, PickleId id) {
  if (tree.kind(id) != PickleKind::kCall || tree.kind(tree.Callable(id)) != PickleKind::kGlobal) {
    return std::nullopt;
  }
  const PickleTree::Global function = tree.GlobalName(tree.Callable(id));
  const Items arguments = tree.Items(tree.Arguments(id));
  if (const std::optional<NumpyType> type = TypeOf(tree, id); type.has_value()) {
    return absl::StrCat("dtype('", type->name, "')");
  }
  if (IsMultiarray(function.module) && function.name == "scalar" && arguments.size() == 2) {
    const std::optional<NumpyType> type = TypeOf(tree, arguments[0]);
    if (!type.has_value()) return std::nullopt;
    const std::optional<std::string> bytes = BytesOf(tree, arguments[1], 8);
    if (bytes.has_value() && type->size > 0 && bytes->size() == type->size) {
      const std::optional<std::string> text = ElementText(*type, bytes->data());
      if (text.has_value()) return text;
    }
    return absl::StrCat("numpy ", type->name);
  }
  // _reconstruct(ndarray, (0,), b'b'), then BUILD (version, shape, dtype, is Fortran, data).
  if (IsMultiarray(function.module) && function.name == "_reconstruct") {
    const PickleId state = tree.State(id);
    if (state == kNoPickle || tree.kind(state) != PickleKind::kTuple) return std::nullopt;
    const Items items = tree.Items(state);
    if (items.size() != 5) return std::nullopt;
    return DescribeArray(tree, items[1], items[2], items[4]);
  }
  // From protocol 5 on: _frombuffer(data, dtype, shape, order).
  if (function.name == "_frombuffer" && function.module.starts_with("numpy") &&
      arguments.size() == 4) {
    return DescribeArray(tree, arguments[2], arguments[1], arguments[0]);
  }
  return std::nullopt;
}

}  // namespace sconce
