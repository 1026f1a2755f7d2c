#include "server/program/plugin.h"

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "models/net.h"
#include "models/plugin.h"
#include "server/base/content_hash.h"
#include "server/base/file.h"
#include "server/base/mutex.h"
#include "server/base/printable.h"
#include "server/program/native_library.h"

namespace sconce {
namespace {

using models::Architecture;
using models::PluginHeader;

constexpr int64_t kMostBytes = int64_t{1} << 31;

// Runs `body`, code of a plugin; what it throws is a status that says whose it is.
template <typename Body>
auto Contained(const std::string& plugin, Body body) -> decltype(body()) {
  try {
    return body();
  } catch (const c10::Error& error) {
    return absl::InternalError(
        absl::StrCat(plugin, ": threw: ", std::string(error.what_without_backtrace())));
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat(plugin, ": threw: ", error.what()));
  } catch (...) {
    return absl::InternalError(absl::StrCat(plugin, ": threw something that is no exception"));
  }
}

// An architecture of a plugin, with what is asked of it only once already asked.
class PluginArchitecture final : public models::Architecture {
 public:
  PluginArchitecture(std::string plugin, std::string id, const Architecture& of_plugin)
      : plugin_(std::move(plugin)),
        id_(std::move(id)),
        of_plugin_(of_plugin),
        name_(of_plugin.name()),
        family_(of_plugin.family()),
        parameters_(of_plugin.parameters()) {}

  absl::string_view name() const override { return name_; }
  absl::string_view family() const override { return family_; }
  std::string program_id() const override { return id_; }
  const std::vector<models::ParameterSpec>& parameters() const override { return parameters_; }

  absl::StatusOr<models::Inference> Infer(absl::Span<const models::NamedShape> state,
                                          const models::Parameters& configured) const override {
    return Contained(plugin_, [&] { return of_plugin_.Infer(state, configured); });
  }
  std::string NameOf(const std::string& saved) const override {
    const auto name = Contained(
        plugin_, [&]() -> absl::StatusOr<std::string> { return of_plugin_.NameOf(saved); });
    return name.ok() ? *name : saved;
  }
  absl::StatusOr<std::unique_ptr<models::Net>> Create(
      const models::Parameters& parameters) const override {
    auto net = Contained(plugin_, [&] { return of_plugin_.Create(parameters); });
    if (net.ok() && *net == nullptr) {
      return absl::InternalError(
          absl::StrCat(plugin_, ": ", name_, ": expected a network, got none"));
    }
    return net;
  }

 private:
  const std::string plugin_;
  const std::string id_;
  const Architecture& of_plugin_;
  const std::string name_;
  const std::string family_;
  const std::vector<models::ParameterSpec> parameters_;
};

std::string OrNone(const char* text) {
  return text == nullptr ? "nothing" : Printable(std::string(text).substr(0, 200));
}

absl::Status CheckHeader(const PluginHeader* header, const std::string& path) {
  if (header == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", models::kPluginSymbol, "() gave nothing"));
  }
  const auto other = [&path](const char* what, const std::string& expected,
                             const std::string& got) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, ": was built for another server: expected ", what, " ", expected, ", got ", got,
        "; build it again with the package Sconce that this server was installed with"));
  };
  if (header->interface_version != models::kPluginInterface) {
    return other("plugin interface", absl::StrCat(models::kPluginInterface),
                 absl::StrCat(header->interface_version));
  }
  if (OrNone(header->torch_version) != TORCH_VERSION) {
    return other("LibTorch", TORCH_VERSION, OrNone(header->torch_version));
  }
  if (OrNone(header->abi) != models::kPluginAbi) {
    return other("a compiler with", models::kPluginAbi, OrNone(header->abi));
  }
  return absl::OkStatus();
}

using Architectures = std::vector<std::shared_ptr<const Architecture>>;

// None of what is loaded is ever unloaded.
absl::StatusOr<void*> Load(const std::string& path, const SealedCopy& copy) {
  void* const library = ::dlopen(copy.path().c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const reason = ::dlerror();
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": cannot be loaded: ", Printable(reason, 1000)));
  }
  return library;
}

absl::StatusOr<Architectures> Offers(const std::string& path, const std::string& id,
                                     void* library) {
  const auto function =
      reinterpret_cast<models::PluginFunction>(::dlsym(library, models::kPluginSymbol));
  if (function == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is no plugin: it has no function ", models::kPluginSymbol,
                     "(), which SCONCE_PLUGIN of models/plugin.h defines"));
  }
  return Contained(path, [&]() -> absl::StatusOr<Architectures> {
    const PluginHeader* const header = function();
    if (absl::Status fits = CheckHeader(header, path); !fits.ok()) return fits;
    Architectures found;
    for (const Architecture* const architecture : header->architectures()) {
      found.push_back(std::make_shared<PluginArchitecture>(path, id, *architecture));
    }
    if (found.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": offers no architecture"));
    }
    return found;
  });
}

}  // namespace

absl::StatusOr<Architectures> OpenPlugin(const std::string& path, const ProgramOptions& options) {
  const std::string shown = Printable(path);
  if (!options.allow_native_code) return NativeCodeNotAllowed(absl::StrCat(shown, ": a plugin"));
  const absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  if (file->size_bytes() > kMostBytes) {
    return absl::InvalidArgumentError(absl::StrCat(shown, ": expected a plugin of at most ",
                                                   kMostBytes, " bytes, got ", file->size_bytes()));
  }
  std::vector<std::byte> bytes(static_cast<size_t>(file->size_bytes()));
  if (absl::Status read = file->ReadAt(0, absl::MakeSpan(bytes)); !read.ok()) return read;
  if (absl::Status same = file->CheckUnchanged(); !same.ok()) return same;

  static Mutex mutex;
  static auto* const loaded = new std::map<std::string, absl::StatusOr<Architectures>>();
  MutexLock lock(&mutex);
  ContentHasher hasher;
  hasher.Update(bytes);
  const std::string id = hasher.Finish().Hex();
  auto known = loaded->find(id);
  if (known == loaded->end()) {
    const auto copy = SealedCopy::Of(bytes);
    if (!copy.ok()) return copy.status();
    const absl::StatusOr<void*> library = Load(shown, **copy);
    if (!library.ok()) return library.status();
    known = loaded->emplace(id, Offers(shown, id, *library)).first;
  }
  return known->second;
}

}  // namespace sconce
