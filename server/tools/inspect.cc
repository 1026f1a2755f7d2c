#include "server/tools/inspect.h"

#include <algorithm>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "server/base/printable.h"
#include "server/tools/inspection.h"
#include "server/tools/table.h"
#include "server/tools/tensor_parts.h"
#include "server/tools/tensor_tree.h"
#include "server/tools/text.h"

namespace sconce::tools {
namespace {

constexpr size_t kMostMetadata = 20;
constexpr size_t kMostFiles = 5;
constexpr size_t kLabelCells = 14;  // of the summary

// Breaks `text` between words into lines of at most `width` cells, 0 for any; lines after the first
// are indented.
std::string Wrapped(const std::string& text, size_t width, size_t indent) {
  std::string out;
  size_t used = indent;
  for (const absl::string_view word : absl::StrSplit(text, ' ')) {
    const size_t cells = DisplayWidth({word.data(), word.size()});
    if (used > indent && width > 0 && used + 1 + cells > width) {
      absl::StrAppend(&out, "\n", std::string(indent, ' '));
      used = indent;
    } else if (used > indent) {
      out += ' ';
      ++used;
    }
    absl::StrAppend(&out, word);
    used += cells;
  }
  return out;
}

class Summary {
 public:
  Summary(Console& console) : console_(console) {}

  void Line(const std::string& label, const std::string& text) {
    const size_t width = console_.width() == 0 ? 100 : console_.width();
    console_.Print(absl::StrCat("  ", console_.Paint(Style::kDim, PadRight(label, kLabelCells)),
                                Wrapped(text, width, kLabelCells + 2), "\n"));
  }

 private:
  Console& console_;
};

void PrintSummary(const Checkpoint& checkpoint, const Inspection& inspection, Console& console) {
  console.Print(
      absl::StrCat(console.Paint(Style::kBold, Printable(checkpoint.path(), 1000)), "\n"));
  Summary summary(console);
  std::string format = checkpoint.format();
  if (!checkpoint.producer().empty()) {
    absl::StrAppend(&format, ", written by ", Printable(checkpoint.producer()));
  }
  summary.Line("format", format);
  const auto files = static_cast<int64_t>(checkpoint.files().size());
  summary.Line("size",
               absl::StrCat(BytesText(inspection.file_bytes), " in ", PluralText(files, "file")));
  if (files > 1) {
    for (size_t i = 0; i < checkpoint.files().size() && i < kMostFiles; ++i) {
      const CheckpointFile& file = checkpoint.files()[i];
      summary.Line(
          "", absl::StrCat(Printable(file.path), ", ", BytesText(file.fingerprint.size_bytes)));
    }
    if (checkpoint.files().size() > kMostFiles) {
      summary.Line("", absl::StrCat("and ", checkpoint.files().size() - kMostFiles, " more"));
    }
  }
  summary.Line("tensors", absl::StrCat(CountText(static_cast<int64_t>(checkpoint.tensors().size())),
                                       ", ", BytesText(inspection.tensor_bytes)));
  summary.Line("parameters", CountText(inspection.parameters));
  if (!checkpoint.wrapper().empty()) {
    summary.Line("found under", absl::StrCat("'", Printable(checkpoint.wrapper()), "'"));
  }
  if (!inspection.stripped_prefix.empty()) {
    summary.Line("prefix", absl::StrCat("'", Printable(inspection.stripped_prefix),
                                        "' before every name, ignored when served"));
  }
  if (!checkpoint.modules().empty()) {
    summary.Line("class", checkpoint.modules()[0].class_name);
  }
  const bool fits = !inspection.architecture.empty();
  summary.Line("serves as", fits ? inspection.why
                                 : absl::StrCat(console.Paint(Style::kWarning, "nothing"), ": ",
                                                inspection.why));
  const std::vector<MetadataEntry>& metadata = checkpoint.metadata();
  for (size_t i = 0; i < metadata.size() && i < kMostMetadata; ++i) {
    summary.Line(i == 0 ? "metadata" : "",
                 absl::StrCat(metadata[i].name, " = ", metadata[i].value));
  }
  if (metadata.size() > kMostMetadata) {
    summary.Line("", absl::StrCat("and ", metadata.size() - kMostMetadata, " more, see --json"));
  }
}

std::string OrDash(const std::optional<double>& value) {
  return value.has_value() ? NumberText(*value) : "-";
}

std::string Remarks(const Checkpoint& checkpoint, const Inspection& inspection, size_t i) {
  std::vector<std::string> remarks;
  if (inspection.tied_to[i] != i) {
    remarks.push_back(absl::StrCat("same memory as ",
                                   Printable(checkpoint.tensors()[inspection.tied_to[i]].name)));
  }
  if (std::string form = FormText(checkpoint.tensors()[i]); !form.empty()) {
    remarks.push_back(std::move(form));
  }
  return absl::StrJoin(remarks, "; ");
}

void PrintTree(const Checkpoint& checkpoint, const Inspection& inspection, bool stats,
               Console& console) {
  std::vector<std::string> names;
  for (const TensorDescriptor& tensor : checkpoint.tensors()) names.push_back(tensor.name);
  std::unordered_map<std::string, const ModuleEntry*> classes;
  for (const ModuleEntry& module : checkpoint.modules()) classes.emplace(module.path, &module);
  const bool odd =
      std::any_of(inspection.statistics.begin(), inspection.statistics.end(),
                  [](const auto& s) { return s.has_value() && s->nans + s->infinities > 0; });

  std::vector<Column> columns = {{"tensor"}, {"dtype"}, {"shape"}};
  if (!stats) columns.push_back({"size", true});
  columns.push_back({"share", true});
  if (stats) {
    for (const char* title : {"min", "max", "mean", "std", "zeros"}) {
      columns.push_back({title, true});
    }
    if (odd) columns.insert(columns.end(), {{"NaN", true}, {"Inf", true}});
  }
  columns.push_back({""});

  std::vector<std::vector<std::string>> rows;
  for (const TreeRow& place : TreeOf(names)) {
    const std::string label =
        absl::StrCat(std::string(2 * place.depth, ' '), Printable(place.label));
    if (place.tensor == TreeRow::kModule) {
      const auto known = classes.find(Printable(place.module));
      rows.push_back(
          {known == classes.end() ? label : absl::StrCat(label, "  ", known->second->class_name)});
      continue;
    }
    const TensorDescriptor& tensor = checkpoint.tensors()[place.tensor];
    const bool tied = inspection.tied_to[place.tensor] != place.tensor;
    const int64_t bytes = StoredBytes(tensor);
    const double share =
        inspection.tensor_bytes == 0
            ? 0
            : static_cast<double>(bytes) / static_cast<double>(inspection.tensor_bytes);
    std::vector<std::string> row = {label, std::string(DTypeName(tensor.dtype)),
                                    ShapeText(tensor.shape)};
    if (!stats) row.push_back(BytesText(bytes));
    row.push_back(tied ? "tied" : PercentText(share));
    if (stats && inspection.statistics[place.tensor].has_value()) {
      const Statistics& s = *inspection.statistics[place.tensor];
      for (std::string cell : {OrDash(s.min), OrDash(s.max), OrDash(s.mean), OrDash(s.deviation),
                               CountText(s.zeros)}) {
        row.push_back(std::move(cell));
      }
      if (odd) row.insert(row.end(), {CountText(s.nans), CountText(s.infinities)});
    } else if (stats) {
      row.insert(row.end(), odd ? 7 : 5, "-");
    }
    row.push_back(Remarks(checkpoint, inspection, place.tensor));
    rows.push_back(std::move(row));
  }
  console.Print("\n");
  PrintTable(columns, rows, console);
}

}  // namespace

absl::StatusOr<int> Inspect(const InspectOptions& options, Console& console) {
  const auto checkpoint = OpenCheckpoint(options.path);
  if (!checkpoint.ok()) return checkpoint.status();
  const auto inspection = InspectCheckpoint(**checkpoint, options.stats, console);
  if (!inspection.ok()) return inspection.status();
  if (options.json) {
    // Escaped, what is invisible in a name stays visible.
    console.Print(ToJson(**checkpoint, *inspection)
                      .dump(2, ' ', true, nlohmann::json::error_handler_t::replace));
    console.Print("\n");
    return 0;
  }
  PrintSummary(**checkpoint, *inspection, console);
  PrintTree(**checkpoint, *inspection, options.stats, console);
  return 0;
}

}  // namespace sconce::tools
