#include "server/checkpoint/state_dict_extractor.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "server/base/printable.h"
#include "server/base/utf8.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

// In order of preference: what holds the weights themselves comes before averages of them.
constexpr std::array<std::string_view, 8> kKnownWrappers = {
    "state_dict", "model_state_dict", "model",    "model_state", "net",
    "ema",        "state_dict_ema",   "model_ema"};

constexpr size_t kMaxMetadataEntries = 256;
constexpr size_t kMaxKeysInMessage = 8;

// A module's own extra state, which PyTorch hands to the module and never loads as a tensor.
bool IsExtraState(std::string_view name) {
  return name == "_extra_state" || name.ends_with("._extra_state");
}

struct Entry {
  PickleId key;
  PickleId value;
};

class Extractor {
 public:
  Extractor(const PickleTree& tree, TensorRebuilder& rebuilder, CheckpointListing& listing)
      : tree_(tree), rebuilder_(rebuilder), listing_(listing) {}

  absl::Status Run() {
    const PickleId root = tree_.root();
    if (tree_.kind(root) != PickleKind::kDict) return RefuseRoot(root);
    const absl::StatusOr<PickleId> state_dict = ChooseStateDict(root);
    if (!state_dict.ok()) return state_dict.status();
    if (absl::Status added = AddEntries(*state_dict); !added.ok()) return added;
    AddModuleVersions(*state_dict);
    if (*state_dict != root) AddMetadata(root);
    return absl::OkStatus();
  }

 private:
  std::vector<Entry> Entries(PickleId dict) const {
    const absl::Span<const PickleId> items = tree_.KeysAndValues(dict);
    std::vector<Entry> entries;
    entries.reserve(items.size() / 2);
    for (size_t i = 0; i + 1 < items.size(); i += 2) entries.push_back({items[i], items[i + 1]});
    return entries;
  }

  absl::Status CheckEntryCount(PickleId dict) const {
    const size_t count = tree_.KeysAndValues(dict).size() / 2;
    if (count <= kMaxTensorCount) return absl::OkStatus();
    return Refused("expected at most ", kMaxTensorCount, " entries in a dict of tensors, got ",
                   count);
  }

  absl::Status RefuseRoot(PickleId root) const {
    if (rebuilder_.IsTensor(root)) {
      return Refused("expected a state_dict, got a single tensor without a name");
    }
    if (tree_.kind(root) == PickleKind::kCall) {
      return Refused("expected a state_dict, got an object of class ", tree_.TypeName(root),
                     ": a whole model, perhaps, of which this reads only what "
                     "torch.save(model.state_dict(), path) writes");
    }
    return Refused("expected a state_dict or a dict that holds one, got ",
                   PickleKindName(tree_.kind(root)));
  }

  // A dict that has a tensor among its values.
  bool IsStateDict(PickleId id) const {
    if (tree_.kind(id) != PickleKind::kDict) return false;
    const absl::Span<const PickleId> items = tree_.KeysAndValues(id);
    for (size_t i = 0; i + 1 < items.size(); i += 2) {
      if (rebuilder_.IsTensor(items[i + 1])) return true;
    }
    return false;
  }

  absl::StatusOr<PickleId> ChooseStateDict(PickleId root) {
    if (absl::Status moderate = CheckEntryCount(root); !moderate.ok()) return moderate;
    std::vector<std::pair<std::string_view, PickleId>> holders;
    std::set<std::string_view> keys;
    std::set<PickleId> examined;
    for (const Entry& entry : Entries(root)) {
      const std::optional<std::string_view> key = tree_.AsString(entry.key);
      if (!key.has_value() || IsExtraState(*key)) continue;
      if (!keys.insert(*key).second) {
        return Refused("expected each key once, got '", Printable(*key), "' twice");
      }
      if (entry.value == root) {
        return Refused("expected a state_dict under '", Printable(*key),
                       "', got the dict that holds this entry: a cycle");
      }
      // One dict under many keys is looked through once.
      if (examined.insert(entry.value).second && IsStateDict(entry.value)) {
        holders.emplace_back(*key, entry.value);
      }
    }
    for (const std::string_view wrapper : kKnownWrappers) {
      const auto chosen = std::find_if(holders.begin(), holders.end(),
                                       [&](const auto& holder) { return holder.first == wrapper; });
      if (chosen == holders.end()) continue;
      return Choose(chosen->first, chosen->second, holders);
    }
    if (IsStateDict(root)) return root;
    if (holders.size() == 1) return Choose(holders[0].first, holders[0].second, holders);
    if (holders.size() > 1) {
      return Refused("expected one state_dict, got several, under ", QuotedKeys(holders),
                     ", and none under a key that is known to hold the model (",
                     absl::StrJoin(kKnownWrappers, ", ", AppendView), ")");
    }
    return RefuseWithoutTensors(root);
  }

  absl::StatusOr<PickleId> Choose(
      std::string_view key, PickleId state_dict,
      const std::vector<std::pair<std::string_view, PickleId>>& holders) {
    listing_.wrapper = std::string(key);
    if (holders.size() > 1) {
      listing_.metadata.push_back({"state_dicts in the file", QuotedKeys(holders)});
    }
    return state_dict;
  }

  static void AppendView(std::string* out, std::string_view view) { out->append(view); }

  static std::string QuotedKeys(const std::vector<std::pair<std::string_view, PickleId>>& holders) {
    std::string quoted;
    for (size_t i = 0; i < std::min(holders.size(), kMaxKeysInMessage); ++i) {
      absl::StrAppend(&quoted, i == 0 ? "'" : ", '", Printable(holders[i].first), "'");
    }
    if (holders.size() > kMaxKeysInMessage) absl::StrAppend(&quoted, ", ...");
    return quoted;
  }

  absl::Status RefuseWithoutTensors(PickleId root) const {
    const std::vector<Entry> entries = Entries(root);
    std::string seen;
    for (size_t i = 0; i < std::min(entries.size(), kMaxKeysInMessage); ++i) {
      const std::optional<std::string_view> key = tree_.AsString(entries[i].key);
      absl::StrAppend(&seen, i == 0 ? "" : ", ",
                      key.has_value() ? absl::StrCat("'", Printable(*key), "'")
                                      : PickleKindName(tree_.kind(entries[i].key)),
                      ": ", tree_.TypeName(entries[i].value));
    }
    if (entries.size() > kMaxKeysInMessage) absl::StrAppend(&seen, ", ...");
    return Refused("expected a state_dict, or a dict that holds one, got a dict without any: {",
                   seen,
                   "}; a whole model has to be saved as torch.save(model.state_dict(), path)");
  }

  absl::Status AddEntries(PickleId state_dict) {
    if (absl::Status moderate = CheckEntryCount(state_dict); !moderate.ok()) return moderate;
    std::set<std::string_view> names;
    for (const Entry& entry : Entries(state_dict)) {
      const std::optional<std::string_view> name = tree_.AsString(entry.key);
      if (!name.has_value()) {
        return Refused("expected strings as keys of the state_dict, got ",
                       PickleKindName(tree_.kind(entry.key)));
      }
      const std::string where = absl::StrCat("tensor '", Printable(*name), "'");
      if (!IsUtf8(*name)) return InContext(where, Refused("expected a name in valid UTF-8"));
      if (!names.insert(*name).second) {
        return InContext(where, Refused("expected each name once in the state_dict, got it twice"));
      }
      if (entry.value == state_dict) {
        return InContext(where, Refused("expected a tensor, got the state_dict itself: a cycle"));
      }
      if (IsExtraState(*name) || tree_.kind(entry.value) == PickleKind::kNone) continue;
      if (!rebuilder_.IsTensor(entry.value)) {
        listing_.non_tensors.push_back({std::string(*name), tree_.TypeName(entry.value)});
        continue;
      }
      absl::StatusOr<TensorDescriptor> tensor = rebuilder_.Rebuild(entry.value);
      if (!tensor.ok()) return InContext(where, tensor.status());
      tensor->name = std::string(*name);
      listing_.tensors.push_back(*std::move(tensor));
    }
    return absl::OkStatus();
  }

  // state_dict._metadata: {module prefix: {'version': int}}. It is a hint, never a reason to fail.
  void AddModuleVersions(PickleId state_dict) {
    const PickleId state = tree_.State(state_dict);
    if (state == kNoPickle) return;
    const PickleId metadata = tree_.Lookup(state, "_metadata");
    if (metadata == kNoPickle || tree_.kind(metadata) != PickleKind::kDict) return;
    listing_.has_module_versions = true;
    for (const Entry& entry : Entries(metadata)) {
      const std::optional<std::string_view> prefix = tree_.AsString(entry.key);
      if (!prefix.has_value() || tree_.kind(entry.value) != PickleKind::kDict) continue;
      // PyTorch writes one or two entries; a shared huge dict would be searched again and again.
      if (tree_.KeysAndValues(entry.value).size() > kMaxVersionItems) continue;
      const PickleId version = tree_.Lookup(entry.value, "version");
      if (version == kNoPickle || tree_.kind(version) != PickleKind::kInt) continue;
      listing_.module_versions.emplace(std::string(*prefix), tree_.Int(version));
    }
  }

  // The scalars beside the state_dict.
  void AddMetadata(PickleId root) {
    for (const Entry& entry : Entries(root)) {
      if (listing_.metadata.size() >= kMaxMetadataEntries) return;
      const std::optional<std::string_view> key = tree_.AsString(entry.key);
      const std::optional<std::string> value = Display(entry.value);
      if (!key.has_value() || !value.has_value()) continue;
      listing_.metadata.push_back({Printable(*key), *value});
    }
  }

  std::optional<std::string> Display(PickleId id) const {
    switch (tree_.kind(id)) {
      case PickleKind::kBool:
        return tree_.Bool(id) ? "True" : "False";
      case PickleKind::kInt:
        return absl::StrCat(tree_.Int(id));
      case PickleKind::kBigInt:
        return DisplayBigInt(tree_.Text(id));
      case PickleKind::kFloat: {
        std::array<char, 32> digits;
        const auto end =
            std::to_chars(digits.data(), digits.data() + digits.size(), tree_.Float(id));
        return std::string(digits.data(), end.ptr);
      }
      case PickleKind::kString:
        return Printable(tree_.Text(id));
      default:
        return std::nullopt;
    }
  }

  // In hexadecimal: of two's complement bytes, the lowest first.
  static std::string DisplayBigInt(std::string_view bytes) {
    constexpr size_t kMaxBytes = 64;
    if (bytes.size() > kMaxBytes) return absl::StrCat("an int of ", bytes.size(), " bytes");
    const bool is_negative = (static_cast<uint8_t>(bytes.back()) & 0x80) != 0;
    std::string digits;
    uint32_t carry = is_negative ? 1 : 0;
    std::vector<uint32_t> magnitude;
    for (const char c : bytes) {
      const uint32_t byte =
          (is_negative ? ~static_cast<uint32_t>(c) & 0xFF : static_cast<uint8_t>(c)) + carry;
      carry = byte >> 8;
      magnitude.push_back(byte & 0xFF);
    }
    while (magnitude.size() > 1 && magnitude.back() == 0) magnitude.pop_back();
    absl::StrAppend(&digits, is_negative ? "-0x" : "0x", absl::Hex(magnitude.back()));
    for (size_t i = magnitude.size() - 1; i-- > 0;) {
      absl::StrAppend(&digits, absl::Hex(magnitude[i], absl::kZeroPad2));
    }
    return digits;
  }

  static constexpr size_t kMaxVersionItems = 2 * 16;

  const PickleTree& tree_;
  TensorRebuilder& rebuilder_;
  CheckpointListing& listing_;
};

}  // namespace

absl::Status ExtractStateDict(const PickleTree& tree, TensorRebuilder& rebuilder,
                              CheckpointListing& listing) {
  return Extractor(tree, rebuilder, listing).Run();
}

}  // namespace sconce
