#include "server/rpc/load_overrides.h"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/base/printable.h"

namespace sconce {
namespace {

using inference::ModelRepositoryParameter;

constexpr char kConfig[] = "config";
constexpr std::string_view kFilePrefix = "file:";
constexpr size_t kMostFiles = 2;  // weights and a program

std::string Quoted(const std::string& parameter) {
  return absl::StrCat("parameter '", Printable(parameter), "'");
}

// The file's name, of a path within the model's folder.
absl::StatusOr<std::string> NameOfFile(const std::string& parameter) {
  const std::vector<std::string> parts = absl::StrSplit(parameter.substr(kFilePrefix.size()), '/');
  bool fine = parameter.find('\0') == parameter.npos;
  for (const std::string& part : parts) {
    fine = fine && !part.empty() && part != "." && part != ".." && part.size() <= 255;
  }
  if (!fine) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(parameter),
                     ": expected a path within the model's folder, such as "
                     "'file:model.safetensors' or 'file:1/model.pth'"));
  }
  return parts.back();
}

absl::Status TakeFile(const std::string& parameter, ModelRepositoryParameter* value,
                      int64_t max_file_bytes, LoadOverrides* overrides) {
  if (max_file_bytes <= 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(Quoted(parameter),
                     ": the server does not take weights from its clients; start it with "
                     "--inline-weights-max-bytes N to allow files of up to N bytes"));
  }
  const auto name = NameOfFile(parameter);
  if (!name.ok()) return name.status();
  if (value->parameter_choice_case() != ModelRepositoryParameter::kBytesParam) {
    return absl::InvalidArgumentError(absl::StrCat(
        Quoted(parameter), " expects the file's content as bytes, got something else"));
  }
  const size_t size = value->bytes_param().size();
  if (size == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(parameter), ": expected the file's content, got 0 bytes"));
  }
  if (size > static_cast<uint64_t>(max_file_bytes)) {
    return absl::ResourceExhaustedError(
        absl::StrCat(Quoted(parameter), ": expected at most ", max_file_bytes,
                     " bytes (--inline-weights-max-bytes), got ", size));
  }
  if (overrides->files.size() == kMostFiles && !overrides->files.contains(*name)) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected one weights file and perhaps one program, got '",
                     Printable(overrides->files.begin()->first), "' and '", Printable(*name),
                     "' among others; a sharded checkpoint can be made one file with sconce "
                     "convert"));
  }
  overrides->files[*name] = std::move(*value->mutable_bytes_param());
  return absl::OkStatus();
}

absl::Status TakeConfig(ModelRepositoryParameter* value, LoadOverrides* overrides) {
  if (value->parameter_choice_case() != ModelRepositoryParameter::kStringParam) {
    return absl::InvalidArgumentError(
        "parameter 'config' expects the configuration as a JSON string, got something else");
  }
  const size_t size = value->string_param().size();
  if (size == 0 || size > kMaxConfigBytes) {
    return absl::InvalidArgumentError(absl::StrCat("parameter 'config' expects JSON of 1 to ",
                                                   kMaxConfigBytes, " bytes, got ", size));
  }
  overrides->config_json = std::move(*value->mutable_string_param());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LoadOverrides> TakeLoadOverrides(inference::RepositoryModelLoadRequest* request,
                                                int64_t max_file_bytes) {
  LoadOverrides overrides;
  for (auto& [name, value] : *request->mutable_parameters()) {
    absl::Status status;
    if (name == kConfig) {
      status = TakeConfig(&value, &overrides);
    } else if (name.compare(0, kFilePrefix.size(), kFilePrefix) == 0) {
      status = TakeFile(name, &value, max_file_bytes, &overrides);
    } else {
      status = absl::UnimplementedError(absl::StrCat(
          Quoted(name), " is not supported, expected 'config' or 'file:' and a file's name"));
    }
    if (!status.ok()) return status;
  }
  return overrides;
}

}  // namespace sconce
