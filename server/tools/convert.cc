#include "server/tools/convert.h"

#include <new>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/data/dense_read.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/safetensors/safetensors_writer.h"
#include "server/tools/arithmetic.h"
#include "server/tools/output_file.h"
#include "server/tools/progress.h"
#include "server/tools/tensor_parts.h"

namespace sconce::tools {
namespace {

// A tensor on its way.
struct Passage {
  const TensorDescriptor* tensor = nullptr;
  bool densify = false;
  DType from = DType::kFloat32;  // what is read, dense
  DType to = DType::kFloat32;    // what is written
};

absl::StatusOr<std::optional<DType>> ParseDtype(const std::string& name) {
  if (name.empty()) return std::nullopt;
  const std::optional<DType> dtype = DTypeFromName(name);
  if (!dtype.has_value() || !IsFloatingPoint(*dtype) || !HasArithmetic(*dtype)) {
    return Refused("--dtype: expected a floating-point type such as float32, float16, bfloat16 or ",
                   "float8_e4m3fn, got '", Printable(name), "'");
  }
  return dtype;
}

// A complex tensor becomes complex64, the one complex type there is, whatever the real type.
DType Target(DType from, std::optional<DType> wanted) {
  if (!wanted.has_value() || !HasArithmetic(from)) return from;
  if (IsComplex(from)) return DType::kComplex64;
  return IsFloatingPoint(from) ? *wanted : from;
}

class Converter {
 public:
  Converter(const ConvertOptions& options, const Checkpoint& checkpoint,
            const Interruption& interruption, Console& console)
      : options_(options),
        checkpoint_(checkpoint),
        interruption_(interruption),
        console_(console) {}

  absl::Status Run() {
    const Checkpoint* const inputs[] = {&checkpoint_};
    if (absl::Status good = CheckOutput(options_.output, inputs); !good.ok()) return good;
    if (absl::Status planned = Plan(); !planned.ok()) return planned;
    auto writer = SafetensorsWriter::Create(options_.output, written_, {{"format", "pt"}});
    if (!writer.ok()) return writer.status();
    {
      Progress progress(console_, "converting", total_bytes_, &interruption_);
      PieceReader reader(progress);
      for (const size_t i : writer->order()) {
        absl::Status passed = Pass(passages_[i], reader, progress, *writer);
        if (!passed.ok()) return passed;
      }
    }
    return Finish(*writer, inputs, options_.output, written_.size(), console_);
  }

 private:
  // What is written under which name; all that cannot be, at once.
  absl::Status Plan() {
    const auto wanted = ParseDtype(options_.dtype);
    if (!wanted.ok()) return wanted.status();
    if (checkpoint_.tensors().empty()) {
      return Refused(Printable(options_.input), ": expected tensors, got none");
    }
    std::vector<std::string> problems;
    for (const TensorDescriptor& tensor : checkpoint_.tensors()) {
      const std::string where = absl::StrCat("tensor '", Printable(tensor.name), "': ");
      Passage passage{.tensor = &tensor, .from = tensor.dtype};
      passage.densify = KindOf(tensor) != TensorKind::kDense;
      if (passage.densify && !options_.dense) {
        problems.push_back(absl::StrCat(where, "is ", FormText(tensor),
                                        ", which safetensors does not have; --dense writes plain ",
                                        "numbers"));
        continue;
      }
      total_bytes_ += tensor.size_bytes();
      if (passage.densify) {
        const auto form = DenseFormOf(tensor, options_.max_dense_bytes);
        if (!form.ok()) {
          problems.push_back(
              absl::StrCat(std::string(form.status().message()), " (--max-dense-bytes)"));
          continue;
        }
        passage.from = form->dtype;
      }
      passage.to = Target(passage.from, *wanted);
      if (!SafetensorsHas(passage.to)) {
        problems.push_back(absl::StrCat(
            where, "is ", std::string(DTypeName(passage.to)), ", which safetensors does not have",
            IsComplex(passage.to) ? "; --dtype float32 makes it complex64" : ""));
        continue;
      }
      passages_.push_back(passage);
      written_.push_back({tensor.name, passage.to, tensor.shape});
    }
    if (absl::Status renamed = Rename(problems); !renamed.ok()) return renamed;
    return AllProblems(absl::StrCat(Printable(options_.input), ": cannot be converted:"), problems);
  }

  absl::Status Rename(std::vector<std::string>& problems) {
    if (options_.prefix.empty()) return absl::OkStatus();
    const size_t equals = options_.prefix.find('=');
    if (equals == std::string::npos) {
      return Refused("--prefix: expected FROM=TO, such as module.= or =model., got '",
                     Printable(options_.prefix), "'");
    }
    const std::string from = options_.prefix.substr(0, equals);
    const std::string to = options_.prefix.substr(equals + 1);
    std::set<std::string> names;
    bool any = false;
    for (SafetensorsWriter::Tensor& tensor : written_) {
      if (tensor.name.rfind(from, 0) == 0) {
        any = true;
        tensor.name.replace(0, from.size(), to);
      }
      if (tensor.name.empty() || !names.insert(tensor.name).second) {
        problems.push_back(absl::StrCat("--prefix: leaves two tensors called '",
                                        Printable(tensor.name), "', or one without a name"));
      }
    }
    if (!any && !written_.empty()) {
      return Refused("--prefix: expected names that begin with '", Printable(from),
                     "', got none: the first is '", Printable(written_[0].name), "'");
    }
    return absl::OkStatus();
  }

  absl::Status Pass(const Passage& passage, PieceReader& reader, Progress& progress,
                    SafetensorsWriter& writer) {
    const auto write = [&](absl::Span<const std::byte> piece) {
      if (passage.from == passage.to) return writer.Append(piece);
      return writer.Append(BytesOf(Cast(VectorOf(piece, passage.from), passage.to)));
    };
    if (!passage.densify) return reader.Read(checkpoint_, *passage.tensor, write);
    const auto form = DenseFormOf(*passage.tensor, options_.max_dense_bytes);
    if (!form.ok()) return form.status();
    try {
      std::vector<std::byte> dense(static_cast<size_t>(form->size_bytes));
      absl::Status read =
          ReadDense(checkpoint_, *passage.tensor, options_.max_dense_bytes, absl::MakeSpan(dense));
      if (!read.ok()) return read;
      if (absl::Status wrote = write(dense); !wrote.ok()) return wrote;
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError(
          absl::StrCat(Printable(options_.input), ": tensor '", Printable(passage.tensor->name),
                       "': no memory for its ", form->size_bytes, " bytes of dense numbers"));
    }
    return progress.Advance(passage.tensor->size_bytes());
  }

  const ConvertOptions& options_;
  const Checkpoint& checkpoint_;
  const Interruption& interruption_;
  Console& console_;
  std::vector<Passage> passages_;
  std::vector<SafetensorsWriter::Tensor> written_;  // by passage
  int64_t total_bytes_ = 0;
};

}  // namespace

absl::StatusOr<int> Convert(const ConvertOptions& options, const Interruption& interruption,
                            Console& console) {
  const auto checkpoint = OpenCheckpoint(options.input);
  if (!checkpoint.ok()) return checkpoint.status();
  const absl::Status done = Converter(options, **checkpoint, interruption, console).Run();
  if (!done.ok()) return done;
  return 0;
}

}  // namespace sconce::tools
