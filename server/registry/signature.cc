#include "server/registry/signature.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/printable.h"

namespace sconce {
namespace {

// More inputs than any network has; keeps messages and look-ups small whatever a client sends.
constexpr size_t kMaxInputs = 256;

std::string NamesOf(absl::Span<const TensorSpec> specs) {
  return absl::StrJoin(specs, ", ", [](std::string* out, const TensorSpec& spec) {
    absl::StrAppend(out, "'", spec.name, "'");
  });
}

bool ShapeFits(const TensorSpec& spec, absl::Span<const int64_t> shape) {
  return RowsFit(spec, shape) && shape[0] >= 1;
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

}  // namespace

bool RowsFit(const TensorSpec& spec, absl::Span<const int64_t> shape) {
  if (shape.size() != spec.dims.size() + 1) return false;
  for (size_t i = 0; i < spec.dims.size(); ++i) {
    const int64_t got = shape[i + 1];
    if (got < 0 || (spec.dims[i] != -1 && spec.dims[i] != got)) return false;
  }
  return true;
}

std::string ShapeString(absl::Span<const int64_t> shape) {
  constexpr size_t kMaxDims = 16;
  return absl::StrCat("[", absl::StrJoin(shape.subspan(0, kMaxDims), ","),
                      shape.size() > kMaxDims ? ",...]" : "]");
}

std::string SpecString(const TensorSpec& spec) {
  std::vector<int64_t> shape = {-1};
  shape.insert(shape.end(), spec.dims.begin(), spec.dims.end());
  return std::string(OipDatatype(spec.dtype)) + ShapeString(shape);
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
  checked.position.assign(signature.inputs.size(), inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    size_t at = 0;
    while (at < signature.inputs.size() && signature.inputs[at].name != inputs[i].name) ++at;
    if (at == signature.inputs.size()) {
      return fail("has no input '", Printable(inputs[i].name), "', expected ",
                  NamesOf(signature.inputs));
    }
    if (checked.position[at] != inputs.size()) {
      return fail("input '", signature.inputs[at].name, "' is given twice");
    }
    checked.position[at] = i;
  }

  for (size_t i = 0; i < signature.inputs.size(); ++i) {
    const TensorSpec& spec = signature.inputs[i];
    if (checked.position[i] == inputs.size()) {
      return fail("input '", spec.name, "' is missing, expected ", SpecString(spec));
    }
    const DeclaredInput& input = inputs[checked.position[i]];
    if (input.datatype != OipDatatype(spec.dtype) || !ShapeFits(spec, input.shape)) {
      return fail("input '", spec.name, "' expects ", SpecString(spec), ", got ",
                  Printable(input.datatype, 32), ShapeString(input.shape));
    }
    if (i == 0) {
      checked.rows = input.shape[0];
    } else if (input.shape[0] != checked.rows) {
      return fail("input '", spec.name, "' has ", input.shape[0], " rows, input '",
                  signature.inputs[0].name, "' has ", checked.rows, "; expected the same number");
    }
    int64_t size_bytes = 0;
    if (!SizeInBytes(input.shape, spec.dtype, &size_bytes)) {
      return fail("input '", spec.name, "': shape ", ShapeString(input.shape),
                  " has more bytes than can be counted");
    }
    checked.size_bytes.push_back(size_bytes);
  }
  if (checked.rows > max_batch_rows) {
    return fail("expects at most ", max_batch_rows, " rows in a request, got ", checked.rows);
  }
  return checked;
}

absl::Status CheckOutputs(const Signature& signature, int64_t rows,
                          absl::Span<const HostTensor> outputs) {
  if (outputs.size() != signature.outputs.size()) {
    return absl::InternalError(absl::StrCat("expected ", signature.outputs.size(),
                                            " outputs of the network, got ", outputs.size()));
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    const TensorSpec& spec = signature.outputs[i];
    const HostTensor& output = outputs[i];
    bool fits = output.dtype == spec.dtype && output.shape.size() == spec.dims.size() + 1 &&
                output.shape[0] == rows;
    int64_t elements = 1;
    for (size_t d = 0; fits && d < output.shape.size(); ++d) {
      elements *= output.shape[d];
      if (d > 0) fits = spec.dims[d - 1] == -1 || spec.dims[d - 1] == output.shape[d];
    }
    if (!fits || elements * DTypeSize(output.dtype) != static_cast<int64_t>(output.bytes.size())) {
      return absl::InternalError(
          absl::StrCat("output '", spec.name, "' of a batch of ", rows, " rows: expected ",
                       SpecString(spec), ", the network gave ",
                       std::string(OipDatatype(output.dtype)), ShapeString(output.shape)));
    }
  }
  return absl::OkStatus();
}

}  // namespace sconce
