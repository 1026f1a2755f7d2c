#include "server/program/exported_program.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "models/program/graph_net.h"
#include "server/base/file.h"
#include "server/base/printable.h"
#include "server/checkpoint/archive/zip_archive.h"
#include "server/checkpoint/archive/zip_record.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/pytorch/payload_config.h"
#include "server/checkpoint/tensor_bounds.h"
#include "server/program/graph_id.h"
#include "server/program/pt2_arguments.h"
#include "server/program/pt2_graph.h"
#include "server/weights/scalar_type.h"

namespace sconce {
namespace {

constexpr std::string_view kModels = "models/";
constexpr std::string_view kJson = ".json";
// Parsed, the text takes about ten times as much memory.
constexpr int64_t kMaxGraphBytes = int64_t{128} << 20;

// The archive's constants, each record read once.
class Constants {
 public:
  Constants(const File& file, const ZipArchive& archive) : file_(file), archive_(archive) {}

  absl::Status ReadConfig(const std::string& model, int64_t max_bytes) {
    const ZipEntry* entry =
        archive_.Find(absl::StrCat("data/constants/", model, "_constants_config.json"));
    if (entry == nullptr) return absl::OkStatus();
    const absl::StatusOr<std::string> text =
        ReadZipRecord(file_, *entry, max_bytes, /*verify_crc=*/true);
    if (!text.ok()) return InContext(Printable(entry->name), text.status());
    absl::StatusOr<std::vector<Payload>> payloads = ParsePayloadConfig(*text);
    if (!payloads.ok()) return InContext(Printable(entry->name), payloads.status());
    for (Payload& payload : *payloads) {
      std::string name = payload.name;
      payloads_.emplace(std::move(name), std::move(payload));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<at::Tensor> Read(const std::string& name) {
    absl::StatusOr<at::Tensor> tensor = ReadPayload(name);
    if (tensor.ok()) return tensor;
    return InContext(absl::StrCat("constant '", Printable(name), "'"), tensor.status());
  }

 private:
  absl::StatusOr<at::Tensor> ReadPayload(const std::string& name) {
    const auto payload = payloads_.find(name);
    if (payload == payloads_.end()) return Refused("expected it in the archive, got none");
    const Payload& described = payload->second;
    constexpr int64_t kStrided = 7;
    if (described.use_pickle || !described.is_tensor || described.layout != kStrided) {
      return absl::UnimplementedError("expected a plain dense tensor, got one of another kind");
    }
    c10::ScalarType type;
    try {
      type = ScalarTypeOf(Json(described.dtype));
    } catch (const BadProgram& bad) {
      return bad.status;
    }
    const std::optional<DType> dtype = FromScalarType(type);
    if (!dtype.has_value()) return absl::UnimplementedError("its dtype is not supported");
    const ZipEntry* entry = archive_.Find(absl::StrCat("data/constants/", described.path_name));
    if (entry == nullptr || entry->compressed) {
      return Refused("expected an uncompressed record '", Printable(described.path_name),
                     "', got none");
    }
    TensorDescriptor view;
    view.dtype = *dtype;
    view.shape = described.sizes;
    view.strides = described.strides;
    view.offset = described.storage_offset;
    if (absl::Status fits = CheckTensorBounds(view, entry->size_bytes); !fits.ok()) return fits;
    absl::StatusOr<at::Tensor> storage = StorageOf(*entry);
    if (!storage.ok()) return storage.status();
    const int64_t whole = entry->size_bytes / DTypeSize(*dtype);
    return storage->narrow(0, 0, whole * DTypeSize(*dtype))
        .view(type)
        .as_strided(view.shape, view.strides, view.offset);
  }

  absl::StatusOr<at::Tensor> StorageOf(const ZipEntry& entry) {
    const auto read = storages_.find(entry.name);
    if (read != storages_.end()) return read->second;
    at::Tensor bytes = at::empty({entry.size_bytes}, c10::kByte);
    const absl::Span<std::byte> out(static_cast<std::byte*>(bytes.mutable_data_ptr()),
                                    static_cast<size_t>(entry.size_bytes));
    if (absl::Status done = ReadFrom(file_, entry.data_offset, out); !done.ok()) return done;
    storages_.emplace(entry.name, bytes);
    return bytes;
  }

  const File& file_;
  const ZipArchive& archive_;
  std::map<std::string, Payload> payloads_;
  std::map<std::string, at::Tensor> storages_;
};

// The name of the only program in the archive.
absl::StatusOr<std::string> FindModel(const ZipArchive& archive) {
  std::vector<std::string> models;
  for (const ZipEntry& entry : archive.entries()) {
    std::string_view name = entry.name;
    name.remove_prefix(archive.top_folder().size() + 1);
    if (!name.starts_with(kModels) || !name.ends_with(kJson)) continue;
    name.remove_prefix(kModels.size());
    if (name.size() <= kJson.size() || name.find('/') != std::string_view::npos) continue;
    name.remove_suffix(kJson.size());
    models.emplace_back(name);
  }
  if (models.size() == 1) return models[0];
  if (models.empty()) {
    return Refused("expected an exported program of PyTorch 2.8 or later, with a record '",
                   std::string(kModels), "*", std::string(kJson), "', got an archive without");
  }
  return absl::UnimplementedError(
      absl::StrCat("expected one program, got ", models.size(), ", which is not supported"));
}

absl::StatusOr<models::Graph> ReadGraph(const File& file, const ProgramOptions& options) {
  const absl::StatusOr<ZipArchive> archive = ZipArchive::Open(file, options.max_metadata_bytes);
  if (!archive.ok()) return archive.status();
  const absl::StatusOr<std::string> model = FindModel(*archive);
  if (!model.ok()) return model.status();
  const ZipEntry& entry =
      *archive->Find(absl::StrCat(std::string(kModels), *model, std::string(kJson)));
  const int64_t max_bytes = std::min(options.max_metadata_bytes, kMaxGraphBytes);
  const absl::StatusOr<std::string> text =
      ReadZipRecord(file, entry, max_bytes, /*verify_crc=*/true);
  if (!text.ok()) return InContext(Printable(entry.name), text.status());
  Constants constants(file, *archive);
  if (absl::Status read = constants.ReadConfig(*model, max_bytes); !read.ok()) return read;
  absl::StatusOr<models::Graph> graph = ParseExportedGraph(
      *text, [&constants](const std::string& name) { return constants.Read(name); });
  if (!graph.ok()) return InContext(Printable(entry.name), graph.status());
  if (absl::Status same = file.CheckUnchanged(); !same.ok()) return same;
  return graph;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const models::Architecture>> OpenExportedProgram(
    const std::string& path, const ProgramOptions& options) {
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  const auto named = [&path](const absl::Status& status) {
    return InContext(Printable(path), status);
  };
  try {
    absl::StatusOr<models::Graph> graph = ReadGraph(*file, options);
    if (!graph.ok()) return named(graph.status());
    const std::string name = graph->class_name;
    std::string id = GraphId(*graph);
    auto architecture = models::ArchitectureOf(name, std::move(id), *std::move(graph));
    if (!architecture.ok()) return named(architecture.status());
    return architecture;
  } catch (const std::exception& error) {
    return named(absl::InternalError(error.what()));
  }
}

}  // namespace sconce
