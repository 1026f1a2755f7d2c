// Architecture: a kind of network that can be told from the names and shapes of its weights and
// created from a few parameters. The catalog (catalog.h) lists them all.
//
// Immutable and thread-safe. Those of the catalog live as long as the process, those made from a
// file or a configuration (a program, a list of layers) as long as somebody holds them.
#ifndef SCONCE_MODELS_ARCHITECTURE_H_
#define SCONCE_MODELS_ARCHITECTURE_H_

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "models/net.h"

namespace sconce::models {

// A tensor of a checkpoint, as far as detection looks at it. Names are untrusted.
struct NamedShape {
  std::string name;
  c10::ScalarType dtype;
  std::vector<int64_t> shape;
};

using ParameterValue = std::variant<bool, int64_t, double, std::string, std::vector<int64_t>>;
using Parameters = std::map<std::string, ParameterValue>;

// A parameter that an architecture takes.
struct ParameterSpec {
  enum class Type { kBool, kInt, kDouble, kString, kInts };

  std::string name;
  Type type = Type::kInt;
  // None: only the weights or the configuration can tell.
  std::optional<ParameterValue> default_value = {};
  std::string meaning;
  // For kInt and each element of kInts.
  int64_t minimum = 1;
  // For kString: the values allowed; empty: any.
  std::vector<std::string> choices = {};
};

// What the weights tell about an architecture's parameters.
struct Inference {
  Parameters parameters;
  // What the weights cannot tell and had to be assumed, and how to say otherwise; often empty.
  std::string assumed = "";
  // What in the weights is otherwise than in this network, where that is known without building it;
  // empty: nothing.
  std::string contradiction = "";
};

class Architecture {
 public:
  virtual ~Architecture() = default;

  virtual absl::string_view name() const = 0;    // "resnet50"
  virtual absl::string_view family() const = 0;  // "resnet"
  virtual const std::vector<ParameterSpec>& parameters() const = 0;

  // Of a network that a file computes (a program): what names it by what is computed, whatever the
  // weights, 32 hexadecimal digits. "": name and parameters say everything.
  virtual std::string program_id() const { return ""; }

  // Reads from the names and shapes what they tell of the parameters. `configured` holds what the
  // operator has set; these values win. NotFound: this is not such a network, with the reason.
  // FailedPrecondition: it may well be, but something must be configured, with what.
  // That the rest of the names and shapes fit is not checked here. Names may be in any spelling
  // that NameOf knows.
  virtual absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                          const Parameters& configured) const = 0;

  // The name that the network has for a tensor that a checkpoint calls `saved`, where that is an
  // older spelling that the original library accepts too; "": the tensor is known, and this network
  // has no use for it (the original library ignores it). `saved` itself otherwise.
  virtual std::string NameOf(const std::string& saved) const { return saved; }

  // The network, without memory for its weights; parameters not given have their defaults.
  virtual absl::StatusOr<std::unique_ptr<Net>> Create(const Parameters& parameters) const = 0;
};

// "10", "[2, 2]", "\"relu\"".
std::string ToString(const ParameterValue& value);

// "resnet50(num_classes=10)".
std::string ToString(absl::string_view architecture, const Parameters& parameters);

// Reads parameters as a configuration gives them. InvalidArgument names the parameter, what was
// expected and what came.
absl::StatusOr<Parameters> ParseParameters(const Architecture& architecture,
                                           const std::map<std::string, std::string>& text);

// `parameters` with the defaults of those not given; InvalidArgument where one is unknown, of the
// wrong type or out of range, or where one without a default is missing.
absl::StatusOr<Parameters> CompleteParameters(const Architecture& architecture,
                                              const Parameters& parameters);

// REQUIRES: `parameters` come from CompleteParameters and `name` is of that type.
template <typename T>
const T& Get(const Parameters& parameters, const std::string& name) {
  return std::get<T>(parameters.at(name));
}

// An untrusted name in quotes, control characters escaped, cut to a sane length.
std::string Quoted(absl::string_view untrusted);

// "[10, 2048]".
std::string ShapeText(absl::Span<const int64_t> shape);

// Null where `state` has no such tensor.
const NamedShape* Find(absl::Span<const NamedShape> state, absl::string_view name);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_ARCHITECTURE_H_
