#include "server/tools/merge.h"

#include <c10/core/InferenceMode.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/printable.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/safetensors/safetensors_writer.h"
#include "server/tools/arithmetic.h"
#include "server/tools/named_tensors.h"
#include "server/tools/output_file.h"
#include "server/tools/progress.h"
#include "server/tools/tensor_parts.h"
#include "server/tools/text.h"

namespace sconce::tools {
namespace {

constexpr size_t kMostNamesShown = 5;

std::string DescriptionOf(const TensorDescriptor& tensor) {
  return absl::StrCat(std::string(DTypeName(tensor.dtype)), " ", ShapeText(tensor.shape));
}

// Models are blended in floating point; what is counted or looked up is taken as it is.
bool IsBlended(DType dtype) { return IsFloatingPoint(dtype) || IsComplex(dtype); }

class Merger {
 public:
  Merger(const MergeOptions& options, const Interruption& interruption, Console& console)
      : options_(options), interruption_(interruption), console_(console) {}

  absl::Status Run() {
    if (absl::Status good = ReadWeights(); !good.ok()) return good;
    if (absl::Status opened = OpenAll(); !opened.ok()) return opened;
    std::vector<const Checkpoint*> inputs;
    for (const auto& checkpoint : checkpoints_) inputs.push_back(checkpoint.get());
    if (absl::Status good = CheckOutput(options_.output, inputs); !good.ok()) return good;
    if (absl::Status good = CheckAlike(); !good.ok()) return good;

    const std::vector<TensorDescriptor>& tensors = named_[0].tensors();
    std::vector<SafetensorsWriter::Tensor> written;
    int64_t total = 0;
    for (const TensorDescriptor& tensor : tensors) {
      written.push_back({tensor.name, tensor.dtype, tensor.shape});
      total += tensor.size_bytes() * static_cast<int64_t>(named_.size());
    }
    auto writer = SafetensorsWriter::Create(options_.output, written, {{"format", "pt"}});
    if (!writer.ok()) return writer.status();
    {
      Progress progress(console_, "merging", total, &interruption_);
      PieceReader reader(progress);
      for (const size_t i : writer->order()) {
        if (absl::Status blended = Blend(i, reader, *writer); !blended.ok()) return blended;
      }
    }
    if (absl::Status done = Finish(*writer, inputs, options_.output, written.size(), console_);
        !done.ok()) {
      return done;
    }
    if (unequal_count_ > 0) {
      console_.Remark(
          absl::StrCat(PluralText(unequal_count_, "integer tensor"),
                       unequal_count_ == 1 ? " differs between the inputs and was taken from "
                                           : " differ between the inputs and were taken from ",
                       Printable(checkpoints_[0]->path()), ": ", absl::StrJoin(unequal_, ", "),
                       unequal_count_ > static_cast<int64_t>(unequal_.size()) ? ", ..." : ""));
    }
    return absl::OkStatus();
  }

 private:
  bool has_base() const { return !options_.base.empty(); }

  // One factor for each file in named_. The base comes first.
  absl::Status ReadWeights() {
    std::vector<double> weights = options_.weights;
    if (weights.empty()) weights.assign(options_.inputs.size(), 1.0);
    if (weights.size() != options_.inputs.size()) {
      return Refused("--weights: expected one for each of the ", options_.inputs.size(),
                     " inputs, got ", weights.size());
    }
    double sum = 0;
    for (const double weight : weights) {
      if (!std::isfinite(weight)) return Refused("--weights: expected finite numbers");
      sum += weight;
    }
    if (has_base()) {
      factors_ = {1.0};
      factors_.insert(factors_.end(), weights.begin(), weights.end());
      return absl::OkStatus();
    }
    if (sum == 0) return Refused("--weights: expected a sum other than 0 to divide by");
    for (const double weight : weights) factors_.push_back(weight / sum);
    return absl::OkStatus();
  }

  absl::Status OpenAll() {
    std::vector<std::string> paths = options_.inputs;
    if (has_base()) paths.insert(paths.begin(), options_.base);
    for (const std::string& path : paths) {
      auto checkpoint = OpenCheckpoint(path);
      if (!checkpoint.ok()) return checkpoint.status();
      checkpoints_.push_back(*std::move(checkpoint));
      named_.emplace_back(*checkpoints_.back());
    }
    return absl::OkStatus();
  }

  // Every name in every file, of one shape and dtype.
  absl::Status CheckAlike() const {
    const NamedTensors& first = named_[0];
    const std::string first_path = Printable(first.checkpoint().path());
    std::vector<std::string> problems;
    if (first.tensors().empty()) problems.push_back(absl::StrCat(first_path, ": has no tensors"));
    for (size_t i = 0; i < first.tensors().size(); ++i) {
      const TensorDescriptor& tensor = first.tensors()[i];
      const std::string where =
          absl::StrCat("tensor '", Printable(std::string(first.NameOf(i))), "': ");
      if (KindOf(tensor) != TensorKind::kDense) {
        problems.push_back(absl::StrCat(where, "is ", FormText(tensor), " in ", first_path,
                                        "; expected plain numbers (sconce convert --dense)"));
        continue;
      }
      if (!SafetensorsHas(tensor.dtype) ||
          (tensor.dtype == DType::kFloat4E2M1FNX2 && !HasArithmetic(tensor.dtype))) {
        problems.push_back(absl::StrCat(where, "is ", std::string(DTypeName(tensor.dtype)),
                                        ", which cannot be blended"));
        continue;
      }
      for (size_t k = 1; k < named_.size(); ++k) {
        const std::string path = Printable(named_[k].checkpoint().path());
        const TensorDescriptor* other = named_[k].Find(first.NameOf(i));
        if (other == nullptr) {
          problems.push_back(absl::StrCat(where, "is not in ", path));
        } else if (other->dtype != tensor.dtype || other->shape != tensor.shape ||
                   KindOf(*other) != TensorKind::kDense) {
          problems.push_back(absl::StrCat(where, "expected ", DescriptionOf(tensor), " as in ",
                                          first_path, ", got ", DescriptionOf(*other), " in ",
                                          path));
        }
      }
    }
    for (size_t k = 1; k < named_.size(); ++k) {
      for (size_t i = 0; i < named_[k].tensors().size(); ++i) {
        if (first.Find(named_[k].NameOf(i)) != nullptr) continue;
        problems.push_back(absl::StrCat("tensor '", Printable(std::string(named_[k].NameOf(i))),
                                        "': is in ", Printable(named_[k].checkpoint().path()),
                                        " but not in ", first_path));
      }
    }
    return AllProblems("the inputs do not go together:", problems);
  }

  absl::Status Blend(size_t index, PieceReader& reader, SafetensorsWriter& writer) {
    const TensorDescriptor& tensor = named_[0].tensors()[index];
    std::vector<PieceReader::Source> sources;
    for (const NamedTensors& named : named_) {
      sources.push_back({&named.checkpoint(), named.Find(named_[0].NameOf(index))});
    }
    bool equal = true;
    const absl::Status read =
        reader.ReadGroup(sources, [&](absl::Span<const absl::Span<const std::byte>> pieces) {
          if (!IsBlended(tensor.dtype)) {
            for (const absl::Span<const std::byte> piece : pieces) {
              equal = equal && std::memcmp(piece.data(), pieces[0].data(), piece.size()) == 0;
            }
            return writer.Append(pieces[0]);
          }
          c10::InferenceMode no_gradients;
          const at::Tensor first = Widened(pieces[0], tensor.dtype);
          at::Tensor sum = first.mul(factors_[0]);
          for (size_t k = 1; k < pieces.size(); ++k) {
            const at::Tensor next = Widened(pieces[k], tensor.dtype);
            sum.add_(has_base() ? next.sub(first) : next, factors_[k]);
          }
          return writer.Append(BytesOf(Cast(sum, tensor.dtype)));
        });
    if (!equal && ++unequal_count_ <= static_cast<int64_t>(kMostNamesShown)) {
      unequal_.push_back(Printable(tensor.name));
    }
    return read;
  }

  const MergeOptions& options_;
  const Interruption& interruption_;
  Console& console_;
  std::vector<double> factors_;
  std::vector<std::unique_ptr<Checkpoint>> checkpoints_;  // the base first, if there is one
  std::vector<NamedTensors> named_;                       // by checkpoint
  std::vector<std::string> unequal_;  // the first few integer tensors that differ
  int64_t unequal_count_ = 0;
};

}  // namespace

absl::StatusOr<int> Merge(const MergeOptions& options, const Interruption& interruption,
                          Console& console) {
  const absl::Status done = Merger(options, interruption, console).Run();
  if (!done.ok()) return done;
  return 0;
}

}  // namespace sconce::tools
