// Zip archives as lists of records. What is changed in a record's bytes gets the sizes, checksum
// and offsets that belong to it; or one field is made to lie while all others tell the truth.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/checkpoint/little_endian.h"
#include "tests/fuzz/mutators.h"
#include "tests/support/checkpoint_builders.h"

namespace sconce {
namespace {

constexpr size_t kEndSize = 22;
constexpr size_t kCentralSize = 46;
constexpr size_t kLocalSize = 30;

template <typename T>
T Load(std::string_view bytes, size_t at) {
  return LoadLittleEndian<T>(bytes.data() + at);
}

// The records of an archive without zip64 sizes, which nothing small enough to fuzz has. Nullopt
// where the archive is too broken to tell.
std::optional<ZipBuilder> DecodeZip(std::string_view bytes) {
  const size_t end = bytes.rfind("PK\5\6");
  if (end == std::string_view::npos || bytes.size() - end < kEndSize) return std::nullopt;
  const auto count = Load<uint16_t>(bytes, end + 10);
  size_t at = Load<uint32_t>(bytes, end + 16);
  ZipBuilder zip;
  zip.zip64 = bytes.find("PK\6\6") != std::string_view::npos;
  for (size_t i = 0; i < count; ++i) {
    if (at > bytes.size() || bytes.size() - at < kCentralSize) return std::nullopt;
    const size_t name_size = Load<uint16_t>(bytes, at + 28);
    const size_t extra_size = Load<uint16_t>(bytes, at + 30);
    const size_t comment_size = Load<uint16_t>(bytes, at + 32);
    const size_t stored_size = Load<uint32_t>(bytes, at + 20);
    const size_t local = Load<uint32_t>(bytes, at + 42);
    if (local > bytes.size() || bytes.size() - local < kLocalSize) return std::nullopt;
    const size_t data =
        local + kLocalSize + Load<uint16_t>(bytes, local + 26) + Load<uint16_t>(bytes, local + 28);
    if (name_size > bytes.size() - at - kCentralSize || data > bytes.size() ||
        stored_size > bytes.size() - data) {
      return std::nullopt;
    }
    ZipRecord record;
    record.flags = Load<uint16_t>(bytes, at + 8);
    record.method = Load<uint16_t>(bytes, at + 10);
    if (record.method != 0) record.size = Load<uint32_t>(bytes, at + 24);
    record.name = bytes.substr(at + kCentralSize, name_size);
    record.data = bytes.substr(data, stored_size);
    zip.records.push_back(record);
    at += kCentralSize + name_size + extra_size + comment_size;
  }
  return zip;
}

void MutateContent(ZipRecord& record, Random& random) {
  constexpr std::string_view kNotes[] = {"little", "big", "3\n", "1", "10", "64", "0", "pt2", "-1"};
  if (record.name.ends_with(".pkl")) return MutatePickle(record.data, random);
  if (record.name.ends_with(".json")) return MutateJson(record.data, random);
  // Archives lie in archives: .pt2 packages hold files of torch.save.
  if (record.data.starts_with("PK")) return MutateZip(record.data, random);
  if (random.OneIn(2)) return MutateBytes(record.data);
  record.data = random.Pick(kNotes);
}

void MutateName(std::string& name, Random& random) {
  constexpr std::string_view kParts[] = {"archive/data/0",
                                         "archive/data/1",
                                         "archive/data.pkl",
                                         "archive/constants.pkl",
                                         "archive/version",
                                         "archive/byteorder",
                                         "archive/.data/version",
                                         "../x",
                                         "/x",
                                         "a\\b",
                                         "archive/archive_format",
                                         "archive/DATA/0",
                                         "other/x",
                                         "archive/",
                                         "archive/data/weights/w.pt"};
  random.OneIn(2) ? MutateBytes(name) : void(name = random.Pick(kParts));
}

// One field says something else than the rest of the archive.
void MutateField(ZipRecord& record, Random& random) {
  const auto number = static_cast<uint32_t>(random.Integer());
  switch (random.Below(14)) {
    case 0:
      record.local_name = record.name;
      return MutateName(*record.local_name, random);
    case 1:
      return MutateName(record.name, random);
    case 2:
      record.method = random.OneIn(2) ? 8 : static_cast<uint16_t>(number);
      return;
    case 3:
      record.flags = static_cast<uint16_t>(1u << random.Below(16));
      return;
    case 4:
      record.local_flags = static_cast<uint16_t>(1u << random.Below(16));
      return;
    case 5:
      record.local_method = static_cast<uint16_t>(number);
      return;
    case 6:
      record.crc = number;
      return;
    case 7:
      record.stored_size = number;
      return;
    case 8:
      record.size = number;
      return;
    case 9:
      record.local_offset = number;
      return;
    case 10:
      record.disk = static_cast<uint16_t>(number);
      return;
    case 11:
      record.local_stored_size = record.local_size = number;
      return;
    case 12:
      // A zip64 field, for sizes that the 32-bit fields leave to it.
      record.stored_size = record.size = 0xFFFFFFFF;
      record.central_extra = LittleEndian<uint16_t>(1) + LittleEndian<uint16_t>(16) +
                             LittleEndian<uint64_t>(record.data.size()) +
                             LittleEndian<uint64_t>(record.data.size());
      if (random.OneIn(2)) MutateBytes(record.central_extra);
      return;
    default:
      return MutateBytes(random.OneIn(2) ? record.local_extra : record.central_extra);
  }
}

void MutateEnd(ZipBuilder& zip, Random& random) {
  const int64_t number = random.Integer();
  const size_t field = random.Below(8);
  if (field == 7) return MutateBytes(random.OneIn(2) ? zip.before_end : zip.after_end);
  zip.change_end = [number, field](ZipBuilder::End& end) {
    const auto changed = [number](auto& value) {
      value = static_cast<std::remove_reference_t<decltype(value)>>(number);
    };
    switch (field) {
      case 0:
        return changed(end.entries);
      case 1:
        return changed(end.directory_size);
      case 2:
        return changed(end.directory_offset);
      case 3:
        return changed(end.small_entries);
      case 4:
        return changed(end.small_directory_size);
      case 5:
        return changed(end.small_directory_offset);
      default:
        return changed(end.locator_offset);
    }
  };
}

}  // namespace

void MutateZip(std::string& bytes, Random& random) {
  std::optional<ZipBuilder> zip;
  if (!random.OneIn(10)) zip = DecodeZip(bytes);
  if (!zip.has_value() || zip->records.empty()) return MutateBytes(bytes);
  std::vector<ZipRecord>& records = zip->records;
  const size_t chosen = random.Below(records.size());
  const auto at = records.begin() + static_cast<ptrdiff_t>(chosen);
  switch (random.Below(10)) {
    case 0:
      MutateField(*at, random);
      break;
    case 1:
      MutateEnd(*zip, random);
      break;
    case 2:
      records.erase(at);
      break;
    case 3:
      records.insert(at, ZipRecord(random.Pick(records)));
      if (!random.OneIn(3)) MutateName(records[chosen].name, random);
      break;
    case 4:
      MutateName(at->name, random);
      break;
    case 5:
      MutateContent(*at, random);
      break;
    default:
      // Most of what can go wrong is in what the records of structure say.
      for (size_t i = 0; i < records.size(); ++i) {
        ZipRecord& record = records[(chosen + i) % records.size()];
        if (!record.name.ends_with(".pkl") && !record.name.ends_with(".json")) continue;
        MutateContent(record, random);
        break;
      }
      break;
  }
  bytes = zip->Build();
}

}  // namespace sconce
