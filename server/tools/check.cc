#include "server/tools/check.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "models/catalog.h"
#include "server/base/file.h"
#include "server/base/printable.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/tied_tensors.h"
#include "server/program/choose_architecture.h"
#include "server/tools/arithmetic.h"
#include "server/tools/progress.h"
#include "server/tools/tensor_parts.h"
#include "server/tools/text.h"
#include "server/weights/load_state_dict.h"
#include "server/weights/state_dict.h"

namespace sconce::tools {
namespace {

// A file that is damaged all over says so often enough.
constexpr size_t kMostReadErrors = 20;

// Reads NAME or NAME(key=value, key=[1, 2], key="text"), as architectures are printed.
absl::StatusOr<models::Configured> ParseModel(const std::string& text) {
  models::Configured configured;
  const size_t open = text.find('(');
  configured.architecture = text.substr(0, open);
  if (open == std::string::npos) return configured;
  const absl::Status malformed = absl::InvalidArgumentError(absl::StrCat(
      "--model: expected NAME or NAME(parameter=value, ...), got '", Printable(text), "'"));
  if (text.back() != ')') return malformed;
  std::vector<std::string> parameters(1);
  bool in_list = false;
  bool in_text = false;
  for (const char c : text.substr(open + 1, text.size() - open - 2)) {
    if (c == '"') in_text = !in_text;
    if (c == '[' || c == ']') in_list = c == '[';
    if (c == ',' && !in_list && !in_text) {
      parameters.emplace_back();
    } else {
      parameters.back() += c;
    }
  }
  for (const std::string& parameter : parameters) {
    const size_t equals = parameter.find('=');
    if (parameters.size() == 1 && absl::StripAsciiWhitespace(parameter).empty()) break;
    if (equals == std::string::npos) return malformed;
    const std::string key(absl::StripAsciiWhitespace(parameter.substr(0, equals)));
    absl::string_view value =
        absl::StripAsciiWhitespace(absl::string_view(parameter).substr(equals + 1));
    const bool is_text = absl::StartsWith(value, "\"") && absl::EndsWith(value, "\"");
    const bool is_list = absl::StartsWith(value, "[") && absl::EndsWith(value, "]");
    if (value.size() >= 2 && (is_text || is_list)) {
      value = value.substr(1, value.size() - 2);
    }
    if (!configured.parameters.emplace(key, std::string(value)).second) return malformed;
  }
  return configured;
}

struct Findings {
  std::string architecture;
  std::string why;
  std::vector<std::string> problems;
  std::vector<std::string> warnings;

  void Problem(const absl::Status& status) { problems.emplace_back(status.message()); }
};

// With every checksum there is: those of the archives, and the manifests if a file has one.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenVerified(const std::string& path) {
  CheckpointOptions options;
  options.verify_crc = true;
  auto checkpoint = OpenCheckpoint(path, options);
  if (!checkpoint.ok()) return checkpoint;
  const std::vector<CheckpointFile>& files = (*checkpoint)->files();
  options.verify_sha256 = std::any_of(files.begin(), files.end(), [](const CheckpointFile& file) {
    return FingerprintOf(absl::StrCat(file.path, ".sha256")).ok();
  });
  if (options.verify_sha256) checkpoint = OpenCheckpoint(path, options);
  return checkpoint;
}

// What the names, shapes and types say: as the server loads, up to the weights themselves.
void CheckStructure(const Checkpoint& checkpoint, const models::Configured& configured,
                    Findings& findings) {
  const auto layout = DescribeState(checkpoint);
  if (!layout.ok()) return findings.Problem(layout.status());
  ArchitectureSources sources = SourcesBeside(checkpoint);
  sources.configured = configured;
  const auto chosen = ChooseArchitecture(layout->tensors, sources);
  models::Detection detection;
  std::string nearest;
  if (!chosen.ok()) {
    // Only where nothing fits; what is ambiguous has its own answer.
    const auto near = models::Nearest(layout->tensors);
    if (!configured.architecture.empty() || !sources.program_path.empty() || !near.has_value()) {
      return findings.Problem(chosen.status());
    }
    detection = *near;
    nearest =
        absl::StrCat("the weights fit no known architecture; the nearest, ",
                     models::ToString(near->architecture->name(), near->parameters), ", says: ");
  } else {
    detection = *chosen;
    findings.architecture = models::ToString(detection.architecture->name(), detection.parameters);
  }
  findings.why = detection.why;
  const auto net = detection.architecture->Create(detection.parameters);
  if (!net.ok()) return findings.Problem(net.status());
  const auto fits = FitStateDict(**net, OutlineStateDict(checkpoint),
                                 {.architecture = detection.architecture.get()});
  if (!fits.ok())
    findings.problems.push_back(absl::StrCat(nearest, std::string(fits.status().message())));
}

// Reads every byte: that all can be read, that checksums hold, and which values are no numbers.
absl::Status CheckContent(const Checkpoint& checkpoint, Console& console, Findings& findings) {
  const std::vector<TensorDescriptor>& tensors = checkpoint.tensors();
  const std::vector<size_t> first = FirstOfSameView(tensors);
  int64_t total = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (first[i] == i) total += StoredBytes(tensors[i]);
  }
  Progress progress(console, "reading", total);
  PieceReader reader(progress);
  size_t errors = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (first[i] != i) continue;
    for (const TensorPart& part : PartsOf(tensors[i])) {
      NonFinite found;
      const absl::Status read =
          reader.Read(checkpoint, *part.tensor, [&](absl::Span<const std::byte> piece) {
            const NonFinite here = CountNonFinite(piece, part.tensor->dtype);
            found.nans += here.nans;
            found.infinities += here.infinities;
            return absl::OkStatus();
          });
      if (absl::IsAborted(read) || absl::IsCancelled(read)) return read;
      if (!read.ok()) {
        findings.Problem(read);
        if (++errors == kMostReadErrors) return absl::OkStatus();
        break;
      }
      if (found.nans + found.infinities == 0) continue;
      findings.warnings.push_back(absl::StrCat("tensor '", Printable(tensors[i].name),
                                               "': ", CountText(found.nans), " NaN and ",
                                               CountText(found.infinities), " infinite among ",
                                               PluralText(part.tensor->num_elements(), "value")));
    }
  }
  return checkpoint.CheckUnchanged();
}

// `text` with its further lines under the first.
std::string Indented(const std::string& text) {
  return absl::StrReplaceAll(text, {{"\n\t", "\n      "}, {"\n", "\n    "}});
}

void Print(const std::string& path, const Findings& findings, Console& console) {
  const std::string shown = console.Paint(Style::kBold, Printable(path, 1000));
  if (findings.problems.empty()) {
    console.Print(absl::StrCat(shown, ": ", console.Paint(Style::kGood, "would load"), " as ",
                               findings.why, "\n"));
  } else {
    console.Print(absl::StrCat(
        shown, ": ", console.Paint(Style::kBad, "would not load"),
        findings.architecture.empty() ? "" : absl::StrCat(" as ", findings.architecture), "\n"));
  }
  const std::string own = absl::StrCat(Printable(path), ": ");
  for (const std::string& problem : findings.problems) {
    console.Print(absl::StrCat("  ", console.Paint(Style::kBad, "error:"), " ",
                               Indented(std::string(absl::StripPrefix(problem, own))), "\n"));
  }
  for (const std::string& warning : findings.warnings) {
    console.Print(
        absl::StrCat("  ", console.Paint(Style::kWarning, "warning:"), " ", warning, "\n"));
  }
}

}  // namespace

absl::StatusOr<int> Check(const CheckOptions& options, Console& console) {
  models::Configured configured;
  if (!options.model.empty()) {
    absl::StatusOr<models::Configured> parsed = ParseModel(options.model);
    if (!parsed.ok()) return parsed.status();
    configured = *std::move(parsed);
    // A wrong --model is no finding about the file.
    const auto known = models::Detect({}, configured);
    if (absl::IsInvalidArgument(known.status())) {
      return absl::InvalidArgumentError(
          absl::StrCat("--model: ", std::string(known.status().message())));
    }
  }
  Findings findings;
  const auto checkpoint = OpenVerified(options.path);
  if (!checkpoint.ok()) {
    findings.Problem(checkpoint.status());
  } else {
    CheckStructure(**checkpoint, configured, findings);
    const absl::Status content = CheckContent(**checkpoint, console, findings);
    if (!content.ok()) findings.Problem(content);
  }
  Print(options.path, findings, console);
  return findings.problems.empty() ? 0 : 1;
}

}  // namespace sconce::tools
