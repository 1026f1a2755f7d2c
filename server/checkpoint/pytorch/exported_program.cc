#include "server/checkpoint/pytorch/exported_program.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/printable.h"
#include "server/base/utf8.h"
#include "server/checkpoint/archive/zip_record.h"
#include "server/checkpoint/containers.h"
#include "server/checkpoint/data/stored_checkpoint.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/pytorch/payload_config.h"
#include "server/checkpoint/pytorch/saved_tensor.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

constexpr std::string_view kWeights = "data/weights/";
constexpr std::string_view kWeightsConfig = "_weights_config.json";
constexpr std::string_view kConstants = "data/constants/";
constexpr std::string_view kConstantsConfig = "_constants_config.json";
constexpr std::string_view kCompiled = "data/aotinductor/";

constexpr int64_t kMaxNoteBytes = 64;
constexpr int64_t kStrided = 7;

struct ExportedType {
  int64_t number;
  DType dtype;
};

constexpr std::array<ExportedType, 18> kExportedTypes = {{
    {1, DType::kUInt8},
    {2, DType::kInt8},
    {3, DType::kInt16},
    {4, DType::kInt32},
    {5, DType::kInt64},
    {6, DType::kFloat16},
    {7, DType::kFloat32},
    {8, DType::kFloat64},
    {9, DType::kComplex32},
    {10, DType::kComplex64},
    {11, DType::kComplex128},
    {12, DType::kBool},
    {13, DType::kBFloat16},
    {28, DType::kUInt16},
    {29, DType::kFloat8E4M3FN},
    {30, DType::kFloat8E5M2},
    {31, DType::kFloat8E4M3FNUZ},
    {32, DType::kFloat8E5M2FNUZ},
}};

class ProgramReader {
 public:
  ProgramReader(const File& file, const ZipArchive& archive, const CheckpointOptions& options)
      : file_(file), archive_(archive), options_(options) {}

  absl::StatusOr<CheckpointListing> Run() {
    listing_.path = file_.path();
    listing_.producer = "torch.export";
    if (absl::Status good = CheckNotes(); !good.ok()) return good;
    const absl::StatusOr<std::string> model = FindModel();
    if (!model.ok()) return model.status();
    const absl::StatusOr<std::vector<Payload>> weights =
        ReadConfig(absl::StrCat(std::string(kWeights), *model, std::string(kWeightsConfig)));
    if (!weights.ok()) return weights.status();
    for (const Payload& payload : *weights) {
      if (absl::Status added = AddWeight(payload); !added.ok()) {
        return InContext(absl::StrCat("tensor '", Printable(payload.name), "'"), added);
      }
    }
    if (absl::Status noted = NoteConstants(*model); !noted.ok()) return noted;
    return std::move(listing_);
  }

  std::vector<uint32_t> TakeCrcs() { return std::move(crcs_); }

 private:
  absl::Status CheckNotes() const {
    constexpr std::pair<const char*, const char*> kNotes[] = {{"archive_format", "pt2"},
                                                              {"byteorder", "little"}};
    for (const auto& [name, expected] : kNotes) {
      const ZipEntry* entry = archive_.Find(name);
      if (entry == nullptr) continue;
      const absl::StatusOr<std::string> text =
          ReadZipRecord(file_, *entry, kMaxNoteBytes, options_.verify_crc);
      if (!text.ok()) return InContext(Printable(entry->name), text.status());
      if (*text != expected) {
        return Refused(Printable(entry->name), ": expected '", expected, "', got '",
                       Printable(*text), "'");
      }
    }
    return absl::OkStatus();
  }

  // The only model in the archive that has weights.
  absl::StatusOr<std::string> FindModel() const {
    std::vector<std::string> models;
    bool is_compiled = false;
    for (const ZipEntry& entry : archive_.entries()) {
      std::string_view name = entry.name;
      name.remove_prefix(archive_.top_folder().size() + 1);
      is_compiled |= name.starts_with(kCompiled);
      if (!name.starts_with(kWeights) || !name.ends_with(kWeightsConfig)) continue;
      if (name.size() < kWeights.size() + kWeightsConfig.size()) continue;
      name.remove_prefix(kWeights.size());
      name.remove_suffix(kWeightsConfig.size());
      models.emplace_back(name);
    }
    if (models.size() == 1) return models.front();
    if (models.empty()) {
      return Refused("expected an exported program with a list of its weights, got ",
                     is_compiled ? "one compiled by AOTInductor, whose weights are in native code"
                                 : "an archive without");
    }
    constexpr size_t kMaxNamed = 8;
    const size_t named = std::min(models.size(), kMaxNamed);
    models.resize(named);
    return Refused("expected one exported program, got several: ",
                   Printable(absl::StrJoin(models, ", ")));
  }

  absl::StatusOr<std::vector<Payload>> ReadConfig(const std::string& name) const {
    const ZipEntry* entry = archive_.Find(name);
    if (entry == nullptr) return std::vector<Payload>();
    const absl::StatusOr<std::string> json =
        ReadZipRecord(file_, *entry, options_.max_metadata_bytes, options_.verify_crc);
    if (!json.ok()) return InContext(Printable(entry->name), json.status());
    absl::StatusOr<std::vector<Payload>> config = ParsePayloadConfig(*json);
    if (!config.ok()) return InContext(Printable(entry->name), config.status());
    return config;
  }

  absl::StatusOr<const ZipEntry*> FindRecord(const std::string& path_name) const {
    const ZipEntry* entry = archive_.Find(absl::StrCat(std::string(kWeights), path_name));
    if (entry == nullptr) {
      return Refused("expected a record '", Printable(archive_.top_folder()), "/",
                     std::string(kWeights), Printable(path_name), "', got none");
    }
    if (entry->compressed) {
      return Refused(Printable(entry->name),
                     ": expected an uncompressed storage, got a compressed one");
    }
    return entry;
  }

  absl::Status AddWeight(const Payload& payload) {
    if (!IsUtf8(payload.name)) return Refused("expected a name in valid UTF-8");
    const absl::StatusOr<const ZipEntry*> entry = FindRecord(payload.path_name);
    if (!entry.ok()) return entry.status();
    absl::StatusOr<TensorDescriptor> tensor =
        payload.use_pickle ? SavedWeight(payload, **entry) : RawWeight(payload, **entry);
    if (!tensor.ok()) return tensor.status();
    tensor->name = payload.name;
    tensor->is_parameter = payload.is_parameter;
    listing_.tensors.push_back(*std::move(tensor));
    return absl::OkStatus();
  }

  absl::StatusOr<TensorDescriptor> RawWeight(const Payload& payload, const ZipEntry& entry) {
    if (!payload.is_tensor) return Refused("expected a tensor's description, got none");
    if (payload.layout != kStrided) {
      return Refused("expected the layout of a dense tensor, ", kStrided, ", got ", payload.layout);
    }
    const auto type =
        std::find_if(kExportedTypes.begin(), kExportedTypes.end(),
                     [&payload](const ExportedType& t) { return t.number == payload.dtype; });
    if (type == kExportedTypes.end()) {
      return Refused("expected a known dtype, got number ", payload.dtype);
    }
    TensorDescriptor tensor;
    tensor.dtype = type->dtype;
    tensor.shape = payload.sizes;
    tensor.strides = payload.strides;
    tensor.offset = payload.storage_offset;
    if (absl::Status fits = CheckTensorBounds(tensor, entry.size_bytes); !fits.ok()) return fits;
    const auto next = static_cast<int32_t>(listing_.storages.size());
    const auto [storage, is_new] = raw_storages_.try_emplace(entry.name, next);
    if (is_new) {
      listing_.storages.push_back(
          {.member = entry.name, .file_offset = entry.data_offset, .size_bytes = entry.size_bytes});
      if (options_.verify_crc) crcs_.push_back(entry.crc32);
    }
    tensor.storage = storage->second;
    return tensor;
  }

  absl::StatusOr<TensorDescriptor> SavedWeight(const Payload& payload, const ZipEntry& entry) {
    // Many names for one record would each have it read again.
    if (!saved_records_.insert(entry.name).second) {
      return Refused("expected each saved tensor under one name, got '",
                     Printable(payload.path_name), "' again");
    }
    absl::StatusOr<SavedTensor> saved = ReadSavedTensor(
        {.file = file_, .offset = entry.data_offset, .size_bytes = entry.size_bytes}, options_);
    if (!saved.ok()) return InContext(Printable(entry.name), saved.status());
    const auto first = static_cast<int32_t>(listing_.storages.size());
    TensorDescriptor tensor = std::move(saved->tensor);
    if (tensor.storage == kNoStorage || tensor.quantizer.has_value()) {
      return Refused("expected a plain dense tensor, got one of another kind");
    }
    tensor.storage += first;
    for (StorageDescriptor& storage : saved->storages) {
      storage.member = absl::StrCat(entry.name, "/", storage.member);
      listing_.storages.push_back(std::move(storage));
    }
    crcs_.insert(crcs_.end(), saved->storage_crcs.begin(), saved->storage_crcs.end());
    return tensor;
  }

  // Constants of the graph are no part of the state_dict.
  absl::Status NoteConstants(const std::string& model) {
    const absl::StatusOr<std::vector<Payload>> constants =
        ReadConfig(absl::StrCat(std::string(kConstants), model, std::string(kConstantsConfig)));
    if (!constants.ok()) return constants.status();
    for (const Payload& payload : *constants) {
      if (listing_.metadata.size() == kMaxMetadataEntries) break;
      listing_.metadata.push_back(
          {absl::StrCat("constants.", Printable(payload.name)),
           payload.is_tensor
               ? absl::StrCat("tensor of shape [", absl::StrJoin(payload.sizes, ", "), "]")
               : "object"});
    }
    return absl::OkStatus();
  }

  const File& file_;
  const ZipArchive& archive_;
  const CheckpointOptions& options_;
  CheckpointListing listing_;
  std::vector<uint32_t> crcs_;
  std::map<std::string, int32_t> raw_storages_;
  std::set<std::string> saved_records_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenExportedProgram(File file,
                                                                const ZipArchive& archive,
                                                                const CheckpointOptions& options) {
  ProgramReader reader(file, archive, options);
  absl::StatusOr<CheckpointListing> listing = reader.Run();
  if (!listing.ok()) return listing.status();
  std::vector<File> files;
  files.push_back(std::move(file));
  return std::make_unique<StoredCheckpoint>("exported program", *std::move(listing),
                                            std::move(files), reader.TakeCrcs());
}

}  // namespace sconce
