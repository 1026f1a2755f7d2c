// Builders of checkpoint files, byte by byte: sound ones as PyTorch and safetensors write them, and
// hostile ones, in which every field can be made to lie.

#ifndef SCONCE_TESTS_SUPPORT_CHECKPOINT_BUILDERS_H_
#define SCONCE_TESTS_SUPPORT_CHECKPOINT_BUILDERS_H_

#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace sconce {

// The bytes of an integer or float, lowest first.
template <typename T>
std::string LittleEndian(T value) {
  static_assert(std::is_arithmetic_v<T>);
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

// The bytes of an array of numbers.
template <typename T>
std::string Bytes(const std::vector<T>& numbers) {
  std::string bytes;
  for (const T number : numbers) bytes += LittleEndian(number);
  return bytes;
}

// Opcode sequences. Each function returns what pushes one value, without memo entries; Stream puts
// PROTO and STOP around it.
namespace pickle {

std::string Stream(std::string_view opcodes, int protocol = 2);

std::string None();
std::string Bool(bool value);
std::string Int(int64_t value);
std::string Str(std::string_view text);
std::string Global(std::string_view module, std::string_view name);
std::string Tuple(const std::vector<std::string>& items);
std::string List(const std::vector<std::string>& items);
std::string Dict(const std::vector<std::pair<std::string, std::string>>& keys_and_values);
std::string Call(std::string_view callable, std::string_view arguments);  // REDUCE
// An OrderedDict; `metadata`, where given, becomes its attribute _metadata.
std::string OrderedDict(const std::vector<std::pair<std::string, std::string>>& keys_and_values,
                        const std::string& metadata = "");
std::string Put(uint8_t index);  // stores the top value, pushes nothing
std::string Get(uint8_t index);

}  // namespace pickle

// A tensor as torch.save pickles it. The strings are opcode sequences, so that each can lie.
struct TensorPickle {
  std::string key = "0";
  std::string storage_class = pickle::Global("torch", "FloatStorage");
  int64_t numel = 0;
  int64_t offset = 0;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
  std::optional<std::string> persistent_id;  // in place of the five items
  std::string metadata;                      // a seventh argument: conj and neg
  std::string dtype;                         // makes it _rebuild_tensor_v3

  std::string Arguments() const;
  std::string Build() const;  // _rebuild_tensor_v2 or _v3
};

// One record of a zip archive. Where a field is not set, the truth is written.
struct ZipRecord {
  std::string name;
  std::string data;
  uint16_t method = 0;
  uint16_t flags = 0x0808;  // a data descriptor follows, names are UTF-8
  std::optional<std::string> local_name;
  std::optional<uint16_t> local_flags;
  std::optional<uint16_t> local_method;
  uint32_t local_crc = 0;
  uint32_t local_stored_size = 0;
  uint32_t local_size = 0;
  std::string local_extra;  // before the padding
  std::optional<uint32_t> crc;
  std::optional<uint32_t> stored_size;
  std::optional<uint32_t> size;
  std::optional<uint32_t> local_offset;
  std::string central_extra;
  uint16_t disk = 0;
};

struct ZipBuilder {
  std::vector<ZipRecord> records;
  bool zip64 = true;
  // Applied to the end records before they are written.
  struct End {
    uint64_t entries = 0, directory_size = 0, directory_offset = 0;  // zip64
    uint16_t small_entries = 0;
    uint32_t small_directory_size = 0, small_directory_offset = 0;
    uint64_t locator_offset = 0;
    uint64_t zip64_record_size = 44;
    uint32_t disks = 1;
  };
  std::function<void(End&)> change_end;
  std::string before_end;  // between the central directory and the end records
  std::string after_end;

  std::string Build() const;
};

// What torch.save writes around a pickle stream and its storages (key, bytes), under "archive/".
ZipBuilder TorchZip(std::string_view stream,
                    const std::vector<std::pair<std::string, std::string>>& storages = {});

// A whole file with one float tensor per name, [n] each, as the state_dict at the top.
std::string SmallTorchFile(const std::vector<std::pair<std::string, std::vector<float>>>& tensors);

// The format before PyTorch 1.6. Each part can be made to lie.
struct LegacyFile {
  std::string magic;  // whole pickles, as those that follow; empty: the true one
  std::string protocol;
  std::string sys_info;
  std::string object;
  std::string keys;  // empty: the list of the storages' keys
  struct Storage {
    std::string key;
    int64_t count = 0;  // of elements, as it stands before the bytes
    std::string bytes;
  };
  std::vector<Storage> storages;

  std::string Build() const;
};

// A member of a tar archive.
struct TarMember {
  std::string name;
  std::string data;
  char type = '0';
  std::string link = "";
  std::optional<std::string> size = std::nullopt;  // the field's bytes in place of the truth
  bool good_checksum = true;
};

std::string Tar(const std::vector<TarMember>& members);

// `header_size`, where given, lies about the header.
std::string SafetensorsFile(std::string_view header, std::string_view data,
                            std::optional<uint64_t> header_size = std::nullopt);

}  // namespace sconce

#endif  // SCONCE_TESTS_SUPPORT_CHECKPOINT_BUILDERS_H_
