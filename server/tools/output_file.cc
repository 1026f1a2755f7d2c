#include "server/tools/output_file.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/base/file.h"
#include "server/base/printable.h"
#include "server/checkpoint/error_context.h"
#include "server/tools/text.h"

namespace sconce::tools {
namespace {

constexpr size_t kMostShown = 50;

}  // namespace

absl::Status CheckOutput(const std::string& output, absl::Span<const Checkpoint* const> inputs) {
  if (!absl::EndsWith(output, ".safetensors")) {
    return Refused(Printable(output), ": expected a name that ends in .safetensors");
  }
  const absl::StatusOr<FileFingerprint> there = FingerprintOf(output);
  if (!there.ok()) return absl::OkStatus();  // not there yet, or for the writer to say
  for (const Checkpoint* input : inputs) {
    for (const CheckpointFile& file : input->files()) {
      if (file.fingerprint.device == there->device && file.fingerprint.inode == there->inode) {
        return Refused(Printable(output), ": expected another file than those that are read, got ",
                       Printable(file.path), " itself");
      }
    }
  }
  return absl::OkStatus();
}

absl::Status AllProblems(const std::string& what, const std::vector<std::string>& problems) {
  if (problems.empty()) return absl::OkStatus();
  std::string text = what;
  for (size_t i = 0; i < problems.size() && i < kMostShown; ++i) {
    absl::StrAppend(&text, "\n  ", problems[i]);
  }
  if (problems.size() > kMostShown) {
    absl::StrAppend(&text, "\n  and ", problems.size() - kMostShown, " more");
  }
  return absl::InvalidArgumentError(text);
}

absl::Status Finish(SafetensorsWriter& writer, absl::Span<const Checkpoint* const> inputs,
                    const std::string& output, size_t tensors, Console& console) {
  for (const Checkpoint* input : inputs) {
    if (absl::Status unchanged = input->CheckUnchanged(); !unchanged.ok()) return unchanged;
  }
  if (absl::Status committed = writer.Commit(); !committed.ok()) return committed;
  console.Print(absl::StrCat("wrote ", Printable(output, 1000), ": ",
                             PluralText(static_cast<int64_t>(tensors), "tensor"), ", ",
                             BytesText(writer.file_bytes()), "\n"));
  return absl::OkStatus();
}

}  // namespace sconce::tools
