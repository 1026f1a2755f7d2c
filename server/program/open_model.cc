#include "server/program/open_model.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/checkpoint/folder/known_names.h"
#include "server/program/choose_architecture.h"
#include "server/weights/state_dict.h"

namespace sconce {
namespace {

namespace fs = std::filesystem;

constexpr const char* kWeightsExtensions[] = {".pth", ".pt", ".bin", ".ckpt", ".safetensors"};

absl::Status About(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrCat(Printable(path), ": ", std::string(status.message())));
}

// Where in a folder the program is; empty: there is none.
std::string ProgramIn(const fs::path& folder) {
  std::error_code error;
  for (const std::string_view name : kProgramNames) {
    if (fs::exists(folder / name, error)) return (folder / name).string();
  }
  return "";
}

bool IsWeights(const fs::path& path) {
  return std::find(std::begin(kWeightsExtensions), std::end(kWeightsExtensions),
                   path.extension().string()) != std::end(kWeightsExtensions);
}

// Where the weights are that a program in `folder` is to have; its own where there are no others.
std::string WeightsBeside(const std::string& program, const std::string& folder) {
  std::string found;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    if (!IsWeights(entry->path()) || entry->path() == program) continue;
    // Which of several are meant is for OpenCheckpoint to say.
    if (!found.empty()) return folder;
    found = entry->path().string();
  }
  return found.empty() ? program : found;
}

}  // namespace

absl::StatusOr<OpenedModel> OpenModel(const std::string& path, const ModelOptions& options) {
  OpenedModel model;
  ArchitectureSources sources;
  std::error_code error;
  if (fs::is_directory(path, error)) sources.program_path = ProgramIn(path);
  auto checkpoint = OpenCheckpoint(
      sources.program_path.empty() ? path : WeightsBeside(sources.program_path, path),
      options.checkpoint);
  if (!checkpoint.ok()) return checkpoint.status();
  model.weights = *std::move(checkpoint);
  const auto layout = DescribeState(*model.weights);
  if (!layout.ok()) return layout.status();
  sources.weights_path = model.weights->files().empty() ? path : model.weights->files()[0].path;
  const fs::path config = fs::path(sources.weights_path).parent_path() / "config.json";
  if (fs::exists(config, error)) sources.hugging_face_path = config.string();
  sources.configured = options.configured;
  sources.program = options.program;
  auto chosen = ChooseArchitecture(layout->tensors, sources);
  if (!chosen.ok()) return chosen.status();
  model.detection = std::move(chosen->detection);
  return model;
}

absl::StatusOr<std::unique_ptr<models::Net>> LoadModel(const OpenedModel& model,
                                                       const LoadOptions& options) {
  auto net = model.NewNet();
  if (!net.ok()) return net;
  const auto state = ReadStateDict(*model.weights);
  if (!state.ok()) return state.status();
  LoadOptions with_names = options;
  with_names.architecture = model.detection.architecture.get();
  if (const auto loaded = LoadStateDict(**net, *state, with_names); !loaded.ok()) {
    return About(model.weights->path(), loaded.status());
  }
  try {
    (*net)->Eval(c10::Device(c10::DeviceType::CPU));
  } catch (const c10::Error& error) {
    return absl::InternalError(error.what_without_backtrace());
  }
  return net;
}

}  // namespace sconce
