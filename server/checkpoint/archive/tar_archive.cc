#include "server/checkpoint/archive/tar_archive.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/printable.h"
#include "server/checkpoint/error_context.h"

namespace sconce {
namespace {

constexpr int64_t kBlockBytes = 512;
constexpr int64_t kMaxExtendedBytes = 64 << 10;
// The members with an extended header each, and a global one.
constexpr int kMaxHeaders = 16;

// Offset and size of the header's fields.
constexpr size_t kName = 0, kNameSize = 100;
constexpr size_t kSize = 124, kSizeSize = 12;
constexpr size_t kChecksum = 148, kChecksumSize = 8;
constexpr size_t kType = 156;
constexpr size_t kPrefix = 345;

using Members = std::map<std::string, FileSection, std::less<>>;

struct Header {
  std::string name;
  int64_t size_bytes = 0;
  char type = '0';
};

// Octal digits up to a space or NUL.
std::optional<int64_t> ParseOctal(std::string_view field) {
  while (field.starts_with(' ')) field.remove_prefix(1);
  int64_t number = 0;
  size_t digits = 0;
  for (; digits < field.size() && field[digits] >= '0' && field[digits] <= '7'; ++digits) {
    number = number * 8 + (field[digits] - '0');  // 12 digits at most
  }
  if (digits == 0) return std::nullopt;
  for (const char c : field.substr(digits)) {
    if (c != ' ' && c != '\0') return std::nullopt;
  }
  return number;
}

absl::StatusOr<Header> ParseHeader(std::string_view block) {
  if (!block.substr(257).starts_with("ustar")) {
    return Refused("expected 'ustar' in the header, got something else");
  }
  uint32_t sum = 0;
  for (size_t i = 0; i < block.size(); ++i) {
    const bool is_checksum = i >= kChecksum && i < kChecksum + kChecksumSize;
    sum += is_checksum ? ' ' : static_cast<uint8_t>(block[i]);
  }
  if (ParseOctal(block.substr(kChecksum, kChecksumSize)) != sum) {
    return Refused("expected a header with the checksum that it gives, got another");
  }
  Header header;
  const std::string_view name = block.substr(kName, kNameSize);
  header.name = std::string(name.substr(0, std::min(name.find('\0'), name.size())));
  if (block[kPrefix] != '\0') header.name = absl::StrCat("(prefix)/", header.name);
  const std::optional<int64_t> size = ParseOctal(block.substr(kSize, kSizeSize));
  if (!size.has_value()) return Refused("expected a size in octal digits, got something else");
  header.size_bytes = *size;
  header.type = block[kType];
  return header;
}

// Lines "<length> <key>=<value>\n".
absl::Status CheckExtendedHeader(std::string_view text) {
  while (!text.empty() && text.front() != '\0') {
    const size_t space = text.find(' ');
    const size_t equals = text.find('=');
    const size_t end = text.find('\n');
    if (space == std::string_view::npos || equals == std::string_view::npos ||
        end == std::string_view::npos || !(space < equals && equals < end)) {
      return Refused("expected lines of keys and values in an extended header, got something else");
    }
    const std::string_view key = text.substr(space + 1, equals - space - 1);
    if (key == "path" || key == "size" || key == "linkpath" || key.starts_with("GNU.")) {
      return Refused("expected an extended header without '", Printable(key), "', got one with it");
    }
    text.remove_prefix(end + 1);
  }
  return absl::OkStatus();
}

class TarReader {
 public:
  TarReader(const File& file, absl::Span<const std::string_view> names)
      : file_(file), names_(names) {}

  absl::StatusOr<Members> Run() {
    for (int headers = 0;; ++headers) {
      if (headers > kMaxHeaders)
        return Refused("expected at most ", kMaxHeaders, " headers, got more");
      const absl::StatusOr<bool> more = Next();
      if (!more.ok()) return InContext(absl::StrCat("tar byte ", header_at_), more.status());
      if (!*more) break;
    }
    for (const std::string_view name : names_) {
      if (!members_.contains(name)) {
        return Refused("expected a member '", std::string(name),
                       "', got a tar archive without: ", "torch.save did not write it");
      }
    }
    return std::move(members_);
  }

 private:
  // Takes one header with its data; false at the end.
  absl::StatusOr<bool> Next() {
    header_at_ = at_;
    std::array<char, kBlockBytes> block;
    if (file_.size_bytes() - at_ < kBlockBytes) {
      return Refused("expected a header of ", kBlockBytes, " bytes, got ",
                     file_.size_bytes() - at_);
    }
    absl::Status read =
        ReadFrom(file_, at_, {reinterpret_cast<std::byte*>(block.data()), block.size()});
    if (!read.ok()) return read;
    at_ += kBlockBytes;
    if (std::all_of(block.begin(), block.end(), [](char c) { return c == '\0'; })) return false;
    const absl::StatusOr<Header> header = ParseHeader({block.data(), block.size()});
    if (!header.ok()) return header.status();
    if (header->size_bytes > file_.size_bytes() - at_) {
      return Refused("expected a member of at most the ", file_.size_bytes() - at_,
                     " bytes that remain, got ", header->size_bytes);
    }
    absl::Status taken =
        header->type == 'x' || header->type == 'g' ? TakeExtended(*header) : TakeMember(*header);
    if (!taken.ok()) return taken;
    const int64_t padding = (kBlockBytes - header->size_bytes % kBlockBytes) % kBlockBytes;
    at_ = std::min(at_ + header->size_bytes + padding, file_.size_bytes());
    return true;
  }

  absl::Status TakeExtended(const Header& header) {
    if (header.size_bytes > kMaxExtendedBytes) {
      return Refused("expected an extended header of at most ", kMaxExtendedBytes, " bytes, got ",
                     header.size_bytes);
    }
    std::string text(static_cast<size_t>(header.size_bytes), '\0');
    absl::Status read =
        ReadFrom(file_, at_, {reinterpret_cast<std::byte*>(text.data()), text.size()});
    if (!read.ok()) return read;
    return CheckExtendedHeader(text);
  }

  absl::Status TakeMember(const Header& header) {
    if (header.type != '0' && header.type != '\0') {
      return Refused("expected regular files, got '", Printable(header.name), "' of type '",
                     Printable({&header.type, 1}), "', such as a link or a folder");
    }
    if (std::find(names_.begin(), names_.end(), header.name) == names_.end()) {
      return Refused(
          "expected members ",
          absl::StrJoin(names_, ", ",
                        [](std::string* out, std::string_view name) { out->append(name); }),
          ", got '", Printable(header.name), "': torch.save did not write this; unpack it first");
    }
    const FileSection section{.offset = at_, .end = at_ + header.size_bytes};
    if (members_.emplace(header.name, section).second) return absl::OkStatus();
    return Refused("expected each member once, got '", Printable(header.name), "' twice");
  }

  const File& file_;
  const absl::Span<const std::string_view> names_;
  Members members_;
  int64_t at_ = 0;
  int64_t header_at_ = 0;
};

}  // namespace

absl::StatusOr<Members> ReadTarMembers(const File& file, absl::Span<const std::string_view> names) {
  return TarReader(file, names).Run();
}

}  // namespace sconce
