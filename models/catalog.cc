#include "models/catalog.h"

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/families.h"
#include "models/renamed_architecture.h"

namespace sconce::models {
namespace {

std::vector<const Architecture*> MakeCatalog() {
  std::vector<const Architecture*> all = {Linear(), Mlp(), Digits()};
  for (const Family* family :
       {&Bert(),        &DistilBert(),   &Mpnet(),     &Roberta(),   &AlexNet(),      &ConvNext(),
        &DenseNet(),    &EfficientNet(), &GoogLeNet(), &Inception(), &MaxVit(),       &MnasNet(),
        &MobileNetV2(), &MobileNetV3(),  &RegNet(),    &ResNet(),    &ShuffleNetV2(), &SqueezeNet(),
        &Swin(),        &SwinV2(),       &Vgg(),       &Vit()}) {
    for (const Architecture* architecture : ArchitecturesOf(*family)) all.push_back(architecture);
  }
  return all;
}

std::shared_ptr<const Architecture> Unowned(const Architecture* architecture) {
  return {std::shared_ptr<void>(), architecture};
}

std::string ConfigLine(absl::string_view name, absl::string_view parameters = "") {
  return absl::StrCat("architecture { name: \"", name, "\"", parameters, " }");
}

// A list of which the first few are enough: a file can hold a million names.
class Listing {
 public:
  template <typename MakeText>
  void Add(MakeText make_text) {
    if (++count_ <= kShown) shown_.push_back(make_text());
  }

  size_t count() const { return count_; }

  // `what "a", "b", "c" and 3 more`; empty where the list is.
  std::string Text(absl::string_view what) const {
    if (count_ == 0) return "";
    std::string text = absl::StrCat(what, absl::StrJoin(shown_, ", "));
    if (count_ > kShown) absl::StrAppend(&text, " and ", count_ - kShown, " more");
    return text;
  }

 private:
  static constexpr size_t kShown = 3;

  size_t count_ = 0;
  std::vector<std::string> shown_;
};

// The likeness from which a network is worth naming.
constexpr double kNear = 0.5;

// How far a state is from a network.
struct Distance {
  const Architecture* architecture = nullptr;
  Parameters parameters;
  std::string assumed;
  size_t matching = 0;
  size_t in_network = 0;
  Listing missing;
  Listing unexpected;
  Listing different;

  bool fits() const { return missing.count() + unexpected.count() + different.count() == 0; }

  double likeness() const {
    return static_cast<double>(matching) / static_cast<double>(in_network + unexpected.count());
  }

  std::string Differences() const {
    std::vector<std::string> parts;
    for (std::string part : {missing.Text("not in the file: "),
                             unexpected.Text("not in the network: "), different.Text("")}) {
      if (!part.empty()) parts.push_back(std::move(part));
    }
    return absl::StrJoin(parts, "; ");
  }
};

// load_state_dict's own leniencies: batch norm's counter may be absent, and an old scalar may have
// been saved with one dimension.
bool MayBeAbsent(const NamedTensor& tensor) {
  return !tensor.is_parameter && absl::EndsWith(tensor.name, "num_batches_tracked");
}

bool ShapeFits(absl::Span<const int64_t> seen, at::IntArrayRef expected) {
  if (expected.empty() && seen.size() == 1 && seen[0] == 1) return true;
  return std::equal(seen.begin(), seen.end(), expected.begin(), expected.end());
}

// The tensors of `state` by the names that `architecture` has for them. Of two that it has one name
// for, the first; none that it has no use for.
class NamedByNetwork {
 public:
  NamedByNetwork(absl::Span<const NamedShape> state, const Architecture& architecture)
      : use_(state.size(), Use::kUnknown) {
    for (size_t i = 0; i < state.size(); ++i) {
      std::string name = architecture.NameOf(state[i].name);
      if (name.empty()) {
        use_[i] = Use::kNone;
      } else {
        index_.emplace(std::move(name), i);
      }
    }
  }

  // The index of the tensor of the network's `name`; nullopt where there is none.
  std::optional<size_t> Take(const std::string& name) {
    const auto it = index_.find(name);
    if (it == index_.end()) return std::nullopt;
    use_[it->second] = Use::kTaken;
    return it->second;
  }

  // That nothing has taken, though the network may have a use for it.
  bool IsUnexpected(size_t index) const { return use_[index] == Use::kUnknown; }

 private:
  enum class Use { kUnknown, kTaken, kNone };

  std::unordered_map<std::string, size_t> index_;
  std::vector<Use> use_;
};

Distance Compare(absl::Span<const NamedShape> state, const Architecture& architecture,
                 const Net& net) {
  Distance distance;
  NamedByNetwork by_name(state, architecture);
  for (const NamedTensor& expected : net.State()) {
    const std::optional<size_t> index = by_name.Take(expected.name);
    if (!index.has_value()) {
      if (MayBeAbsent(expected)) continue;
      ++distance.in_network;
      distance.missing.Add([&] { return Quoted(expected.name); });
      continue;
    }
    ++distance.in_network;
    const std::vector<int64_t>& shape = state[*index].shape;
    const at::IntArrayRef sizes = expected.tensor.sizes();
    if (ShapeFits(shape, sizes)) {
      ++distance.matching;
    } else {
      distance.different.Add([&] {
        return absl::StrCat(Quoted(expected.name), " is ", ShapeText(shape), ", expected ",
                            ShapeText({sizes.data(), sizes.size()}));
      });
    }
  }
  for (size_t i = 0; i < state.size(); ++i) {
    if (by_name.IsUnexpected(i)) distance.unexpected.Add([&] { return Quoted(state[i].name); });
  }
  return distance;
}

// Adds the distance to the network of these parameters, if there can be one.
void Measure(absl::Span<const NamedShape> state, const Architecture* architecture,
             Inference inference, std::vector<Distance>& distances) {
  absl::StatusOr<std::unique_ptr<Net>> net = architecture->Create(inference.parameters);
  if (!net.ok()) return;
  Distance distance = Compare(state, *architecture, **net);
  distance.architecture = architecture;
  distance.parameters = std::move(inference.parameters);
  distance.assumed = std::move(inference.assumed);
  distances.push_back(std::move(distance));
}

std::string Seen(absl::Span<const NamedShape> state) {
  std::vector<std::string> tensors;
  for (const NamedShape& tensor : state) {
    tensors.push_back(absl::StrCat(Quoted(tensor.name), " ", ShapeText(tensor.shape)));
    if (tensors.size() > 3) break;
  }
  if (state.size() > tensors.size()) tensors.push_back("...");
  return absl::StrCat(state.size(), state.size() == 1 ? " tensor (" : " tensors (",
                      absl::StrJoin(tensors, ", "), ")");
}

constexpr char kWhereListed[] = "`sconce architectures` lists those there are";

absl::StatusOr<Detection> TakeConfigured(absl::Span<const NamedShape> state,
                                         const Configured& configured,
                                         absl::Span<const Architecture* const> catalog) {
  const auto it = std::find_if(catalog.begin(), catalog.end(), [&](const Architecture* known) {
    return known->name() == configured.architecture;
  });
  if (it == catalog.end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "no architecture is called ", Quoted(configured.architecture), "; ", kWhereListed));
  }
  const Architecture& architecture = **it;
  absl::StatusOr<Parameters> given = ParseParameters(architecture, configured.parameters);
  if (!given.ok()) return given.status();
  absl::StatusOr<Inference> inference = architecture.Infer(state, *given);
  if (!inference.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("architecture ", architecture.name(), ", as configured, does not fit: seen ",
                     Seen(state), ": ", inference.status().message()));
  }
  Parameters parameters = std::move(inference->parameters);
  for (const auto& [name, value] : *given) parameters[name] = value;
  std::string why = absl::StrCat(ToString(architecture.name(), parameters), ", as configured");
  if (!inference->assumed.empty()) absl::StrAppend(&why, "; ", inference->assumed);
  return Detection{Unowned(&architecture), std::move(parameters), std::move(why)};
}

// What each architecture makes of a state. Building a network to compare with takes milliseconds,
// so as few as possible are built: of a family whose weights tell their sizes, one.
struct Survey {
  std::vector<Distance> distances;
  // What cannot fit, by what the weights tell. It may still be what comes nearest.
  std::vector<std::pair<const Architecture*, Inference>> cannot_fit;
  absl::Status needs_configuration;

  std::vector<const Distance*> Fitting() const {
    std::vector<const Distance*> fitting;
    for (const Distance& distance : distances) {
      if (distance.fits()) fitting.push_back(&distance);
    }
    return fitting;
  }

  // Of a state that nothing fits: distances, the nearest first.
  std::vector<Distance> ByLikeness(absl::Span<const NamedShape> state) && {
    constexpr size_t kMostBuilt = 4;
    const bool one_is_near =
        std::any_of(distances.begin(), distances.end(),
                    [](const Distance& distance) { return distance.likeness() >= kNear; });
    // First those that merely show no parameter, then one of each family that contradicts itself.
    std::stable_partition(cannot_fit.begin(), cannot_fit.end(), [](const auto& candidate) {
      return candidate.second.contradiction.empty();
    });
    absl::string_view family;
    for (auto& [architecture, inference] : cannot_fit) {
      if (one_is_near || distances.size() >= kMostBuilt) break;
      if (architecture->family() == family) continue;
      family = architecture->family();
      Measure(state, architecture, std::move(inference), distances);
    }
    std::stable_sort(distances.begin(), distances.end(), [](const Distance& a, const Distance& b) {
      return a.likeness() > b.likeness();
    });
    return std::move(distances);
  }
};

Survey Look(absl::Span<const NamedShape> state, absl::Span<const Architecture* const> catalog) {
  Survey survey;
  absl::string_view other_family;  // of which the weights are not
  for (const Architecture* architecture : catalog) {
    if (architecture->family() == other_family) continue;
    absl::StatusOr<Inference> inference = architecture->Infer(state, {});
    if (absl::IsNotFound(inference.status())) other_family = architecture->family();
    if (absl::IsFailedPrecondition(inference.status())) {
      survey.needs_configuration = absl::FailedPreconditionError(
          absl::StrCat("the weights look like ", architecture->name(), ": seen ", Seen(state),
                       ", but ", inference.status().message()));
    }
    if (!inference.ok()) continue;
    const bool nothing_told = inference->parameters.empty() && !architecture->parameters().empty();
    if (nothing_told || !inference->contradiction.empty()) {
      survey.cannot_fit.emplace_back(architecture, *std::move(inference));
    } else {
      Measure(state, architecture, *std::move(inference), survey.distances);
    }
  }
  return survey;
}

// `distances`: the nearest first.
absl::Status UnknownWeights(absl::Span<const NamedShape> state,
                            const std::vector<Distance>& distances) {
  constexpr double kAlmostAsNear = 0.8;  // of the nearest one's likeness
  std::vector<std::string> nearest;
  for (const Distance& distance : distances) {
    const double likeness = distance.likeness();
    if (likeness == 0 || likeness < kAlmostAsNear * distances[0].likeness()) break;
    if (nearest.size() == 2) break;
    nearest.push_back(absl::StrCat(ToString(distance.architecture->name(), distance.parameters),
                                   " (", distance.matching, " of ", distance.in_network,
                                   " tensors match; ", distance.Differences(), ")"));
  }
  std::string message = absl::StrCat("the weights fit no known architecture: seen ", Seen(state));
  if (nearest.empty()) {
    absl::StrAppend(&message, "; nothing comes near. To choose one, write into config.pbtxt: ",
                    ConfigLine("NAME"), "; ", kWhereListed);
  } else {
    absl::StrAppend(&message, "; nearest: ", absl::StrJoin(nearest, "; "),
                    ". To choose one, write into config.pbtxt: ",
                    ConfigLine(distances[0].architecture->name()));
  }
  return absl::FailedPreconditionError(message);
}

// What there is to say of a state, by the names it has.
struct Outcome {
  absl::StatusOr<Detection> detection = absl::UnknownError("");
  // Where the weights are of nothing known: what comes nearest, from kNear on.
  bool unknown = false;
  std::optional<Detection> nearest = std::nullopt;
};

Detection DetectionOf(const Distance& distance, std::string why) {
  return {Unowned(distance.architecture), distance.parameters, std::move(why)};
}

Outcome LookUp(absl::Span<const NamedShape> state, absl::Span<const Architecture* const> catalog) {
  Survey survey = Look(state, catalog);
  const std::vector<const Distance*> fitting = survey.Fitting();
  if (fitting.size() == 1) {
    const Distance& found = *fitting[0];
    std::string why = absl::StrCat(
        ToString(found.architecture->name(), found.parameters), ": the names and shapes of ",
        state.size() == 1 ? "its one tensor" : absl::StrCat("all ", state.size(), " tensors"),
        " fit");
    if (!found.assumed.empty()) absl::StrAppend(&why, "; ", found.assumed);
    return {DetectionOf(found, std::move(why))};
  }
  if (fitting.size() > 1) {
    std::vector<std::string> names, lines;
    for (const Distance* distance : fitting) {
      names.push_back(ToString(distance->architecture->name(), distance->parameters));
      lines.push_back(ConfigLine(distance->architecture->name()));
    }
    return {absl::FailedPreconditionError(
        absl::StrCat("the weights fit more than one architecture: seen ", Seen(state),
                     "; they fit ", absl::StrJoin(names, " and "),
                     ". Write into config.pbtxt which it is: ", absl::StrJoin(lines, " or ")))};
  }
  if (!survey.needs_configuration.ok()) return {std::move(survey.needs_configuration)};
  const std::vector<Distance> distances = std::move(survey).ByLikeness(state);
  Outcome outcome{UnknownWeights(state, distances), /*unknown=*/true};
  if (!distances.empty() && distances[0].likeness() >= kNear) {
    outcome.nearest = DetectionOf(
        distances[0],
        absl::StrCat(distances[0].matching, " of ", distances[0].in_network, " tensors match"));
  }
  return outcome;
}

Detection UnderPrefix(const std::string& prefix, Detection detection) {
  absl::StrAppend(&detection.why, "; all names begin with ", Quoted(prefix));
  detection.architecture = Renamed(std::move(detection.architecture), WithoutPrefix(prefix));
  return detection;
}

Outcome LookUpUnderPrefix(absl::Span<const NamedShape> state,
                          absl::Span<const Architecture* const> catalog) {
  Outcome as_named = LookUp(state, catalog);
  const std::string prefix = as_named.unknown ? SharedPrefix(state) : "";
  if (prefix.empty()) return as_named;
  Outcome bare = LookUp(Renamed(state, WithoutPrefix(prefix)), catalog);
  if (bare.unknown && (!bare.nearest.has_value() || as_named.nearest.has_value())) return as_named;
  if (bare.detection.ok()) *bare.detection = UnderPrefix(prefix, *std::move(bare.detection));
  if (bare.nearest.has_value()) *bare.nearest = UnderPrefix(prefix, *std::move(bare.nearest));
  return bare;
}

}  // namespace

absl::Span<const Architecture* const> Catalog() {
  static const auto* const catalog = new std::vector<const Architecture*>(MakeCatalog());
  return *catalog;
}

absl::StatusOr<Detection> Detect(absl::Span<const NamedShape> state, const Configured& configured,
                                 absl::Span<const Architecture* const> catalog) {
  if (!configured.architecture.empty()) {
    auto as_named = TakeConfigured(state, configured, catalog);
    const bool differs = absl::IsFailedPrecondition(as_named.status());
    const std::string prefix = differs ? SharedPrefix(state) : "";
    if (prefix.empty()) return as_named;
    auto bare = TakeConfigured(Renamed(state, WithoutPrefix(prefix)), configured, catalog);
    if (!bare.ok()) return as_named;
    return UnderPrefix(prefix, *std::move(bare));
  }
  if (!configured.parameters.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the configuration sets the architecture's parameter ",
        Quoted(configured.parameters.begin()->first),
        " but not its name: write architecture { name: \"NAME\" ... }; ", kWhereListed));
  }
  if (state.empty()) return absl::FailedPreconditionError("the weights hold no tensors");
  return LookUpUnderPrefix(state, catalog).detection;
}

std::optional<Detection> Nearest(absl::Span<const NamedShape> state,
                                 absl::Span<const Architecture* const> catalog) {
  return LookUpUnderPrefix(state, catalog).nearest;
}

}  // namespace sconce::models
