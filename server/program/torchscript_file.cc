#include "server/program/torchscript_file.h"

#include <caffe2/serialize/inline_container.h>
#include <caffe2/serialize/read_adapter_interface.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/file.h"
#include "server/base/printable.h"
#include "server/checkpoint/archive/zip_archive.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/error_context.h"

namespace sconce {
namespace {

// What a storage's values cost to leave out is a page that is touched.
constexpr size_t kPageBytes = 4096;

// A stretch of the file.
struct Extent {
  int64_t begin;
  int64_t end;
};

// The file as PyTorch's reader sees it. The values of storages may be left out: what reads them
// gets memory that nobody has touched, which costs nothing however large it is.
class ArchiveBytes final : public caffe2::serialize::ReadAdapterInterface {
 public:
  // `left_out` is sorted.
  ArchiveBytes(std::shared_ptr<const File> file, std::vector<Extent> left_out)
      : file_(std::move(file)), left_out_(std::move(left_out)) {}

  size_t size() const override { return static_cast<size_t>(file_->size_bytes()); }

  size_t read(uint64_t position, void* buffer, size_t bytes, const char*) const override {
    const auto begin = static_cast<int64_t>(std::min<uint64_t>(position, size()));
    const int64_t end = begin + static_cast<int64_t>(std::min<uint64_t>(
                                    bytes, size() - static_cast<uint64_t>(begin)));
    const auto after =
        std::upper_bound(left_out_.begin(), left_out_.end(), begin,
                         [](int64_t at, const Extent& extent) { return at < extent.begin; });
    if (after != left_out_.begin() && end <= std::prev(after)->end && begin < end) {
      const auto size = static_cast<size_t>(end - begin);
      if (size < kPageBytes) std::memset(buffer, 0, size);
      return size;
    }
    const absl::Status read = file_->ReadAt(
        begin, absl::MakeSpan(static_cast<std::byte*>(buffer), static_cast<size_t>(end - begin)));
    if (!read.ok()) throw std::runtime_error(std::string(read.message()));
    return static_cast<size_t>(end - begin);
  }

 private:
  const std::shared_ptr<const File> file_;
  const std::vector<Extent> left_out_;
};

std::vector<Extent> StoragesOf(const ZipArchive& archive) {
  std::vector<Extent> extents;
  const std::string folder = absl::StrCat(archive.top_folder(), "/data/");
  for (const ZipEntry& entry : archive.entries()) {
    if (entry.compressed || !std::string_view(entry.name).starts_with(folder)) continue;
    extents.push_back({entry.data_offset, entry.data_offset + entry.size_bytes});
  }
  std::sort(extents.begin(), extents.end(),
            [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  return extents;
}

// Objects of these are made by machine code from what the archive says.
bool NamesNativeClass(std::string_view pickle) {
  for (const std::string_view name : {"torch.classes", "torch\nclasses"}) {
    if (pickle.find(name) != std::string_view::npos) return true;
  }
  return false;
}

// Whether PyTorch's reader would run something of the archive while it opens it.
absl::Status CheckRunsNothing(const std::shared_ptr<ArchiveBytes>& bytes, const ZipArchive& archive,
                              int64_t max_metadata_bytes) {
  caffe2::serialize::PyTorchStreamReader reader(bytes);
  const std::string top = absl::StrCat(archive.top_folder(), "/");
  int64_t left = max_metadata_bytes;
  for (const ZipEntry& entry : archive.entries()) {
    const std::string name = entry.name.substr(top.size());
    if (name.starts_with("data/") || name.starts_with("constants/")) continue;
    if (entry.size_bytes > left) {
      return Refused(Printable(entry.name), ": expected at most ", max_metadata_bytes,
                     " bytes of code and structure in all, got more");
    }
    left -= entry.size_bytes;
    const bool is_code = name.starts_with("code/");
    if (!is_code && name != "data.pkl" && name != "constants.pkl") continue;
    const auto [data, size] = reader.getRecord(name);
    const std::string_view text(static_cast<const char*>(data.get()), size);
    if (is_code && text.find("__setstate__") != std::string_view::npos) {
      return absl::UnimplementedError(
          absl::StrCat(Printable(entry.name),
                       ": a module has a __setstate__, which is run when the archive is opened; "
                       "that is not supported (quantised modules have it: export the model with "
                       "torch.export instead)"));
    }
    if (!is_code && NamesNativeClass(text)) {
      return absl::UnimplementedError(
          absl::StrCat(Printable(entry.name),
                       ": an object of a native class (torch.classes), as quantised modules keep "
                       "their weights in; that is not supported"));
    }
  }
  return absl::OkStatus();
}

// PyTorch's words without its backtrace.
absl::Status StatusOfLoad(const std::exception& error) {
  std::string text = error.what();
  const auto* own = dynamic_cast<const c10::Error*>(&error);
  if (own != nullptr) text = own->what_without_backtrace();
  text = text.substr(0, text.find("\nException raised from"));
  const std::string message = absl::StrCat("PyTorch cannot read it: ", Printable(text, 600));
  if (text.find("Unknown builtin op") != std::string::npos) {
    return absl::UnimplementedError(message);
  }
  return absl::InvalidArgumentError(message);
}

void Collect(const c10::intrusive_ptr<c10::ivalue::Object>& module, const std::string& name,
             std::vector<ScriptTensor>& tensors, std::vector<ScriptModule>& modules) {
  modules.push_back({name, module});
  const std::string prefix = name.empty() ? "" : name + ".";
  const c10::ClassTypePtr type = module->type();
  const auto collect = [&](auto&& wanted) {
    for (size_t i = 0; i < type->numAttributes(); ++i) {
      if (!module->getSlot(i).isTensor()) continue;
      ScriptTensor tensor{.name = prefix + type->getAttributeName(i),
                          .module = module,
                          .slot = i,
                          .is_parameter = type->is_parameter(i),
                          .is_buffer = type->is_buffer(i)};
      if (wanted(tensor)) tensors.push_back(std::move(tensor));
    }
  };
  collect([](const ScriptTensor& tensor) { return tensor.is_parameter; });
  collect([](const ScriptTensor& tensor) { return !tensor.is_parameter; });
  for (size_t i = 0; i < type->numAttributes(); ++i) {
    if (!type->getAttribute(i)->is_module()) continue;
    Collect(module->getSlot(i).toObject(), prefix + type->getAttributeName(i), tensors, modules);
  }
}

// Whether something in the module beside parameters and buffers holds a tensor.
bool KeepsTensors(const torch::jit::Module& module) {
  const ScriptContents contents = ContentsOf(module);
  for (const ScriptTensor& tensor : contents.tensors) {
    if (!tensor.is_parameter && !tensor.is_buffer) return true;
  }
  for (const ScriptModule& part : contents.modules) {
    const c10::ClassTypePtr type = part.object->type();
    for (size_t i = 0; i < type->numAttributes(); ++i) {
      if (type->getAttribute(i)->is_module() || type->is_parameter(i) || type->is_buffer(i)) {
        continue;
      }
      c10::IValue::HashAliasedIValues held;
      part.object->getSlot(i).getSubValues(held);
      for (const c10::IValue& value : held) {
        if (value.isTensor()) return true;
      }
    }
  }
  return false;
}

}  // namespace

ScriptContents ContentsOf(const torch::jit::Module& module) {
  ScriptContents contents;
  Collect(module._ivalue(), "", contents.tensors, contents.modules);
  return contents;
}

absl::StatusOr<torch::jit::Module> LoadScriptModule(const std::string& path,
                                                    int64_t max_metadata_bytes) {
  absl::StatusOr<File> opened = File::Open(path);
  if (!opened.ok()) return opened.status();
  const auto file = std::make_shared<const File>(*std::move(opened));
  const absl::StatusOr<ZipArchive> archive = ZipArchive::Open(*file, max_metadata_bytes);
  if (!archive.ok()) return archive.status();
  if (archive->Find("constants.pkl") == nullptr) {
    return Refused("expected a TorchScript archive, got one without constants.pkl");
  }
  try {
    const auto outline = std::make_shared<ArchiveBytes>(file, StoragesOf(*archive));
    absl::Status inert = CheckRunsNothing(outline, *archive, max_metadata_bytes);
    if (!inert.ok()) return inert;
    // What is wrong with the pickles is found, and said, by a reader that believes nothing.
    const auto checkpoint = OpenCheckpoint(path, {.max_metadata_bytes = max_metadata_bytes});
    if (!checkpoint.ok()) return checkpoint.status();
    if (!((*checkpoint)->files()[0].fingerprint == file->fingerprint())) {
      return absl::AbortedError("the file was replaced while it was read");
    }
    torch::jit::Module module = torch::jit::load(outline, c10::kCPU, /*load_debug_files=*/false);
    if (KeepsTensors(module)) {
      const auto whole = std::make_shared<ArchiveBytes>(file, std::vector<Extent>());
      module = torch::jit::load(whole, c10::kCPU, /*load_debug_files=*/false);
    }
    if (absl::Status same = file->CheckUnchanged(); !same.ok()) return same;
    return module;
  } catch (const std::exception& error) {
    if (absl::Status same = file->CheckUnchanged(); !same.ok()) return same;
    return StatusOfLoad(error);
  }
}

}  // namespace sconce
