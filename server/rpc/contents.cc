#include "server/rpc/contents.h"

#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/rpc/wire_reader.h"

namespace sconce {
namespace {

static_assert(std::endian::native == std::endian::little,
              "tensor data travels little-endian and is not converted");

struct ContentsField {
  const char* name = nullptr;  // null: there is none for the datatype
  uint32_t number = 0;
  WireType type = WireType::kVarint;
};

ContentsField FieldOf(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return {"bool_contents", 1};
    case DType::kInt8:
    case DType::kInt16:
    case DType::kInt32:
      return {"int_contents", 2};
    case DType::kInt64:
      return {"int64_contents", 3};
    case DType::kUInt8:
    case DType::kUInt16:
    case DType::kUInt32:
      return {"uint_contents", 4};
    case DType::kUInt64:
      return {"uint64_contents", 5};
    case DType::kFloat32:
      return {"fp32_contents", 6, WireType::kFixed32};
    case DType::kFloat64:
      return {"fp64_contents", 7, WireType::kFixed64};
    default:
      return {};
  }
}

constexpr uint32_t kLastContentsField = 8;  // bytes_contents

// Appends elements to a buffer of known size, converted to one datatype.
class ElementSink {
 public:
  ElementSink(DType dtype, int64_t count)
      : dtype_(dtype),
        width_(static_cast<size_t>(DTypeSize(dtype))),
        bytes_(static_cast<size_t>(count) * width_) {}

  size_t width() const { return width_; }
  bool Full() const { return at_ == bytes_.size(); }
  size_t room_bytes() const { return bytes_.size() - at_; }
  int64_t count() const { return static_cast<int64_t>(at_ / width_); }
  std::vector<std::byte> Take() { return std::move(bytes_); }

  // Room for elements that lie in the wire as they do in memory.
  absl::Span<std::byte> Claim(size_t size) {
    const absl::Span<std::byte> claimed = absl::MakeSpan(bytes_).subspan(at_, size);
    at_ += size;
    return claimed;
  }

  // False where the datatype cannot hold the value.
  bool PutVarint(uint64_t value) {
    switch (dtype_) {
      case DType::kBool:
        return Put<uint8_t>(value != 0);
      case DType::kInt8:
        return PutSigned<int8_t>(value);
      case DType::kInt16:
        return PutSigned<int16_t>(value);
      case DType::kInt32:
        return PutSigned<int32_t>(value);
      case DType::kInt64:
        return Put<uint64_t>(value);
      case DType::kUInt8:
        return PutUnsigned<uint8_t>(value);
      case DType::kUInt16:
        return PutUnsigned<uint16_t>(value);
      case DType::kUInt32:
        return PutUnsigned<uint32_t>(value);
      case DType::kUInt64:
        return Put<uint64_t>(value);
      default:
        return false;
    }
  }

 private:
  template <typename T>
  bool Put(T value) {
    std::memcpy(bytes_.data() + at_, &value, sizeof value);
    at_ += sizeof value;
    return true;
  }
  template <typename T>
  bool PutSigned(uint64_t value) {
    const auto wide = static_cast<int64_t>(value);
    if (wide < std::numeric_limits<T>::min() || wide > std::numeric_limits<T>::max()) return false;
    return Put(static_cast<T>(wide));
  }
  template <typename T>
  bool PutUnsigned(uint64_t value) {
    return value <= std::numeric_limits<T>::max() && Put(static_cast<T>(value));
  }

  const DType dtype_;
  const size_t width_;
  std::vector<std::byte> bytes_;
  size_t at_ = 0;
};

// Reads one contents message into a sink.
class ContentsDecoder {
 public:
  ContentsDecoder(DType dtype, ContentsField field, int64_t count, const std::string& what)
      : dtype_(dtype), field_(field), count_(count), what_(what), sink_(dtype, count) {}

  absl::StatusOr<std::vector<std::byte>> Decode(WireReader* reader) {
    while (!reader->AtEnd()) {
      absl::Status status = TakeField(reader);
      if (!status.ok()) return status;
    }
    if (!sink_.Full()) {
      return Fail("expects ", count_, " values in ", field_.name, ", got ", sink_.count());
    }
    return sink_.Take();
  }

 private:
  template <typename... Parts>
  absl::Status Fail(const Parts&... parts) const {
    return absl::InvalidArgumentError(absl::StrCat(what_, " ", parts...));
  }
  absl::Status BreaksOff() const { return Fail("has contents that break off"); }
  absl::Status TooMany() const {
    return Fail("expects ", count_, " values in ", field_.name, ", got more");
  }

  absl::Status TakeField(WireReader* reader) {
    WireTag tag;
    if (!reader->ReadTag(&tag)) return BreaksOff();
    if (tag.number > kLastContentsField) {
      return reader->SkipValue(tag) ? absl::OkStatus() : BreaksOff();
    }
    if (tag.number != field_.number) {
      return Fail("has datatype ", std::string(OipDatatype(dtype_)), ", whose values belong in ",
                  field_.name, ", got values in another field of contents");
    }
    if (tag.type == field_.type) return TakeValue(reader);
    if (tag.type != WireType::kBytes) {
      return Fail("has a value of the wrong wire type in ", field_.name);
    }
    std::vector<Piece> run;
    if (!reader->ReadBytesValue(&run)) return BreaksOff();
    WireReader packed(run);
    if (field_.type != WireType::kVarint) return TakeFixed(&packed, packed.left());
    while (!packed.AtEnd()) {
      absl::Status status = TakeValue(&packed);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status TakeValue(WireReader* reader) {
    if (field_.type != WireType::kVarint) return TakeFixed(reader, sink_.width());
    uint64_t value = 0;
    if (!reader->ReadVarint(&value)) return BreaksOff();
    if (sink_.Full()) return TooMany();
    if (!sink_.PutVarint(value)) {
      return Fail("has value ", sink_.count(), " of ", field_.name, " outside of ",
                  std::string(OipDatatype(dtype_)));
    }
    return absl::OkStatus();
  }

  absl::Status TakeFixed(WireReader* reader, size_t size_bytes) {
    if (size_bytes > sink_.room_bytes()) return TooMany();
    if (size_bytes % sink_.width() != 0 || !reader->ReadInto(sink_.Claim(size_bytes))) {
      return BreaksOff();
    }
    return absl::OkStatus();
  }

  const DType dtype_;
  const ContentsField field_;
  const int64_t count_;
  const std::string& what_;
  ElementSink sink_;
};

template <typename Element, typename Field>
void Fill(const HostTensor& tensor, Field* field) {
  const size_t count = tensor.bytes.size() / sizeof(Element);
  field->Reserve(static_cast<int>(count));
  for (size_t i = 0; i < count; ++i) {
    Element element;
    std::memcpy(&element, tensor.bytes.data() + i * sizeof element, sizeof element);
    field->AddAlreadyReserved(element);
  }
}

}  // namespace

bool HasContentsField(DType dtype) { return FieldOf(dtype).name != nullptr; }

absl::StatusOr<std::vector<std::byte>> DecodeContents(const InputBytes& contents, DType dtype,
                                                      int64_t count, const std::string& what) {
  const ContentsField field = FieldOf(dtype);
  if (field.name == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " has datatype ", std::string(OipDatatype(dtype)),
                     ", which has no typed contents: send raw_input_contents"));
  }
  WireReader reader(contents.pieces);
  // An element takes at least a byte on the wire: asked before memory is taken for them.
  if (static_cast<uint64_t>(count) > reader.left()) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " expects ", count, " values in ", field.name, ", got fewer"));
  }
  return ContentsDecoder(dtype, field, count, what).Decode(&reader);
}

void EncodeContents(const HostTensor& tensor, inference::InferTensorContents* contents) {
  switch (tensor.dtype) {
    case DType::kBool:
      return Fill<uint8_t>(tensor, contents->mutable_bool_contents());
    case DType::kInt8:
      return Fill<int8_t>(tensor, contents->mutable_int_contents());
    case DType::kInt16:
      return Fill<int16_t>(tensor, contents->mutable_int_contents());
    case DType::kInt32:
      return Fill<int32_t>(tensor, contents->mutable_int_contents());
    case DType::kInt64:
      return Fill<int64_t>(tensor, contents->mutable_int64_contents());
    case DType::kUInt8:
      return Fill<uint8_t>(tensor, contents->mutable_uint_contents());
    case DType::kUInt16:
      return Fill<uint16_t>(tensor, contents->mutable_uint_contents());
    case DType::kUInt32:
      return Fill<uint32_t>(tensor, contents->mutable_uint_contents());
    case DType::kUInt64:
      return Fill<uint64_t>(tensor, contents->mutable_uint64_contents());
    case DType::kFloat32:
      return Fill<float>(tensor, contents->mutable_fp32_contents());
    case DType::kFloat64:
      return Fill<double>(tensor, contents->mutable_fp64_contents());
    default:
      return;
  }
}

}  // namespace sconce
