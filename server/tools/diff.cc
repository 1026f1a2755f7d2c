#include "server/tools/diff.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/base/printable.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/tied_tensors.h"
#include "server/tools/arithmetic.h"
#include "server/tools/named_tensors.h"
#include "server/tools/progress.h"
#include "server/tools/tensor_parts.h"
#include "server/tools/text.h"

namespace sconce::tools {
namespace {

using Json = nlohmann::ordered_json;

enum class Change { kAdded, kRemoved, kReshaped, kRetyped, kChanged };

const char* ChangeName(Change change) {
  switch (change) {
    case Change::kAdded:
      return "added";
    case Change::kRemoved:
      return "removed";
    case Change::kReshaped:
      return "reshaped";
    case Change::kRetyped:
      return "dtype changed";
    case Change::kChanged:
      return "changed";
  }
  return "";
}

struct Difference {
  Change change = Change::kChanged;
  std::string name;
  const TensorDescriptor* before = nullptr;  // null where added
  const TensorDescriptor* after = nullptr;   // null where removed
  // ||new - old|| / ||old||, where both have values that can be compared.
  std::optional<double> relative;
};

struct Comparison {
  std::vector<Difference> differences;
  int64_t same = 0;
  int64_t transfer_bytes = 0;  // of the new file's tensors that differ, tied ones once
  int64_t new_bytes = 0;
};

bool SameQuantizer(const TensorDescriptor& a, const TensorDescriptor& b) {
  if (a.quantizer.has_value() != b.quantizer.has_value()) return false;
  if (!a.quantizer.has_value()) return true;
  return a.quantizer->scheme == b.quantizer->scheme && a.quantizer->scale == b.quantizer->scale &&
         a.quantizer->zero_point == b.quantizer->zero_point &&
         a.quantizer->axis == b.quantizer->axis;
}

class Comparer {
 public:
  Comparer(const NamedTensors& before, const NamedTensors& after, Progress& progress)
      : before_(before), after_(after), reader_(progress) {}

  absl::StatusOr<Comparison> Compare() {
    const std::vector<size_t> first = FirstOfSameView(after_.tensors());
    for (size_t i = 0; i < after_.tensors().size(); ++i) {
      const TensorDescriptor& tensor = after_.tensors()[i];
      const int64_t bytes = first[i] == i ? StoredBytes(tensor) : 0;
      comparison_.new_bytes += bytes;
      Difference difference{.name = std::string(after_.NameOf(i)),
                            .before = before_.Find(after_.NameOf(i)),
                            .after = &tensor,
                            .relative = std::nullopt};
      const absl::StatusOr<bool> same = IsSame(difference);
      if (!same.ok()) return same.status();
      if (*same) {
        ++comparison_.same;
        continue;
      }
      comparison_.transfer_bytes += bytes;
      comparison_.differences.push_back(std::move(difference));
    }
    for (size_t i = 0; i < before_.tensors().size(); ++i) {
      if (after_.Find(before_.NameOf(i)) != nullptr) continue;
      comparison_.differences.push_back({.change = Change::kRemoved,
                                         .name = std::string(before_.NameOf(i)),
                                         .before = &before_.tensors()[i],
                                         .after = nullptr,
                                         .relative = std::nullopt});
    }
    for (const NamedTensors* side : {&before_, &after_}) {
      const absl::Status unchanged = side->checkpoint().CheckUnchanged();
      if (!unchanged.ok()) return unchanged;
    }
    return std::move(comparison_);
  }

 private:
  // Else says in `difference` how the two differ.
  absl::StatusOr<bool> IsSame(Difference& difference) {
    if (difference.before == nullptr) {
      difference.change = Change::kAdded;
      return false;
    }
    const TensorDescriptor& before = *difference.before;
    const TensorDescriptor& after = *difference.after;
    if (before.shape != after.shape) {
      difference.change = Change::kReshaped;
      return false;
    }
    difference.change = before.dtype == after.dtype ? Change::kChanged : Change::kRetyped;
    const std::vector<TensorPart> old_parts = PartsOf(before);
    const std::vector<TensorPart> new_parts = PartsOf(after);
    const bool plain = KindOf(before) == TensorKind::kDense && KindOf(after) == TensorKind::kDense;
    if (before.dtype != after.dtype && !plain) return false;
    if (KindOf(before) != KindOf(after) || !SameQuantizer(before, after) ||
        old_parts.size() != new_parts.size()) {
      return false;
    }
    bool same = before.dtype == after.dtype;
    for (size_t i = 0; i < new_parts.size(); ++i) {
      if (old_parts[i].tensor->shape != new_parts[i].tensor->shape ||
          (!plain && old_parts[i].tensor->dtype != new_parts[i].tensor->dtype)) {
        return false;
      }
      const absl::Status read = ComparePart(old_parts[i], new_parts[i], plain, same, difference);
      if (!read.ok()) return read;
    }
    return same;
  }

  absl::Status ComparePart(const TensorPart& before, const TensorPart& after, bool measure,
                           bool& same, Difference& difference) {
    const DType old_type = before.tensor->dtype;
    const DType new_type = after.tensor->dtype;
    measure = measure && HasArithmetic(old_type) && HasArithmetic(new_type);
    DistanceGatherer distance;
    const PieceReader::Source sources[] = {{&before_.checkpoint(), before.tensor},
                                           {&after_.checkpoint(), after.tensor}};
    const absl::Status read =
        reader_.ReadGroup(sources, [&](absl::Span<const absl::Span<const std::byte>> pieces) {
          const bool equal = old_type == new_type &&
                             std::memcmp(pieces[0].data(), pieces[1].data(), pieces[0].size()) == 0;
          same = same && equal;
          if (measure) {
            const at::Tensor old_values = Widened(pieces[0], old_type);
            // Equal pieces count for the norm alone.
            distance.Add(old_values, equal ? old_values : Widened(pieces[1], new_type));
          }
          return absl::OkStatus();
        });
    if (measure && !same) difference.relative = distance.Relative();
    return read;
  }

  const NamedTensors& before_;
  const NamedTensors& after_;
  PieceReader reader_;
  Comparison comparison_;
};

std::string Described(const TensorDescriptor& tensor) {
  return absl::StrCat(std::string(DTypeName(tensor.dtype)), " ", ShapeText(tensor.shape));
}

std::string RelativeText(double relative) {
  if (std::isinf(relative)) return "from zero";
  if (std::isnan(relative)) return "not a number";
  return absl::StrCat("relative L2 ", NumberText(relative));
}

std::string Detail(const Difference& difference) {
  switch (difference.change) {
    case Change::kAdded:
      return Described(*difference.after);
    case Change::kRemoved:
      return Described(*difference.before);
    case Change::kReshaped:
      return absl::StrCat(ShapeText(difference.before->shape), " -> ",
                          ShapeText(difference.after->shape));
    case Change::kRetyped:
      return absl::StrCat(
          std::string(DTypeName(difference.before->dtype)), " -> ",
          std::string(DTypeName(difference.after->dtype)),
          difference.relative ? absl::StrCat(", ", RelativeText(*difference.relative)) : "");
    case Change::kChanged:
      return difference.relative ? RelativeText(*difference.relative) : FormText(*difference.after);
  }
  return "";
}

double Share(const Comparison& comparison) {
  return comparison.new_bytes == 0 ? 0
                                   : static_cast<double>(comparison.transfer_bytes) /
                                         static_cast<double>(comparison.new_bytes);
}

Json SideJson(const TensorDescriptor* tensor) {
  if (tensor == nullptr) return {};
  return {{"dtype", std::string(DTypeName(tensor->dtype))}, {"shape", tensor->shape}};
}

Json ToJson(const DiffOptions& options, const Comparison& comparison) {
  Json differences = Json::array();
  for (const Difference& difference : comparison.differences) {
    differences.push_back(
        {{"name", difference.name},
         {"change", ChangeName(difference.change)},
         {"old", SideJson(difference.before)},
         {"new", SideJson(difference.after)},
         {"relative_l2", difference.relative.has_value() ? Json(*difference.relative) : Json()}});
  }
  return {{"old", options.old_path},
          {"new", options.new_path},
          {"identical", comparison.differences.empty()},
          {"same_tensors", comparison.same},
          {"transfer_bytes", comparison.transfer_bytes},
          {"transfer_share", Share(comparison)},
          {"differences", std::move(differences)}};
}

void Print(const Comparison& comparison, Console& console) {
  size_t width = 0;
  for (const Difference& difference : comparison.differences) {
    width = std::max(width, DisplayWidth(Printable(difference.name)));
  }
  for (const Change change :
       {Change::kRemoved, Change::kAdded, Change::kReshaped, Change::kRetyped, Change::kChanged}) {
    const Style style = change == Change::kRemoved ? Style::kBad
                        : change == Change::kAdded ? Style::kGood
                                                   : Style::kWarning;
    for (const Difference& difference : comparison.differences) {
      if (difference.change != change) continue;
      console.Print(absl::StrCat(console.Paint(style, PadRight(ChangeName(change), 14)),
                                 PadRight(Printable(difference.name), width), "  ",
                                 Detail(difference), "\n"));
    }
  }
  if (comparison.differences.empty()) {
    console.Print(absl::StrCat("identical: ", PluralText(comparison.same, "tensor"),
                               ", the same names, shapes and bytes\n"));
    return;
  }
  console.Print(
      absl::StrCat(PluralText(static_cast<int64_t>(comparison.differences.size()), "difference"),
                   ", ", PluralText(comparison.same, "tensor"), " the same; a hot swap transfers ",
                   BytesText(comparison.transfer_bytes), " of ", BytesText(comparison.new_bytes),
                   " (", PercentText(Share(comparison)), ")\n"));
}

}  // namespace

absl::StatusOr<int> Diff(const DiffOptions& options, Console& console) {
  const auto before = OpenCheckpoint(options.old_path);
  if (!before.ok()) return before.status();
  const auto after = OpenCheckpoint(options.new_path);
  if (!after.ok()) return after.status();
  int64_t total = 0;
  for (const auto* side : {&**before, &**after}) {
    for (const TensorDescriptor& tensor : side->tensors()) total += StoredBytes(tensor);
  }
  absl::StatusOr<Comparison> comparison;
  {
    Progress progress(console, "comparing", total);
    const NamedTensors old_tensors(**before);
    const NamedTensors new_tensors(**after);
    comparison = Comparer(old_tensors, new_tensors, progress).Compare();
  }
  if (!comparison.ok()) return comparison.status();
  if (options.json) {
    console.Print(
        ToJson(options, *comparison).dump(2, ' ', true, nlohmann::json::error_handler_t::replace));
    console.Print("\n");
  } else {
    Print(*comparison, console);
  }
  return comparison->differences.empty() ? 0 : 1;
}

}  // namespace sconce::tools
