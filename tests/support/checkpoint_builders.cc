#include "tests/support/checkpoint_builders.h"

#include <cstddef>

#include "absl/types/span.h"
#include "server/checkpoint/data/crc32.h"

namespace sconce {
namespace pickle {

std::string Stream(std::string_view opcodes, int protocol) {
  return std::string("\x80") + static_cast<char>(protocol) + std::string(opcodes) + ".";
}

std::string None() { return "N"; }
std::string Bool(bool value) { return value ? "\x88" : "\x89"; }

std::string Int(int64_t value) {
  if (value >= INT32_MIN && value <= INT32_MAX) {
    return "J" + LittleEndian(static_cast<int32_t>(value));
  }
  return "\x8a\x08" + LittleEndian(value);
}

std::string Str(std::string_view text) {
  return "X" + LittleEndian(static_cast<uint32_t>(text.size())) + std::string(text);
}

std::string Global(std::string_view module, std::string_view name) {
  return "c" + std::string(module) + "\n" + std::string(name) + "\n";
}

namespace {

std::string Joined(const std::vector<std::string>& items) {
  std::string joined;
  for (const std::string& item : items) joined += item;
  return joined;
}

std::string Filled(const std::vector<std::pair<std::string, std::string>>& keys_and_values) {
  if (keys_and_values.empty()) return "";
  std::string items = "(";
  for (const auto& [key, value] : keys_and_values) items += Str(key) + value;
  return items + "u";
}

}  // namespace

std::string Tuple(const std::vector<std::string>& items) { return "(" + Joined(items) + "t"; }
std::string List(const std::vector<std::string>& items) { return "](" + Joined(items) + "e"; }

std::string Dict(const std::vector<std::pair<std::string, std::string>>& keys_and_values) {
  return "}" + Filled(keys_and_values);
}

std::string Call(std::string_view callable, std::string_view arguments) {
  return std::string(callable) + std::string(arguments) + "R";
}

std::string OrderedDict(const std::vector<std::pair<std::string, std::string>>& keys_and_values,
                        const std::string& metadata) {
  std::string dict = Call(Global("collections", "OrderedDict"), ")") + Filled(keys_and_values);
  if (!metadata.empty()) dict += Dict({{"_metadata", metadata}}) + "b";
  return dict;
}

std::string Put(uint8_t index) { return std::string("q") + static_cast<char>(index); }
std::string Get(uint8_t index) { return std::string("h") + static_cast<char>(index); }

}  // namespace pickle

std::string TensorPickle::Arguments() const {
  const auto integers = [](const std::vector<int64_t>& values) {
    std::vector<std::string> items;
    for (const int64_t value : values) items.push_back(pickle::Int(value));
    return pickle::Tuple(items);
  };
  const std::string id =
      persistent_id.value_or(pickle::Tuple({pickle::Str("storage"), storage_class, pickle::Str(key),
                                            pickle::Str("cpu"), pickle::Int(numel)}));
  std::vector<std::string> arguments = {
      id + "Q",          pickle::Int(offset), integers(shape),
      integers(strides), pickle::Bool(false), pickle::OrderedDict({})};
  if (!dtype.empty()) arguments.push_back(dtype);
  if (!metadata.empty()) arguments.push_back(metadata);
  return pickle::Tuple(arguments);
}

std::string TensorPickle::Build() const {
  return pickle::Call(
      pickle::Global("torch._utils", dtype.empty() ? "_rebuild_tensor_v2" : "_rebuild_tensor_v3"),
      Arguments());
}

std::string ZipBuilder::Build() const {
  std::string file, directory;
  for (const ZipRecord& record : records) {
    const size_t offset = file.size();
    const std::string& local_name = record.local_name.value_or(record.name);
    const auto size = static_cast<uint32_t>(record.data.size());
    const uint32_t crc = record.crc.value_or(ExtendCrc32(
        0, {reinterpret_cast<const std::byte*>(record.data.data()), record.data.size()}));
    // PyTorch pads each record's data to 64 bytes with an extra field "FB".
    std::string extra = record.local_extra;
    const size_t unpadded = offset + 30 + local_name.size() + extra.size() + 4;
    const size_t padding = (64 - unpadded % 64) % 64;
    extra += "FB" + LittleEndian(static_cast<uint16_t>(padding)) + std::string(padding, 'Z');

    file += LittleEndian<uint32_t>(0x04034b50) + LittleEndian<uint16_t>(0) +
            LittleEndian(record.local_flags.value_or(record.flags)) +
            LittleEndian(record.local_method.value_or(record.method)) + LittleEndian<uint32_t>(0) +
            LittleEndian(record.local_crc) + LittleEndian(record.local_stored_size) +
            LittleEndian(record.local_size) +
            LittleEndian(static_cast<uint16_t>(local_name.size())) +
            LittleEndian(static_cast<uint16_t>(extra.size())) + local_name + extra + record.data;
    if ((record.flags & 8) != 0 && !record.data.empty()) {
      file += "PK\7\10" + LittleEndian(crc) + LittleEndian(size) + LittleEndian(size);
    }
    directory += LittleEndian<uint32_t>(0x02014b50) + LittleEndian<uint16_t>(0) +
                 LittleEndian<uint16_t>(0) + LittleEndian(record.flags) +
                 LittleEndian(record.method) + LittleEndian<uint32_t>(0) + LittleEndian(crc) +
                 LittleEndian(record.stored_size.value_or(size)) +
                 LittleEndian(record.size.value_or(size)) +
                 LittleEndian(static_cast<uint16_t>(record.name.size())) +
                 LittleEndian(static_cast<uint16_t>(record.central_extra.size())) +
                 LittleEndian<uint16_t>(0) + LittleEndian(record.disk) + LittleEndian<uint16_t>(0) +
                 LittleEndian<uint32_t>(0) +
                 LittleEndian(record.local_offset.value_or(static_cast<uint32_t>(offset))) +
                 record.name + record.central_extra;
  }
  End end;
  end.entries = records.size();
  end.directory_size = directory.size();
  end.directory_offset = file.size();
  end.small_entries = static_cast<uint16_t>(records.size());
  end.small_directory_size = static_cast<uint32_t>(directory.size());
  end.small_directory_offset = static_cast<uint32_t>(file.size());
  end.locator_offset = file.size() + directory.size() + before_end.size();
  if (change_end) change_end(end);

  file += directory + before_end;
  if (zip64) {
    file += LittleEndian<uint32_t>(0x06064b50) + LittleEndian(end.zip64_record_size) +
            LittleEndian<uint16_t>(0) + LittleEndian<uint16_t>(0) + LittleEndian<uint32_t>(0) +
            LittleEndian<uint32_t>(0) + LittleEndian(end.entries) + LittleEndian(end.entries) +
            LittleEndian(end.directory_size) + LittleEndian(end.directory_offset);
    file += LittleEndian<uint32_t>(0x07064b50) + LittleEndian<uint32_t>(0) +
            LittleEndian(end.locator_offset) + LittleEndian(end.disks);
  }
  file += LittleEndian<uint32_t>(0x06054b50) + LittleEndian<uint16_t>(0) +
          LittleEndian<uint16_t>(0) + LittleEndian(end.small_entries) +
          LittleEndian(end.small_entries) + LittleEndian(end.small_directory_size) +
          LittleEndian(end.small_directory_offset) + LittleEndian<uint16_t>(0);
  return file + after_end;
}

ZipBuilder TorchZip(std::string_view stream,
                    const std::vector<std::pair<std::string, std::string>>& storages) {
  const auto record = [](std::string name, std::string data) {
    ZipRecord made;
    made.name = "archive/" + std::move(name);
    made.data = std::move(data);
    return made;
  };
  ZipBuilder zip;
  zip.records.push_back(record("data.pkl", std::string(stream)));
  zip.records.push_back(record(".format_version", "1"));
  zip.records.push_back(record(".storage_alignment", "64"));
  zip.records.push_back(record("byteorder", "little"));
  for (const auto& [key, bytes] : storages) zip.records.push_back(record("data/" + key, bytes));
  zip.records.push_back(record("version", "3\n"));
  zip.records.push_back(record(".data/serialization_id", "0123456789"));
  return zip;
}

std::string SmallTorchFile(const std::vector<std::pair<std::string, std::vector<float>>>& tensors) {
  std::vector<std::pair<std::string, std::string>> entries, storages;
  for (const auto& [name, values] : tensors) {
    TensorPickle tensor;
    tensor.key = std::to_string(storages.size());
    tensor.numel = static_cast<int64_t>(values.size());
    tensor.shape = {tensor.numel};
    tensor.strides = {1};
    entries.emplace_back(name, tensor.Build());
    storages.emplace_back(tensor.key, Bytes(values));
  }
  return TorchZip(pickle::Stream(pickle::OrderedDict(entries)), storages).Build();
}

std::string LegacyFile::Build() const {
  const auto or_default = [](const std::string& given, const std::string& otherwise) {
    return given.empty() ? otherwise : given;
  };
  std::vector<std::string> known_keys;
  for (const Storage& storage : storages) known_keys.push_back(pickle::Str(storage.key));
  std::string file =
      or_default(magic, pickle::Stream("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")) +
      or_default(protocol, pickle::Stream(pickle::Int(1001))) +
      or_default(sys_info, pickle::Stream(pickle::Dict({{"little_endian", pickle::Bool(true)}}))) +
      object + or_default(keys, pickle::Stream(pickle::List(known_keys)));
  for (const Storage& storage : storages) file += LittleEndian(storage.count) + storage.bytes;
  return file;
}

std::string Tar(const std::vector<TarMember>& members) {
  const auto octal = [](size_t number, size_t digits) {
    std::string text;
    for (size_t i = digits; i-- > 0;) text += static_cast<char>('0' + (number >> (3 * i) & 7));
    return text;
  };
  std::string file;
  for (const TarMember& member : members) {
    std::string header(512, '\0');
    const auto put = [&](size_t at, const std::string& text) {
      header.replace(at, text.size(), text);
    };
    put(0, member.name);
    put(124, member.size.value_or(octal(member.data.size(), 11)));
    put(148, std::string(8, ' '));
    header[156] = member.type;
    put(157, member.link);
    put(257, std::string("ustar\0"
                         "00",
                         8));
    size_t sum = member.good_checksum ? 0 : 1;
    for (const char c : header) sum += static_cast<uint8_t>(c);
    put(148, octal(sum, 6) + std::string("\0 ", 2));
    file += header + member.data;
    file.resize((file.size() + 511) / 512 * 512);
  }
  return file + std::string(1024, '\0');
}

std::string SafetensorsFile(std::string_view header, std::string_view data,
                            std::optional<uint64_t> header_size) {
  return LittleEndian(header_size.value_or(header.size())) + std::string(header) +
         std::string(data);
}

}  // namespace sconce
