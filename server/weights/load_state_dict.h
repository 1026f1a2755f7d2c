// load_state_dict: PyTorch's rules and words for putting a state_dict into a network.
#ifndef SCONCE_SERVER_WEIGHTS_LOAD_STATE_DICT_H_
#define SCONCE_SERVER_WEIGHTS_LOAD_STATE_DICT_H_

#include <ATen/core/Tensor.h>
#include <c10/core/MemoryFormat.h>
#include <c10/core/ScalarType.h>

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/architecture.h"
#include "models/net.h"
#include "server/weights/state_dict.h"

namespace sconce {

// What a network's tensors are kept as. The default is what the architecture says.
struct WeightsForm {
  // Of tensors of floating-point numbers.
  std::optional<c10::ScalarType> floating = std::nullopt;
  // Tensors of 4 dimensions lie in memory with their second dimension last.
  bool channels_last = false;

  c10::ScalarType TypeOf(const at::Tensor& own) const {
    return c10::isFloatingType(own.scalar_type()) ? floating.value_or(own.scalar_type())
                                                  : own.scalar_type();
  }
  at::MemoryFormat FormatOf(const at::Tensor& own) const {
    return channels_last && own.dim() == 4 ? at::MemoryFormat::ChannelsLast
                                           : at::MemoryFormat::Contiguous;
  }
};

struct LoadOptions {
  // Whether missing and unexpected names are errors. Shapes that differ always are.
  bool strict = true;
  WeightsForm form = {};
  // Knows older names for the network's tensors (Architecture::NameOf); must outlive the call.
  // Null: names are taken as they are.
  const models::Architecture* architecture = nullptr;
};

// Names that did not meet; empty after a strict load that succeeded.
struct IncompatibleKeys {
  std::vector<std::string> missing;
  std::vector<std::string> unexpected;
};

// How a state_dict fits a network.
struct StateFit {
  IncompatibleKeys keys;
  // By index in the network's State(): the index in StateDict::tensors of what it is given; none
  // where it keeps what the architecture starts with, or 0 where that is a counter.
  std::vector<std::optional<size_t>> sources;
};

// Whether and how `state` fits, while `net` is left as it is. Looks at no value, so that `state`
// may be an outline (OutlineStateDict). InvalidArgument with PyTorch's text ("Error(s) in loading
// state_dict for ResNet:\n\t...").
absl::StatusOr<StateFit> FitStateDict(const models::Net& net, const StateDict& state,
                                      const LoadOptions& options = {});

// Gives every tensor of `net` its weights. Where dtype and layout are those that are wanted, the
// state's memory is taken over without a copy; else the values are cast as copy_ does, tied ones
// once. What is missing in a load that is not strict keeps the constants the architecture starts
// with (ones and zeros for batch norm), and zeros where PyTorch would have random values.
//
// Errors of FitStateDict; `net` is then as it was. ResourceExhausted or Internal where LibTorch
// fails.
absl::StatusOr<IncompatibleKeys> LoadStateDict(models::Net& net, const StateDict& state,
                                               const LoadOptions& options = {});

}  // namespace sconce

#endif  // SCONCE_SERVER_WEIGHTS_LOAD_STATE_DICT_H_
