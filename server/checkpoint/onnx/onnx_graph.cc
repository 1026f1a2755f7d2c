#include "server/checkpoint/onnx/onnx_graph.h"

#include <cstddef>
#include <cstring>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/base/utf8.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/onnx/onnx_tensor.h"
#include "server/checkpoint/onnx/protobuf_reader.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

// What an entry of a list takes in memory beside its text, about.
constexpr int64_t kEntryBytes = 64;

class GraphReader {
 public:
  GraphReader(const File& file, int64_t max_bytes)
      : reader_(file), size_(file.size_bytes()), max_bytes_(max_bytes), left_(max_bytes) {}

  absl::StatusOr<OnnxGraph> Run() {
    OnnxGraph graph;
    const absl::Status read = Fields({0, size_}, [&](const ProtobufField& field) {
      switch (field.number) {
        case 7:
          return Message(field, [&](const ByteRange& range) { return ReadGraph(range, graph); });
        case 8:
          return Message(field, [&](const ByteRange& range) { return ReadOpset(range, graph); });
        case 25:
          return Message(field, [&](const ByteRange& range) { return ReadFunction(range, graph); });
        default:
          return absl::OkStatus();
      }
    });
    if (!read.ok()) return read;
    return graph;
  }

 private:
  using UseField = std::function<absl::Status(const ProtobufField&)>;
  using UseRange = std::function<absl::Status(const ByteRange&)>;

  absl::Status Fields(const ByteRange& message, const UseField& use) {
    for (int64_t at = message.offset; at < message.end();) {
      const absl::StatusOr<ProtobufField> field = reader_.Next(at, message.end());
      if (!field.ok()) return field.status();
      if (absl::Status used = use(*field); !used.ok()) return used;
    }
    return absl::OkStatus();
  }

  static absl::Status Message(const ProtobufField& field, const UseRange& use) {
    if (field.type != WireType::kBytes) {
      return Refused("expected a message in field ", field.number, ", got a number");
    }
    return use({field.offset, field.size_bytes});
  }

  absl::Status Spend(int64_t bytes) {
    if (bytes > left_) {
      return Refused("expected a graph of at most ", max_bytes_, " bytes, got more");
    }
    left_ -= bytes;
    return absl::OkStatus();
  }

  absl::Status Text(const ProtobufField& field, std::string& text) {
    absl::StatusOr<std::string> read = reader_.Text(field, kMaxOnnxNameBytes);
    if (!read.ok()) return read.status();
    if (!IsUtf8(*read)) return Refused("expected a name in valid UTF-8");
    text = *std::move(read);
    return Spend(kEntryBytes + static_cast<int64_t>(text.size()));
  }

  absl::Status AddText(const ProtobufField& field, std::vector<std::string>& texts) {
    return Text(field, texts.emplace_back());
  }

  static absl::Status Number(const ProtobufField& field, int64_t& number) {
    if (field.type != WireType::kVarint) {
      return Refused("expected a number in field ", field.number, ", got something else");
    }
    number = static_cast<int64_t>(field.varint);
    return absl::OkStatus();
  }

  absl::Status ReadOpset(const ByteRange& message, OnnxGraph& graph) {
    std::string domain;
    int64_t version = 0;
    const absl::Status read = Fields(message, [&](const ProtobufField& field) {
      if (field.number == 1) return Text(field, domain);
      if (field.number == 2) return Number(field, version);
      return absl::OkStatus();
    });
    graph.opsets[domain == "ai.onnx" ? "" : domain] = version;
    return read;
  }

  absl::Status ReadFunction(const ByteRange& message, OnnxGraph& graph) {
    return Fields(message, [&](const ProtobufField& field) {
      return field.number == 1 ? AddText(field, graph.functions) : absl::OkStatus();
    });
  }

  absl::Status ReadGraph(const ByteRange& message, OnnxGraph& graph) {
    return Fields(message, [&](const ProtobufField& field) {
      switch (field.number) {
        case 1:
          return Message(field, [&](const ByteRange& range) {
            const std::string where = absl::StrCat("node ", graph.nodes.size());
            if (absl::Status spent = Spend(4 * kEntryBytes); !spent.ok()) return spent;
            return InContext(where, ReadNode(range, graph.nodes.emplace_back()));
          });
        case 2:
          return Text(field, graph.name);
        case 11:
        case 12: {
          std::vector<OnnxValueInfo>& values = field.number == 11 ? graph.inputs : graph.outputs;
          return Message(field, [&](const ByteRange& range) {
            return InContext(field.number == 11 ? "input" : "output",
                             ReadValueInfo(range, values.emplace_back()));
          });
        }
        default:
          return absl::OkStatus();
      }
    });
  }

  absl::Status ReadNode(const ByteRange& message, OnnxNode& node) {
    return Fields(message, [&](const ProtobufField& field) {
      switch (field.number) {
        case 1:
          return AddText(field, node.inputs);
        case 2:
          return AddText(field, node.outputs);
        case 3:
          return Text(field, node.name);
        case 4:
          return Text(field, node.op_type);
        case 5:
          return Message(field, [&](const ByteRange& range) { return ReadAttribute(range, node); });
        case 7:
          return Text(field, node.domain);
        default:
          return absl::OkStatus();
      }
    });
  }

  absl::Status ReadAttribute(const ByteRange& message, OnnxNode& node) {
    std::string name;
    OnnxAttribute attribute;
    const absl::Status read = Fields(message, [&](const ProtobufField& field) {
      switch (field.number) {
        case 1:
          return Text(field, name);
        case 2:
          return Floats(field, [&](float value) { attribute.f = value; });
        case 3:
          return Number(field, attribute.i.emplace());
        case 4:
          return Text(field, attribute.s.emplace());
        case 5:
          return Message(field, [&](const ByteRange& range) {
            return InContext("tensor", ReadTensor(range, attribute.t.emplace()));
          });
        case 6:
        case 11:
          attribute.is_graph = true;
          return absl::OkStatus();
        case 7:
          return Floats(field, [&](float value) { attribute.floats.push_back(value); });
        case 8:
          return Integers(field, attribute.ints);
        default:
          return absl::OkStatus();
      }
    });
    if (!read.ok()) return InContext(absl::StrCat("attribute '", Printable(name), "'"), read);
    if (!node.attributes.emplace(name, std::move(attribute)).second) {
      return Refused("expected each attribute once, got '", Printable(name), "' twice");
    }
    return absl::OkStatus();
  }

  absl::Status Integers(const ProtobufField& field, std::vector<int64_t>& numbers) {
    if (field.type != WireType::kBytes) {
      if (absl::Status spent = Spend(8); !spent.ok()) return spent;
      return Number(field, numbers.emplace_back());
    }
    const int64_t end = field.offset + field.size_bytes;
    for (int64_t at = field.offset; at < end;) {
      const absl::StatusOr<uint64_t> value = reader_.Varint(at, end);
      if (!value.ok()) return value.status();
      if (absl::Status spent = Spend(8); !spent.ok()) return spent;
      numbers.push_back(static_cast<int64_t>(*value));
    }
    return absl::OkStatus();
  }

  // One number, or several one after the other.
  absl::Status Floats(const ProtobufField& field, const std::function<void(float)>& use) {
    const bool right = field.type == WireType::kFixed32 ||
                       (field.type == WireType::kBytes && field.size_bytes % 4 == 0);
    if (!right) return Refused("expected fractions in field ", field.number);
    if (absl::Status spent = Spend(field.size_bytes); !spent.ok()) return spent;
    for (int64_t at = 0; at < field.size_bytes; at += 4) {
      float value = 0;
      absl::Status read = reader_.Read(
          field.offset + at, absl::MakeSpan(reinterpret_cast<std::byte*>(&value), sizeof(value)));
      if (!read.ok()) return read;
      use(value);
    }
    return absl::OkStatus();
  }

  absl::Status ReadTensor(const ByteRange& message, OnnxValues& values) {
    const absl::StatusOr<OnnxTensor> tensor = ReadOnnxTensor(reader_, message);
    if (!tensor.ok()) return tensor.status();
    const std::optional<DType> dtype = OnnxDType(tensor->data_type);
    if (!dtype.has_value()) {
      return absl::UnimplementedError(absl::StrCat("its type ", OnnxTypeName(tensor->data_type),
                                                   " is one that PyTorch does not have"));
    }
    if (tensor->external.has_value()) return Refused("expected its values inside the file");
    values.dtype = *dtype;
    values.shape = tensor->shape;
    const absl::StatusOr<int64_t> elements = CountElements(values.shape);
    if (!elements.ok()) return elements.status();
    const absl::StatusOr<int64_t> bytes = CountBytes(*elements, values.dtype);
    if (!bytes.ok()) return bytes.status();
    if (!tensor->raw.has_value()) {
      absl::StatusOr<std::string> decoded = DecodeValues(reader_, *tensor, *elements, left_);
      if (!decoded.ok()) return decoded.status();
      values.bytes = *std::move(decoded);
      return Spend(*bytes);
    }
    if (tensor->raw->size_bytes != *bytes) {
      return Refused("expected ", *bytes, " bytes for its shape and type, got ",
                     tensor->raw->size_bytes);
    }
    if (absl::Status spent = Spend(*bytes); !spent.ok()) return spent;
    values.bytes.resize(static_cast<size_t>(*bytes));
    return reader_.Read(
        tensor->raw->offset,
        absl::MakeSpan(reinterpret_cast<std::byte*>(values.bytes.data()), values.bytes.size()));
  }

  absl::Status ReadValueInfo(const ByteRange& message, OnnxValueInfo& value) {
    value.type_name = "no tensor";
    return Fields(message, [&](const ProtobufField& field) {
      if (field.number == 1) return Text(field, value.name);
      if (field.number != 2) return absl::OkStatus();
      return Message(field, [&](const ByteRange& type) {
        return Fields(type, [&](const ProtobufField& kind) {
          if (kind.number != 1) return absl::OkStatus();  // a sequence, a map
          return Message(kind, [&](const ByteRange& tensor) { return ReadType(tensor, value); });
        });
      });
    });
  }

  absl::Status ReadType(const ByteRange& message, OnnxValueInfo& value) {
    return Fields(message, [&](const ProtobufField& field) {
      if (field.number == 1) {
        int64_t type = 0;
        absl::Status read = Number(field, type);
        value.dtype = OnnxDType(type);
        value.type_name = OnnxTypeName(type);
        return read;
      }
      if (field.number != 2) return absl::OkStatus();
      std::vector<OnnxDim>& dims = value.dims.emplace();
      return Message(field, [&](const ByteRange& shape) {
        return Fields(shape, [&](const ProtobufField& dim) {
          if (dim.number != 1) return absl::OkStatus();
          if (dims.size() == kMaxTensorRank) {
            return Refused("expected at most ", kMaxTensorRank, " dimensions, got more");
          }
          OnnxDim& added = dims.emplace_back();
          return Message(dim, [&](const ByteRange& range) { return ReadDim(range, added); });
        });
      });
    });
  }

  absl::Status ReadDim(const ByteRange& message, OnnxDim& dim) {
    return Fields(message, [&](const ProtobufField& field) {
      if (field.number == 1) return Number(field, dim.value.emplace());
      if (field.number == 2) return Text(field, dim.parameter);
      return absl::OkStatus();
    });
  }

  ProtobufReader reader_;
  const int64_t size_;
  const int64_t max_bytes_;
  int64_t left_;
};

}  // namespace

absl::StatusOr<OnnxGraph> ReadOnnxGraph(const File& file, int64_t max_bytes) {
  return GraphReader(file, max_bytes).Run();
}

}  // namespace sconce
