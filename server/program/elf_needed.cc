#include "server/program/elf_needed.h"

#include <elf.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace sconce {
namespace {

// Reads of untrusted places; none where they are not within the bytes.
class Bytes {
 public:
  explicit Bytes(absl::Span<const std::byte> all) : all_(all) {}

  template <typename T>
  std::optional<T> At(uint64_t offset) const {
    if (offset > all_.size() || all_.size() - offset < sizeof(T)) return std::nullopt;
    T value;
    std::memcpy(&value, all_.data() + offset, sizeof(T));
    return value;
  }

  std::optional<std::string_view> TextAt(uint64_t offset) const {
    if (offset >= all_.size()) return std::nullopt;
    const auto* const begin = reinterpret_cast<const char*>(all_.data()) + offset;
    const auto* const end = static_cast<const char*>(std::memchr(begin, 0, all_.size() - offset));
    if (end == nullptr) return std::nullopt;
    return std::string_view(begin, static_cast<size_t>(end - begin));
  }

 private:
  const absl::Span<const std::byte> all_;
};

struct Dynamic {
  uint64_t offset = 0;  // of the first entry in the file
  std::vector<Elf64_Dyn> entries;
  uint64_t strings = 0;  // where the names are in the file
};

std::optional<std::vector<Elf64_Phdr>> ReadSegments(const Bytes& bytes) {
  const auto header = bytes.At<Elf64_Ehdr>(0);
  if (!header.has_value() || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
      header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
      header->e_phentsize != sizeof(Elf64_Phdr)) {
    return std::nullopt;
  }
  std::vector<Elf64_Phdr> segments;
  for (uint64_t i = 0; i < header->e_phnum; ++i) {
    const auto segment = bytes.At<Elf64_Phdr>(header->e_phoff + i * sizeof(Elf64_Phdr));
    if (!segment.has_value()) return std::nullopt;
    segments.push_back(*segment);
  }
  return segments;
}

std::optional<Dynamic> ReadDynamic(const Bytes& bytes) {
  const auto segments = ReadSegments(bytes);
  if (!segments.has_value()) return std::nullopt;
  const auto dynamic = std::find_if(segments->begin(), segments->end(), [](const auto& segment) {
    return segment.p_type == PT_DYNAMIC;
  });
  if (dynamic == segments->end()) return std::nullopt;
  Dynamic found;
  found.offset = dynamic->p_offset;
  uint64_t strings_address = 0;
  for (uint64_t i = 0;; ++i) {
    const auto entry = bytes.At<Elf64_Dyn>(found.offset + i * sizeof(Elf64_Dyn));
    if (!entry.has_value()) return std::nullopt;
    if (entry->d_tag == DT_NULL) break;
    if (entry->d_tag == DT_STRTAB) strings_address = entry->d_un.d_ptr;
    found.entries.push_back(*entry);
  }
  for (const Elf64_Phdr& segment : *segments) {
    if (segment.p_type != PT_LOAD || strings_address < segment.p_vaddr ||
        strings_address - segment.p_vaddr >= segment.p_filesz) {
      continue;
    }
    found.strings = segment.p_offset + (strings_address - segment.p_vaddr);
    return found;
  }
  return std::nullopt;
}

}  // namespace

absl::Status ReplaceNeeded(absl::Span<std::byte> library, std::string_view name,
                           std::string_view instead) {
  const Bytes bytes(library);
  const auto dynamic = ReadDynamic(bytes);
  if (!dynamic.has_value()) {
    return absl::InvalidArgumentError("expected a shared library, got something else");
  }
  const auto find = [&](std::string_view wanted) {
    return std::find_if(dynamic->entries.begin(), dynamic->entries.end(), [&](const auto& entry) {
      return entry.d_tag == DT_NEEDED &&
             bytes.TextAt(dynamic->strings + entry.d_un.d_val) == wanted;
    });
  };
  const auto entry = find(name);
  if (entry == dynamic->entries.end()) return absl::OkStatus();
  const auto other = find(instead);
  if (other == dynamic->entries.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the library wants ", std::string(name), " and not ", std::string(instead)));
  }
  const auto place = static_cast<uint64_t>(entry - dynamic->entries.begin());
  std::memcpy(library.data() + dynamic->offset + place * sizeof(Elf64_Dyn), &*other,
              sizeof(Elf64_Dyn));
  return absl::OkStatus();
}

}  // namespace sconce
