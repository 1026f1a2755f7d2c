#include "server/loader/golden_samples.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/dtype.h"
#include "server/base/printable.h"
#include "server/registry/signature_rules.h"
#include "server/registry/tensor_fill.h"

namespace sconce {
namespace {

std::string Described(DType dtype, absl::Span<const int64_t> shape) {
  return absl::StrCat(std::string(DTypeName(dtype)), ShapeString(shape));
}

// The signature's names, for whoever gave another.
std::string Names(const Signature& signature) {
  std::vector<std::string> names;
  for (const auto* specs : {&signature.inputs, &signature.outputs}) {
    for (const TensorSpec& spec : *specs) names.push_back(Printable(spec.name));
  }
  return absl::StrJoin(names, ", ");
}

const TensorDescriptor* FindTensor(const Checkpoint& checkpoint, const std::string& name) {
  const auto& tensors = checkpoint.tensors();
  const auto found = std::find_if(tensors.begin(), tensors.end(),
                                  [&](const TensorDescriptor& t) { return t.name == name; });
  return found == tensors.end() ? nullptr : &*found;
}

bool Fits(const TensorDescriptor& tensor, const TensorSpec& spec, bool batched) {
  return tensor.dtype == spec.dtype && !tensor.quantizer.has_value() &&
         !tensor.sparse.has_value() && ShapeFits(spec, batched, tensor.shape);
}

// Collects the tensors of a sample that are inputs, or outputs.
class Reader {
 public:
  Reader(const Checkpoint& checkpoint, const Signature& signature, std::string name,
         int64_t max_batch_size)
      : checkpoint_(checkpoint),
        signature_(signature),
        max_rows_(LargestBatch(signature.rows, max_batch_size)) {
    sample_.name = std::move(name);
  }

  absl::StatusOr<Sample> Read() {
    if (absl::Status read = ReadAll(signature_.inputs, &sample_.inputs); !read.ok()) return read;
    if (absl::Status read = ReadAll(signature_.outputs, &sample_.outputs); !read.ok()) return read;
    if (absl::Status known = CheckNames(); !known.ok()) return known;
    return std::move(sample_);
  }

 private:
  template <typename... Parts>
  absl::Status Error(const Parts&... parts) const {
    return absl::InvalidArgumentError(absl::StrCat(sample_.name, ": ", parts...));
  }

  absl::Status ReadAll(const std::vector<TensorSpec>& specs, std::vector<KeptTensor>* into) {
    for (const TensorSpec& spec : specs) {
      const TensorDescriptor* const tensor = FindTensor(checkpoint_, spec.name);
      if (tensor == nullptr && spec.rules.absent.has_value()) {
        if (absl::Status added = AddAbsent(spec, into); !added.ok()) return added;
        continue;
      }
      if (tensor == nullptr) {
        return Error("expected a tensor '", Printable(spec.name), "', the model has ",
                     Names(signature_));
      }
      if (absl::Status fits = CheckTensor(*tensor, spec); !fits.ok()) return fits;
      KeptTensor& kept = into->emplace_back();
      kept.dtype = tensor->dtype;
      kept.shape = tensor->shape;
      kept.bytes.resize(static_cast<size_t>(tensor->size_bytes()));
      const absl::Status read = checkpoint_.ReadInto(*tensor, absl::MakeSpan(kept.bytes));
      if (!read.ok()) return read;
      const absl::Span<const std::byte> bytes = kept.bytes;
      const absl::Status values = CheckValues(sample_.name, spec, kept.shape, {&bytes, 1});
      if (!values.ok()) return values;
    }
    return absl::OkStatus();
  }

  // An input that is left out is of the first one's shape.
  absl::Status AddAbsent(const TensorSpec& spec, std::vector<KeptTensor>* into) {
    KeptTensor kept;
    kept.dtype = spec.dtype;
    kept.shape = into->front().shape;
    int64_t bytes = DTypeSize(spec.dtype);
    for (const int64_t size : kept.shape) bytes *= size;
    if (absl::Status fits = AddBytes(bytes); !fits.ok()) return fits;
    kept.bytes.resize(static_cast<size_t>(bytes));
    FillElements(spec.dtype, *spec.rules.absent, absl::MakeSpan(kept.bytes));
    into->push_back(std::move(kept));
    return absl::OkStatus();
  }

  absl::Status AddBytes(int64_t bytes) {
    if (bytes > kMaxSampleBytes - size_bytes_) {
      return Error("takes more than ", kMaxSampleBytes, " bytes");
    }
    size_bytes_ += bytes;
    return absl::OkStatus();
  }

  absl::Status CheckTensor(const TensorDescriptor& tensor, const TensorSpec& spec) {
    const bool batched = signature_.rows.batched;
    if (!Fits(tensor, spec, batched)) {
      return Error("tensor '", Printable(spec.name), "': expected ",
                   std::string(DTypeName(spec.dtype)), DimsString(spec, batched), ", got ",
                   Described(tensor.dtype, tensor.shape));
    }
    if (batched) {
      const int64_t rows = tensor.shape[0];
      if (rows < 1 || rows > max_rows_) {
        return Error("tensor '", Printable(spec.name), "': expected 1 to ", max_rows_,
                     " rows, which is the largest batch, got ", rows);
      }
      if (rows_ == 0) rows_ = rows;
      if (rows != rows_) {
        return Error("tensor '", Printable(spec.name), "': expected ", rows_,
                     " rows as the first input has, got ", rows);
      }
    }
    return AddBytes(tensor.size_bytes());
  }

  // A name that is none of the model's is most likely one that was mistyped.
  absl::Status CheckNames() const {
    for (const TensorDescriptor& tensor : checkpoint_.tensors()) {
      const auto is_it = [&](const TensorSpec& spec) { return spec.name == tensor.name; };
      if (std::none_of(signature_.inputs.begin(), signature_.inputs.end(), is_it) &&
          std::none_of(signature_.outputs.begin(), signature_.outputs.end(), is_it)) {
        return Error("tensor '", Printable(tensor.name), "' is unknown, the model has ",
                     Names(signature_));
      }
    }
    return absl::OkStatus();
  }

  const Checkpoint& checkpoint_;
  const Signature& signature_;
  const int64_t max_rows_;
  Sample sample_;
  int64_t rows_ = 0;
  int64_t size_bytes_ = 0;
};

}  // namespace

absl::StatusOr<Sample> ReadGoldenSample(const std::string& path, const CheckpointOptions& options,
                                        const Signature& signature, int64_t max_batch_size) {
  const auto checkpoint = OpenCheckpoint(path, options);
  if (!checkpoint.ok()) return checkpoint.status();
  const std::string file = std::filesystem::path(path).filename().string();
  auto sample = Reader(**checkpoint, signature,
                       absl::StrCat("golden sample '", Printable(file), "'"), max_batch_size)
                    .Read();
  if (!sample.ok()) return sample;
  if (absl::Status same = (*checkpoint)->CheckUnchanged(); !same.ok()) return same;
  return sample;
}

}  // namespace sconce
