#include "server/program/open_model.h"

#include <c10/util/Exception.h>

#include <utility>

#include "absl/status/status.h"
#include "server/base/about_file.h"
#include "server/program/choose_architecture.h"
#include "server/weights/state_dict.h"

namespace sconce {

absl::StatusOr<OpenedModel> OpenModel(const std::string& path, const ModelOptions& options) {
  OpenedModel model;
  auto checkpoint = OpenCheckpoint(path, options.checkpoint);
  if (!checkpoint.ok()) return checkpoint.status();
  model.weights = *std::move(checkpoint);
  const auto layout = DescribeState(*model.weights);
  if (!layout.ok()) return layout.status();
  ArchitectureSources sources = SourcesBeside(*model.weights);
  sources.configured = options.configured;
  sources.program = options.program;
  auto detection = ChooseArchitecture(layout->tensors, sources);
  if (!detection.ok()) return detection.status();
  model.detection = *std::move(detection);
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
    return AboutFile(model.weights->path(), loaded.status());
  }
  try {
    (*net)->Eval(c10::Device(c10::DeviceType::CPU));
  } catch (const c10::Error& error) {
    return absl::InternalError(error.what_without_backtrace());
  }
  return net;
}

}  // namespace sconce
