// The manifest beside a file: the input is its text.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/sha256.h"
#include "server/checkpoint/data/manifest.h"
#include "tests/fuzz/custom_mutator.h"
#include "tests/fuzz/exercise.h"
#include "tests/fuzz/mutators.h"

namespace sconce {
namespace {

constexpr std::string_view kName = "m.pth";

// A digest is one that the text holds, other files' lines do not change it, and a second line for
// the same file does not go unseen.
void CheckFound(const std::string& manifest, const Sha256Digest& digest) {
  const std::string hex = ToHex(digest);
  std::string lower = manifest;
  for (char& c : lower) {
    if (c >= 'A' && c <= 'F') c = static_cast<char>(c - 'A' + 'a');
  }
  Require(lower.find(hex) != std::string::npos, "a digest is one of the manifest's", hex);
  const auto with_line_for = [&](std::string_view name) {
    return DigestInManifest(manifest + "\n" + hex + "  " + std::string(name), kName);
  };
  const absl::StatusOr<Sha256Digest> more = with_line_for("other.pth");
  Require(more.ok() && *more == digest, "other files' lines change nothing", hex);
  const absl::StatusOr<Sha256Digest> again = with_line_for(kName);
  Require(!again.ok(), "two lines for one file are an error", hex);
  RequireGoodError(again.status());
}

void MutateLines(std::string& text, Random& random) {
  std::vector<std::string> lines(1);
  for (const char c : text) {
    lines.back() += c;
    if (c == '\n') lines.emplace_back();
  }
  std::string& line = lines[random.Below(lines.size())];
  switch (random.Below(4)) {
    case 0:
      line += random.Pick(lines);
      break;
    case 1:
      std::swap(line, lines[random.Below(lines.size())]);
      break;
    case 2:
      line.clear();
      break;
    default:
      MutateBytes(line);
      break;
  }
  text.clear();
  for (const std::string& l : lines) text += l;
}

}  // namespace

void Mutate(std::string& input, Random& random) {
  random.OneIn(4) ? MutateBytes(input) : MutateLines(input, random);
}

}  // namespace sconce

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string manifest(reinterpret_cast<const char*>(data), size);
  sconce::WithinMeans(size, [&] {
    const absl::StatusOr<sconce::Sha256Digest> digest =
        sconce::DigestInManifest(manifest, sconce::kName);
    digest.ok() ? sconce::CheckFound(manifest, *digest) : sconce::RequireGoodError(digest.status());
  });
  return 0;
}
