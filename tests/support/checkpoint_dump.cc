// checkpoint_dump FILE [--verify-crc] [--dense MAX_BYTES] [--bytes-to OUT]: prints what the
// checkpoint reader makes of a file as JSON, and writes all tensors' bytes, one after the other, to
// OUT; with --dense as ReadDense gives them, else without those of sparse tensors. Lets tests
// compare the reader with Python's torch. An error goes to stderr, with exit status 1.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/base/content_hash.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/data/dense_read.h"

namespace sconce {
namespace {

using Json = nlohmann::ordered_json;

Json Describe(const TensorDescriptor& tensor) {
  Json json = {{"name", tensor.name},
               {"dtype", DTypeName(tensor.dtype)},
               {"shape", tensor.shape},
               {"strides", tensor.strides},
               {"offset", tensor.offset},
               {"storage", tensor.storage},
               {"conjugate", tensor.conjugate},
               {"negative", tensor.negative},
               {"parameter", tensor.is_parameter},
               {"size_bytes", tensor.size_bytes()}};
  if (tensor.quantizer.has_value()) {
    const Quantizer& quantizer = *tensor.quantizer;
    Json& q = json["quantizer"] = {{"scheme", static_cast<int>(quantizer.scheme)}};
    if (quantizer.scales != nullptr) {
      q["axis"] = quantizer.axis;
      q["scales"] = Describe(*quantizer.scales);
      q["zero_points"] = Describe(*quantizer.zero_points);
    } else {
      q["scale"] = quantizer.scale;
      q["zero_point"] = quantizer.zero_point;
    }
  }
  if (tensor.sparse.has_value()) {
    const SparseParts& parts = *tensor.sparse;
    json["size_bytes"] = 0;
    Json& s = json["sparse"] = {{"layout", static_cast<int>(parts.layout)},
                                {"coalesced", parts.coalesced},
                                {"indices", Describe(*parts.indices)},
                                {"values", Describe(*parts.values)}};
    if (parts.compressed_indices != nullptr) {
      s["compressed_indices"] = Describe(*parts.compressed_indices);
    }
  }
  return json;
}

Json Describe(const ModuleEntry& module) {
  Json attributes = Json::object();
  for (const MetadataEntry& entry : module.attributes) attributes[entry.name] = entry.value;
  return {{"class", module.class_name}, {"attributes", std::move(attributes)}};
}

int Fail(const absl::Status& status) {
  std::cerr << status.ToString() << "\n";
  return 1;
}

int Main(const std::vector<std::string_view>& arguments) {
  std::string path, bytes_to;
  std::optional<int64_t> max_dense_bytes;
  CheckpointOptions options;
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--verify-crc") {
      options.verify_crc = true;
    } else if (arguments[i] == "--dense" && i + 1 < arguments.size()) {
      max_dense_bytes = std::stoll(std::string(arguments[++i]));
    } else if (arguments[i] == "--bytes-to" && i + 1 < arguments.size()) {
      bytes_to = arguments[++i];
    } else {
      path = arguments[i];
    }
  }
  const auto checkpoint = OpenCheckpoint(path, options);
  if (!checkpoint.ok()) return Fail(checkpoint.status());
  const Checkpoint& file = **checkpoint;

  Json listing = {{"format", file.format()},
                  {"producer", file.producer()},
                  {"wrapper", file.wrapper()},
                  {"has_module_versions", file.has_module_versions()},
                  {"module_versions", file.module_versions()},
                  {"storages", file.storages().size()}};
  for (const MetadataEntry& entry : file.metadata()) listing["metadata"][entry.name] = entry.value;
  for (const NonTensorEntry& entry : file.non_tensors()) {
    listing["non_tensors"][entry.name] = entry.type_name;
  }
  for (const ModuleEntry& module : file.modules()) {
    listing["modules"][module.path] = Describe(module);
  }
  std::ofstream out;
  if (!bytes_to.empty()) out.open(bytes_to, std::ios::binary);
  listing["tensors"] = Json::array();
  for (const TensorDescriptor& tensor : file.tensors()) {
    Json json = Describe(tensor);
    absl::Status read;
    std::vector<std::byte> bytes;
    if (max_dense_bytes.has_value()) {
      const absl::StatusOr<DenseForm> form = DenseFormOf(tensor, *max_dense_bytes);
      if (!form.ok()) return Fail(form.status());
      json["dtype"] = DTypeName(form->dtype);
      json["size_bytes"] = form->size_bytes;
      bytes.resize(static_cast<size_t>(form->size_bytes));
      read = ReadDense(file, tensor, *max_dense_bytes, absl::MakeSpan(bytes));
    } else if (!tensor.sparse.has_value()) {
      bytes.resize(static_cast<size_t>(tensor.size_bytes()));
      read = file.ReadInto(tensor, absl::MakeSpan(bytes));
    }
    if (!read.ok()) return Fail(read);
    ContentHasher hasher;
    hasher.Update(bytes);
    json["hash"] = hasher.Finish().Hex();
    listing["tensors"].push_back(std::move(json));
    out.write(reinterpret_cast<const char*>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
  }
  if (const absl::Status same = file.CheckUnchanged(); !same.ok()) return Fail(same);
  std::cout << listing.dump() << "\n";
  return 0;
}

}  // namespace
}  // namespace sconce

int main(int argc, char** argv) {
  return sconce::Main(std::vector<std::string_view>(argv + 1, argv + argc));
}
