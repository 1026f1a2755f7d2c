#include "server/device/nvidia/cuda_loader.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/device/accelerator.h"

namespace sconce {
namespace {

constexpr char kModuleName[] = "libsconce_cuda.so";
constexpr char kDriverName[] = "libcuda.so.1";

// Where this executable is, and so where the module is looked for first.
std::string ExecutableFolder() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path().string();
}

// CUDA's words for why there is no device, with what a person can change about it.
std::string ProbeError(const SconceCudaProbe& probe) {
  if (probe.error[0] == '\0') return probe.device_count > 0 ? "" : "no CUDA device is visible";
  std::string text =
      absl::StrCat("CUDA ", CudaVersionText(probe.runtime_version), " with a driver for CUDA ",
                   CudaVersionText(probe.driver_version), ": ", probe.error);
  if (probe.driver_version / 1000 < probe.runtime_version / 1000) {
    absl::StrAppend(&text, "; expected a driver for CUDA ", probe.runtime_version / 1000,
                    ".0 or newer");
  }
  return text;
}

absl::StatusOr<CudaModule> Load() {
  // The driver's library costs nothing to look for; ours brings more than a gigabyte of LibTorch.
  if (dlopen(kDriverName, RTLD_LAZY | RTLD_LOCAL) == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("no NVIDIA driver: ", kDriverName, " is not there"));
  }
  void* module = dlopen(kModuleName, RTLD_NOW | RTLD_GLOBAL);
  if (module == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("the CUDA half of the server cannot be loaded: ", dlerror()));
  }
  const auto function = [module](const char* name) { return dlsym(module, name); };
  const auto probe_cuda = reinterpret_cast<decltype(&SconceProbeCuda)>(function("SconceProbeCuda"));
  const auto accelerator =
      reinterpret_cast<decltype(&SconceCudaAccelerator)>(function("SconceCudaAccelerator"));
  CudaModule loaded;
  loaded.describe_device =
      reinterpret_cast<decltype(&SconceDescribeCudaDevice)>(function("SconceDescribeCudaDevice"));
  loaded.architectures =
      reinterpret_cast<decltype(&SconceCudaArchitectures)>(function("SconceCudaArchitectures"));
  if (probe_cuda == nullptr || accelerator == nullptr || loaded.describe_device == nullptr ||
      loaded.architectures == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(kModuleName, " is not of this server"));
  }
  SconceCudaProbe probe;
  probe_cuda(&probe);
  std::string error = ProbeError(probe);
  if (!error.empty()) {
    if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES"); visible != nullptr) {
      absl::StrAppend(&error, "; CUDA_VISIBLE_DEVICES is '", Printable(visible), "'");
    }
    return absl::FailedPreconditionError(error);
  }
  RegisterAccelerator(c10::DeviceType::CUDA, accelerator());
  loaded.device_count = probe.device_count;
  loaded.driver_version = probe.driver_version;
  loaded.runtime_version = probe.runtime_version;
  return loaded;
}

}  // namespace

const absl::StatusOr<CudaModule>& LoadCuda() {
  static const auto* const loaded = new absl::StatusOr<CudaModule>(Load());
  return *loaded;
}

std::string CudaVersionText(int version) {
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

std::string WhyCudaIsExpected() {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/dev", error)) {
    const std::string name = entry.path().filename().string();
    if (absl::StartsWith(name, "nvidia"))
      return absl::StrCat("/dev/", Printable(name), " is there");
  }
  if (dlopen(kDriverName, RTLD_LAZY | RTLD_LOCAL) != nullptr) {
    return absl::StrCat("the NVIDIA driver's ", kDriverName, " is there");
  }
  if (std::filesystem::exists(absl::StrCat(ExecutableFolder(), "/", kModuleName), error)) {
    return absl::StrCat("the CUDA half of the server, ", kModuleName, ", is installed");
  }
  return "";
}

}  // namespace sconce
