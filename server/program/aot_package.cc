#include "server/program/aot_package.h"

#include <ATen/DynamicLibrary.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <torch/csrc/inductor/aoti_runner/model_container_runner_cpu.h>
#include <torch/csrc/inductor/aoti_runtime/constant_type.h>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/base/content_hash.h"
#include "server/base/file.h"
#include "server/base/printable.h"
#include "server/checkpoint/archive/zip_archive.h"
#include "server/checkpoint/archive/zip_record.h"
#include "server/program/elf_needed.h"
#include "server/program/native_library.h"

namespace sconce {
namespace {

using torch::aot_inductor::ConstantType;

constexpr int64_t kMaxDirectoryBytes = int64_t{64} << 20;
constexpr int64_t kMaxCodeBytes = int64_t{8} << 30;
constexpr int64_t kMaxMetadataBytes = int64_t{1} << 20;
// Of one network: as many may be run at the same time, more wait for one another. Each is little
// more than a list of pointers.
constexpr size_t kRunners = 4;

// A tensor that the code reads from memory that others may own.
struct Constant {
  std::string internal_name;
  std::string name;  // as the state_dict has it
  c10::ScalarType dtype;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
  bool is_parameter;
};

void Check(AOTIRuntimeError error, const char* what) {
  TORCH_CHECK(error == AOTI_RUNTIME_SUCCESS, "the AOTInductor package: ", what, " failed");
}

// LibTorch's runner, and what it knows and does not say.
class Runner final : public torch::inductor::AOTIModelContainerRunnerCpu {
 public:
  explicit Runner(const std::string& path) : AOTIModelContainerRunnerCpu(path, kRunners) {}

  size_t NumInputs() {
    size_t count = 0;
    const auto get = reinterpret_cast<decltype(&AOTInductorModelContainerGetNumInputs)>(
        model_so_->sym("AOTInductorModelContainerGetNumInputs"));
    Check(get(container_handle_, &count), "counting the inputs");
    return count;
  }

  size_t NumOutputs() {
    size_t count = 0;
    Check(get_num_outputs_func_(container_handle_, &count), "counting the outputs");
    return count;
  }

  // By internal name.
  std::unordered_map<std::string, ConstantType> ConstantTypes() {
    const auto get = reinterpret_cast<decltype(&AOTInductorModelContainerGetConstantType)>(
        model_so_->sym("AOTInductorModelContainerGetConstantType"));
    size_t count = 0;
    Check(get_num_constants_func_(container_handle_, &count), "counting the constants");
    std::unordered_map<std::string, ConstantType> types;
    for (size_t i = 0; i < count; ++i) {
      const char* name = nullptr;
      Check(get_constant_name_func_(container_handle_, i, &name), "naming a constant");
      int32_t type = 0;
      Check(get(container_handle_, i, &type), "telling a constant's type");
      types.emplace(name, static_cast<ConstantType>(type));
    }
    return types;
  }
};

// The code of a package, in memory of its own.
struct Code {
  std::string id;
  std::unique_ptr<SealedCopy> library;
  std::vector<Constant> constants;
  // Whether it has constants that nobody else may own: they lie with those that came with it.
  bool has_own = false;
  models::Signature signature;
};

class AotNet final : public models::Net {
 public:
  explicit AotNet(std::shared_ptr<const Code> code)
      : code_(std::move(code)), signature_(code_->signature) {
    std::unordered_set<std::string> modules = {""};
    module_names_.push_back("");
    for (const Constant& constant : code_->constants) {
      // One element, seen everywhere.
      const at::Tensor outline = at::zeros({}, constant.dtype).expand(constant.shape);
      state_.push_back({constant.name, outline, constant.is_parameter});
      for (size_t dot = constant.name.find('.'); dot != std::string::npos;
           dot = constant.name.find('.', dot + 1)) {
        std::string module = constant.name.substr(0, dot);
        if (modules.insert(module).second) module_names_.push_back(std::move(module));
      }
    }
  }

  const std::string& class_name() const override {
    static const auto* const name = new std::string("AOTInductorModel");
    return *name;
  }
  const models::Signature& signature() const override { return signature_; }
  std::vector<models::NamedTensor> State() const override { return state_; }
  std::vector<std::string> ModuleNames() const override { return module_names_; }

  void Assign(size_t index, const at::Tensor& tensor) override {
    models::NamedTensor& mine = state_.at(index);
    const Constant& constant = code_->constants.at(index);
    TORCH_CHECK(tensor.sizes() == mine.tensor.sizes(), mine.name, ": expected the shape ",
                mine.tensor.sizes(), ", got ", tensor.sizes());
    TORCH_CHECK(tensor.scalar_type() == constant.dtype, mine.name, ": was compiled for ",
                constant.dtype, " and cannot be run as ", tensor.scalar_type());
    TORCH_CHECK(tensor.strides() == at::IntArrayRef(constant.strides), mine.name,
                ": was compiled for a tensor that lies in memory in another order");
    mine.tensor = tensor;
  }

  void Eval(c10::Device device) override {
    TORCH_CHECK(device.is_cpu(),
                "the AOTInductor package was compiled for the CPU and cannot run on ", device,
                "; instance_group [{ kind: KIND_CPU }] in config.pbtxt has it there");
    runner_ = std::make_unique<Runner>(code_->library->path());
    std::unordered_map<std::string, at::Tensor> tensors;
    for (size_t i = 0; i < state_.size(); ++i) {
      tensors.emplace(code_->constants[i].internal_name, state_[i].tensor);
    }
    if (!tensors.empty()) {
      // The memory is the state's: nothing is copied, and what is written there is what is read.
      runner_->update_constant_buffer(tensors, /*use_inactive=*/true,
                                      /*validate_full_updates=*/true, /*user_managed=*/true);
      // Nobody runs yet, so that nobody is waited for.
      runner_->swap_constant_buffer();
      if (!code_->has_own) runner_->free_inactive_constant_buffer();
    }
    code_.reset();
  }

  std::vector<at::Tensor> Forward(const std::vector<at::Tensor>& inputs) const override {
    std::vector<at::Tensor> checked;
    TORCH_CHECK(inputs.size() == signature_.inputs.size(), "expected ", signature_.inputs.size(),
                " inputs, got ", inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) {
      CheckInput(signature_.inputs[i], inputs[i]);
      checked.push_back(inputs[i].contiguous());
    }
    const auto rows = inputs.empty() || inputs[0].dim() == 0 ? 0 : inputs[0].size(0);
    try {
      return runner_->boxed_run(std::move(checked));
    } catch (const std::exception&) {
      // It writes its reason to standard error, and throws where in LibTorch that was noticed.
      TORCH_CHECK(false, "the machine code did not run with a batch of ", rows,
                  " rows, for which it may not have been compiled; what it says is on the server's "
                  "standard error");
    }
  }

 private:
  // The code believes whatever it is given, and reads out of bounds.
  void CheckInput(const models::TensorSpec& spec, const at::Tensor& input) const {
    const int64_t batch = signature_.rows.batched ? 1 : 0;
    bool fits = input.device().is_cpu() && input.scalar_type() == spec.dtype &&
                input.dim() == static_cast<int64_t>(spec.dims.size()) + batch;
    for (size_t i = 0; fits && i < spec.dims.size(); ++i) {
      fits = spec.dims[i] < 0 || input.size(static_cast<int64_t>(i) + batch) == spec.dims[i];
    }
    TORCH_CHECK(fits, "input ", spec.name, ": expected ", spec.dtype, " ",
                batch == 1 ? "rows of " : "", at::IntArrayRef(spec.dims), ", got ",
                input.scalar_type(), " ", input.sizes());
  }

  std::shared_ptr<const Code> code_;  // until Eval
  const models::Signature signature_;
  std::vector<models::NamedTensor> state_;
  std::vector<std::string> module_names_;
  std::unique_ptr<Runner> runner_;
};

class AotArchitecture final : public models::Architecture {
 public:
  explicit AotArchitecture(std::shared_ptr<const Code> code) : code_(std::move(code)) {
    for (const Constant& constant : code_->constants) names_.insert(constant.name);
  }

  absl::string_view name() const override { return "aotinductor"; }
  absl::string_view family() const override { return "aotinductor"; }
  std::string program_id() const override { return code_->id; }
  const std::vector<models::ParameterSpec>& parameters() const override {
    static const auto* const none = new std::vector<models::ParameterSpec>();
    return *none;
  }
  absl::StatusOr<models::Inference> Infer(absl::Span<const models::NamedShape>,
                                          const models::Parameters&) const override {
    return models::Inference();
  }
  // Batch norm's counter is of no use to an evaluation, so that the compiler leaves it out.
  std::string NameOf(const std::string& saved) const override {
    return absl::EndsWith(saved, "num_batches_tracked") && !names_.contains(saved) ? "" : saved;
  }
  absl::StatusOr<std::unique_ptr<models::Net>> Create(const models::Parameters&) const override {
    return std::make_unique<AotNet>(code_);
  }

 private:
  const std::shared_ptr<const Code> code_;
  std::unordered_set<std::string> names_;
};

// The members of a package's one model.
struct Members {
  const ZipEntry* code = nullptr;
  const ZipEntry* metadata = nullptr;
};

absl::StatusOr<Members> FindMembers(const ZipArchive& archive) {
  Members found;
  const std::string folder = absl::StrCat(archive.top_folder(), "/data/aotinductor/");
  for (const ZipEntry& entry : archive.entries()) {
    if (!absl::StartsWith(entry.name, folder)) continue;
    if (absl::EndsWith(entry.name, ".so")) {
      if (found.code != nullptr) {
        return absl::UnimplementedError(absl::StrCat("expected one model, got '",
                                                     Printable(found.code->name), "' and '",
                                                     Printable(entry.name), "'"));
      }
      found.code = &entry;
    } else if (absl::EndsWith(entry.name, ".wrapper_metadata.json")) {
      found.metadata = &entry;
    } else if (!absl::EndsWith(entry.name, ".cpp") &&
               !absl::EndsWith(entry.name, "_metadata.json")) {
      // Operators that are called by name, weights beside the code, code for a GPU.
      return absl::UnimplementedError(
          absl::StrCat("its code needs '", Printable(entry.name),
                       "' beside it, which is not supported; expected code alone"));
    }
  }
  if (found.code == nullptr || found.metadata == nullptr) {
    return absl::InvalidArgumentError(
        "expected machine code and its metadata, which are not there");
  }
  return found;
}

std::unordered_set<std::string> ProcessorFlags() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!absl::StartsWith(line, "flags")) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    std::unordered_set<std::string> flags;
    for (std::string word; words >> word;) flags.insert(word);
    return flags;
  }
  return {};
}

// Whether what the code was compiled for is here.
absl::Status CheckProcessor(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  const auto get = [&json](const char* name) -> std::string {
    const auto it = json.find(name);
    return it != json.end() && it->is_string() ? it->get<std::string>() : "";
  };
  if (!json.is_object()) return absl::InvalidArgumentError("its metadata are no JSON object");
  if (get("AOTI_DEVICE_KEY") != "cpu") {
    return absl::UnimplementedError(absl::StrCat("it was compiled for '",
                                                 Printable(get("AOTI_DEVICE_KEY")),
                                                 "'; only packages for the CPU are supported"));
  }
#if defined(__x86_64__)
  constexpr char kMachine[] = "x86_64";
#else
  constexpr char kMachine[] = "another machine than any package is for";
#endif
  if (get("AOTI_PLATFORM") != "linux" || get("AOTI_MACHINE") != kMachine) {
    return absl::FailedPreconditionError(
        absl::StrCat("it was compiled for ", Printable(get("AOTI_PLATFORM")), " on ",
                     Printable(get("AOTI_MACHINE")), ", this is linux on ", kMachine));
  }
  const std::unordered_set<std::string> flags = ProcessorFlags();
  std::istringstream wanted(absl::AsciiStrToLower(get("AOTI_CPU_ISA")));
  for (std::string one; wanted >> one;) {
    if (flags.contains(one == "avx512" ? "avx512f" : one)) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("it was compiled for processors with ", Printable(get("AOTI_CPU_ISA")),
                     ", and this one has no ", Printable(one), "; compile it on such a machine"));
  }
  return absl::OkStatus();
}

struct Copied {
  std::unique_ptr<SealedCopy> library;
  std::string id;
};

absl::StatusOr<Copied> CopyCode(const std::string& path) {
  const absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  const absl::StatusOr<ZipArchive> archive = ZipArchive::Open(*file, kMaxDirectoryBytes);
  if (!archive.ok()) return archive.status();
  const absl::StatusOr<Members> members = FindMembers(*archive);
  if (!members.ok()) return members.status();
  const auto metadata = ReadZipRecord(*file, *members->metadata, kMaxMetadataBytes, true);
  if (!metadata.ok()) return metadata.status();
  if (absl::Status fits = CheckProcessor(*metadata); !fits.ok()) return fits;
  auto code = ReadZipRecord(*file, *members->code, kMaxCodeBytes, true);
  if (!code.ok()) return code.status();
  if (absl::Status same = file->CheckUnchanged(); !same.ok()) return same;
  const absl::Span<std::byte> bytes(reinterpret_cast<std::byte*>(code->data()), code->size());
  ContentHasher hasher;
  hasher.Update(bytes);
  // libtorch.so is nothing but libtorch_cpu.so and the half for CUDA, which a CPU does not need and
  // often does not have.
  if (absl::Status own = ReplaceNeeded(bytes, "libtorch.so", "libtorch_cpu.so"); !own.ok()) {
    return own;
  }
  auto library = SealedCopy::Of(bytes);
  if (!library.ok()) return library.status();
  return Copied{*std::move(library), hasher.Finish().Hex()};
}

absl::StatusOr<std::shared_ptr<const Code>> Describe(Copied copied,
                                                     const models::Signature& declared) {
  auto code = std::make_shared<Code>();
  Runner runner(copied.library->path());
  code->library = std::move(copied.library);
  code->id = std::move(copied.id);
  if (declared.inputs.empty() || declared.outputs.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "a package does not say what it takes and gives; config.pbtxt has to, with an input for "
        "each of its ",
        runner.NumInputs(), " inputs and an output for each of its ", runner.NumOutputs(),
        " outputs"));
  }
  if (declared.inputs.size() != runner.NumInputs() ||
      declared.outputs.size() != runner.NumOutputs()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the configuration declares ", declared.inputs.size(), " inputs and ",
                     declared.outputs.size(), " outputs, the package has ", runner.NumInputs(),
                     " and ", runner.NumOutputs()));
  }
  code->signature = declared;
  const auto types = runner.ConstantTypes();
  const auto names = runner.getConstantNamesToOriginalFQNs();
  const auto tensors = runner.extract_constants_map(/*use_inactive=*/false);
  for (const auto& [internal_name, name] : names) {
    const ConstantType type = types.at(internal_name);
    if (type == ConstantType::FoldedConstant) {
      return absl::UnimplementedError(
          "it computes constants from its weights before it runs, which is not supported; compile "
          "it without aot_inductor.use_runtime_constant_folding");
    }
    if (type == ConstantType::TensorConstant) {
      code->has_own = true;
      continue;
    }
    auto tensor = tensors.find(name);
    if (tensor == tensors.end()) tensor = tensors.find(internal_name);
    if (tensor == tensors.end() || !tensor->second.defined()) {
      return absl::UnimplementedError(
          absl::StrCat("its code comes without '", Printable(name),
                       "'; compile it without aot_inductor.package_constants_in_so=False"));
    }
    code->constants.push_back({internal_name, name, tensor->second.scalar_type(),
                               tensor->second.sizes().vec(), tensor->second.strides().vec(),
                               type != ConstantType::Buffer});
  }
  std::sort(code->constants.begin(), code->constants.end(),
            [](const Constant& a, const Constant& b) { return a.name < b.name; });
  return code;
}

absl::StatusOr<std::shared_ptr<const Code>> Open(const std::string& path,
                                                 const ProgramOptions& options) {
  auto copied = CopyCode(path);
  if (!copied.ok()) return copied.status();
  try {
    return Describe(*std::move(copied), options.declared);
  } catch (const c10::Error& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot be loaded: ", std::string(error.what_without_backtrace())));
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("cannot be loaded: ", error.what()));
  }
}

}  // namespace

absl::StatusOr<std::shared_ptr<const models::Architecture>> OpenAotPackage(
    const std::string& path, const ProgramOptions& options) {
  const std::string shown = Printable(path);
  if (!options.allow_native_code) {
    return NativeCodeNotAllowed(absl::StrCat(shown, ": an AOTInductor package"));
  }
  auto code = Open(path, options);
  if (!code.ok()) {
    return absl::Status(code.status().code(),
                        absl::StrCat(shown, ": ", std::string(code.status().message())));
  }
  return std::make_shared<AotArchitecture>(*std::move(code));
}

}  // namespace sconce
