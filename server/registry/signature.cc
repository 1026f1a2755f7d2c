#include "server/registry/signature.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/printable.h"
#include "server/registry/tied_sizes.h"

namespace sconce {
namespace {

using models::Range;

// More inputs than any network has; keeps messages and look-ups small whatever a client sends.
constexpr size_t kMaxInputs = 256;

std::string NamesOf(absl::Span<const TensorSpec> specs) {
  return absl::StrJoin(specs, ", ", [](std::string* out, const TensorSpec& spec) {
    absl::StrAppend(out, "'", spec.name, "'");
  });
}

// False on overflow.
bool SizeInBytes(absl::Span<const int64_t> shape, DType dtype, int64_t* size_bytes) {
  int64_t size = DTypeSize(dtype);
  bool empty = false;
  for (const int64_t dim : shape) {
    if (dim == 0) {
      empty = true;
    } else if (size > std::numeric_limits<int64_t>::max() / dim) {
      return false;
    } else {
      size *= dim;
    }
  }
  *size_bytes = empty ? 0 : size;
  return true;
}

constexpr Range kAnySize{};

// "1..512", "-1".
std::string SizeText(int64_t dim, const Range& sizes) {
  if (dim != -1) return absl::StrCat(dim);
  if (sizes == kAnySize) return "-1";
  if (sizes.maximum == kAnySize.maximum) return absl::StrCat(sizes.minimum, "..");
  return absl::StrCat(sizes.minimum, "..", sizes.maximum);
}

std::vector<int64_t> OpenOf(const TensorSpec& spec, absl::Span<const int64_t> shape) {
  std::vector<int64_t> open;
  const size_t rows = shape.size() - spec.dims.size();
  for (size_t d = 0; d < spec.dims.size(); ++d) {
    if (spec.dims[d] == -1) open.push_back(shape[rows + d]);
  }
  return open;
}

}  // namespace

bool ShapeFits(const TensorSpec& spec, bool batched, absl::Span<const int64_t> shape) {
  const size_t rows = batched ? 1 : 0;
  if (shape.size() != spec.dims.size() + rows) return false;
  for (size_t i = 0; i < spec.dims.size(); ++i) {
    const int64_t got = shape[i + rows];
    if (got < 0 || (spec.dims[i] != -1 && spec.dims[i] != got)) return false;
    if (!spec.rules.sizes.empty() && spec.dims[i] == -1 && !spec.rules.sizes[i].Has(got)) {
      return false;
    }
  }
  return true;
}

std::string ShapeString(absl::Span<const int64_t> shape) {
  constexpr size_t kMaxDims = 16;
  return absl::StrCat("[", absl::StrJoin(shape.subspan(0, kMaxDims), ","),
                      shape.size() > kMaxDims ? ",...]" : "]");
}

std::string SpecString(const TensorSpec& spec, bool batched) {
  return std::string(OipDatatype(spec.dtype)) + DimsString(spec, batched);
}

std::string DimsString(const TensorSpec& spec, bool batched) {
  std::vector<std::string> dims;
  if (batched) dims.push_back("-1");
  for (size_t d = 0; d < spec.dims.size(); ++d) {
    dims.push_back(SizeText(spec.dims[d], spec.SizesOf(d)));
  }
  return absl::StrCat("[", absl::StrJoin(dims, ","), "]");
}

std::vector<int64_t> OpenSizes(const Signature& signature, absl::Span<const int64_t> shape) {
  if (signature.inputs.empty() || !signature.inputs[0].rules.padding.has_value()) return {};
  return OpenOf(signature.inputs[0], shape);
}

absl::StatusOr<CheckedInputs> CheckInputs(const std::string& model_version,
                                          const Signature& signature, int64_t max_batch_rows,
                                          absl::Span<const DeclaredInput> inputs) {
  const auto fail = [&](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat(model_version, ": ", parts...));
  };
  if (inputs.size() > kMaxInputs) {
    return fail("expected ", signature.inputs.size(), " inputs, got ", inputs.size());
  }

  CheckedInputs checked;
  checked.position.assign(signature.inputs.size(), CheckedInputs::kAbsent);
  for (size_t i = 0; i < inputs.size(); ++i) {
    size_t at = 0;
    while (at < signature.inputs.size() && signature.inputs[at].name != inputs[i].name) ++at;
    if (at == signature.inputs.size()) {
      return fail("has no input '", Printable(inputs[i].name), "', expected ",
                  NamesOf(signature.inputs));
    }
    if (checked.position[at] != CheckedInputs::kAbsent) {
      return fail("input '", signature.inputs[at].name, "' is given twice");
    }
    checked.position[at] = i;
  }

  const bool batched = signature.rows.batched;
  checked.rows = 1;
  checked.size_bytes.reserve(signature.inputs.size());
  for (size_t i = 0; i < signature.inputs.size(); ++i) {
    const TensorSpec& spec = signature.inputs[i];
    if (checked.position[i] == CheckedInputs::kAbsent) {
      if (!spec.rules.absent.has_value()) {
        return fail("input '", spec.name, "' is missing, expected ", SpecString(spec, batched));
      }
      checked.size_bytes.push_back(0);
      continue;
    }
    const DeclaredInput& input = inputs[checked.position[i]];
    if (input.datatype != OipDatatype(spec.dtype) || !ShapeFits(spec, batched, input.shape) ||
        (batched && input.shape[0] < 1)) {
      return fail("input '", spec.name, "' expects ", SpecString(spec, batched), ", got ",
                  Printable(input.datatype, 32), ShapeString(input.shape));
    }
    if (batched && i == 0) {
      checked.rows = input.shape[0];
    } else if (batched && input.shape[0] != checked.rows) {
      return fail("input '", spec.name, "' has ", input.shape[0], " rows, input '",
                  signature.inputs[0].name, "' has ", checked.rows, "; expected the same number");
    }
    if (i > 0 && spec.FollowsFirst()) {
      const DeclaredInput& first = inputs[checked.position[0]];
      if (OpenOf(spec, input.shape) != OpenOf(signature.inputs[0], first.shape)) {
        return fail("input '", spec.name, "' is ", ShapeString(input.shape), ", input '",
                    signature.inputs[0].name, "' is ", ShapeString(first.shape),
                    "; expected the same sizes");
      }
    }
    int64_t size_bytes = 0;
    if (!SizeInBytes(input.shape, spec.dtype, &size_bytes)) {
      return fail("input '", spec.name, "': shape ", ShapeString(input.shape),
                  " has more bytes than can be counted");
    }
    checked.size_bytes.push_back(size_bytes);
  }
  if (std::string why = WhySizesDiffer(signature, checked.position, inputs); !why.empty()) {
    return fail(why);
  }
  if (checked.rows > max_batch_rows) {
    return fail("expects at most ", max_batch_rows, " rows in a request, got ", checked.rows);
  }
  return checked;
}

absl::Status CheckOutputs(const Signature& signature, int64_t rows,
                          absl::Span<const HostTensor> outputs, absl::Span<const int64_t> padded) {
  if (outputs.size() != signature.outputs.size()) {
    return absl::InternalError(absl::StrCat("expected ", signature.outputs.size(),
                                            " outputs of the network, got ", outputs.size()));
  }
  const size_t batch = signature.rows.batched ? 1 : 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const TensorSpec& spec = signature.outputs[i];
    const HostTensor& output = outputs[i];
    bool fits = output.dtype == spec.dtype && output.shape.size() == spec.dims.size() + batch &&
                (batch == 0 || output.shape[0] == rows);
    int64_t elements = 1;
    for (size_t d = 0; fits && d < output.shape.size(); ++d) {
      elements *= output.shape[d];
      if (d >= batch) {
        const int64_t dim = spec.dims[d - batch];
        fits = dim == -1 || dim == output.shape[d];
      }
    }
    if (fits && !padded.empty() && spec.rules.padding.has_value()) {
      fits = OpenOf(spec, output.shape) == padded;
    }
    if (!fits || elements * DTypeSize(output.dtype) != static_cast<int64_t>(output.bytes.size())) {
      return absl::InternalError(absl::StrCat(
          "output '", spec.name, "' of a batch of ", rows, " rows",
          padded.empty() ? "" : absl::StrCat(" of ", ShapeString(padded)), ": expected ",
          SpecString(spec, signature.rows.batched), ", the network gave ",
          std::string(OipDatatype(output.dtype)), ShapeString(output.shape)));
    }
  }
  return absl::OkStatus();
}

}  // namespace sconce
