// Family: one kind of network with everything that may differ in it as parameters (depth, width,
// groups, ...), and the choices of them that have a name: "resnet" and its "resnet50".
//
// Immutable and thread-safe; lives as long as the process.
#ifndef SCONCE_MODELS_FAMILY_H_
#define SCONCE_MODELS_FAMILY_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "models/architecture.h"
#include "models/net.h"

namespace sconce::models {

// A choice of parameters that has a name. What it leaves open (the number of classes, the size of
// an image) is a parameter of the catalog's entry.
struct Variant {
  std::string name;  // "resnet50"
  Parameters fixed;
};

class Family {
 public:
  virtual ~Family() = default;

  virtual absl::string_view name() const = 0;  // "resnet"
  // All there are. None of those that a variant fixes may be without a default.
  virtual const std::vector<ParameterSpec>& parameters() const = 0;
  virtual const std::vector<Variant>& variants() const = 0;

  // As Architecture::Infer. What of the parameters the weights tell is to be inferred whole, so
  // that variants are told apart by it; `configured` holds what the operator or a variant has set.
  // NotFound quickly where the weights are of something else, whatever is configured: it is asked
  // of every checkpoint.
  virtual absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                          const Parameters& configured) const = 0;

  // As Architecture::NameOf.
  virtual std::string NameOf(const std::string& saved) const { return saved; }

  // The network, without memory for its weights. REQUIRES: `parameters` come from
  // CompleteParameters. InvalidArgument where they do not go together.
  virtual absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& parameters) const = 0;
};

// What the catalog lists of a family: each variant, and then the family by its own name, for
// networks that are none of its variants. A variant fits where everything that the weights tell is
// what it fixes.
std::vector<const Architecture*> ArchitecturesOf(const Family& family);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_FAMILY_H_
