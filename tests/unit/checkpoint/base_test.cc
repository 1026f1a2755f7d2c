// The pieces of server/base that reading files stands on, and the zip checksum.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/base/content_hash.h"
#include "server/base/dtype.h"
#include "server/base/file.h"
#include "server/base/printable.h"
#include "server/checkpoint/data/crc32.h"
#include "tests/support/temp_dir.h"

namespace sconce {
namespace {

using namespace std::string_literals;

absl::Span<const std::byte> AsBytes(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

TEST(DTypeTest, NamesLeadBackToTheirTypes) {
  for (int i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(DTypeFromName(DTypeName(dtype)), dtype);
    if (!OipDatatype(dtype).empty()) {
      EXPECT_EQ(DTypeFromOip(OipDatatype(dtype)), dtype);
    }
  }
  EXPECT_EQ(OipDatatype(DType::kFloat32), "FP32");
  EXPECT_EQ(OipDatatype(DType::kBytes), "BYTES");
  EXPECT_EQ(OipDatatype(DType::kComplex64), "");
  EXPECT_EQ(DTypeFromOip(""), std::nullopt);
  EXPECT_EQ(DTypeFromOip("fp32"), std::nullopt);
  EXPECT_EQ(DTypeFromName("half"), std::nullopt);
}

TEST(PrintableTest, TextStaysAndTricksAreEscaped) {
  EXPECT_EQ(Printable("layer.0.weight"), "layer.0.weight");
  EXPECT_EQ(Printable("größe 层"), "größe 层");
  EXPECT_EQ(Printable("a\nb\tc\rd"), "a\\nb\\tc\\rd");
  EXPECT_EQ(Printable("\x1b[31m\0"s), "\\x1b[31m\\x00");
  EXPECT_EQ(Printable("back\\slash"), "back\\\\slash");
  EXPECT_EQ(Printable("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(Printable("a\u202Eb\u2028\u200B"), "a\\u{202e}b\\u{2028}\\u{200b}");
  EXPECT_EQ(Printable("\u0085"), "\\u{85}");
  EXPECT_EQ(Printable(""), "");
}

TEST(PrintableTest, LengthIsCapped) {
  EXPECT_EQ(Printable("12345", 5), "12345");
  EXPECT_EQ(Printable("123456", 5), "12345...");
  EXPECT_EQ(Printable("1234é", 5), "1234...");
  EXPECT_EQ(Printable("1234\n", 5), "1234...");
  EXPECT_LE(Printable(std::string(1'000'000, '\x01')).size(), 203u);
}

TEST(ContentHasherTest, EqualsTheReferenceHash) {
  ContentHasher hasher;
  EXPECT_EQ(hasher.Finish().Hex(), "99aa06d3014798d86001c324468d497f");
  hasher.Update(AsBytes("ab"));
  hasher.Update({});
  hasher.Update(AsBytes("c"));
  EXPECT_EQ(hasher.Finish().Hex(), "06b05ab6733a618578af5f94892f3950");
  ContentHasher whole;
  whole.Update(AsBytes("abc"));
  EXPECT_EQ(whole.Finish(), hasher.Finish());
  whole.Update(AsBytes("d"));
  EXPECT_FALSE(whole.Finish() == hasher.Finish());
}

TEST(Crc32Test, EqualsTheReferenceInAnyPieces) {
  EXPECT_EQ(ExtendCrc32(0, {}), 0u);
  EXPECT_EQ(ExtendCrc32(0, AsBytes("123456789")), 0xCBF43926u);
  const std::string long_text(1000, 'x');
  const uint32_t whole = ExtendCrc32(0, AsBytes(long_text));
  EXPECT_EQ(whole, 0x3B41C9E6u);
  for (const size_t cut : {1, 15, 16, 17, 500, 999}) {
    const uint32_t first = ExtendCrc32(0, AsBytes(long_text.substr(0, cut)));
    EXPECT_EQ(ExtendCrc32(first, AsBytes(long_text.substr(cut))), whole);
  }
}

TEST(FileTest, ReadsWhatIsAskedFor) {
  const TempDir folder;
  folder.Write("f", "0123456789");
  absl::StatusOr<File> opened = File::Open(folder.Path("f"));
  ASSERT_TRUE(opened.ok()) << opened.status();
  const File file = *std::move(opened);
  EXPECT_EQ(file.size_bytes(), 10);
  EXPECT_EQ(file.path(), folder.Path("f"));
  EXPECT_EQ(file.fingerprint(), *FingerprintOf(folder.Path("f")));
  std::string out(4, ' ');
  const auto span = absl::MakeSpan(reinterpret_cast<std::byte*>(out.data()), out.size());
  ASSERT_TRUE(file.ReadAt(6, span).ok());
  EXPECT_EQ(out, "6789");
  EXPECT_EQ(file.ReadAt(7, span).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file.ReadAt(-1, span).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file.ReadAt(INT64_MAX, span).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(file.ReadAt(10, {}).ok());
}

TEST(FileTest, ErrorsNameThePath) {
  const TempDir folder;
  const absl::Status missing = File::Open(folder.Path("a\nb")).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(missing.message().find("a\\nb: cannot open"), std::string::npos) << missing;
  EXPECT_EQ(FingerprintOf(folder.Path("none")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(File::Open("with\0nul"s).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(File::Open("/dev/null").status().code(), absl::StatusCode::kInvalidArgument);
  folder.Write("f", "x");
  EXPECT_EQ(File::Open(folder.Path("f/below")).status().code(), absl::StatusCode::kNotFound);
  folder.Link("loop", "loop");
  EXPECT_EQ(File::Open(folder.Path("loop")).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(FileTest, MovedFilesStayOpen) {
  const TempDir folder;
  folder.Write("a", "a");
  folder.Write("b", "b");
  File file = *File::Open(folder.Path("a"));
  file = *File::Open(folder.Path("b"));
  std::byte byte;
  ASSERT_TRUE(file.ReadAt(0, {&byte, 1}).ok());
  EXPECT_EQ(static_cast<char>(byte), 'b');
}

}  // namespace
}  // namespace sconce
