#include "server/checkpoint/pytorch/state_dict_extractor.h"

#include <algorithm>
#include <array>
#include <cstddef>
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
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/pytorch/listing_builder.h"
#include "server/checkpoint/pytorch/metadata_text.h"
#include "server/checkpoint/pytorch/module_tree.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

constexpr size_t kMaxKeysInMessage = 8;

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
    if (IsModule(tree_, root)) return ExtractModule(tree_, root, rebuilder_, listing_);
    if (tree_.kind(root) != PickleKind::kDict) return RefuseRoot(root);
    const absl::StatusOr<PickleId> chosen = ChooseStateDict(root);
    if (!chosen.ok()) return chosen.status();
    if (tree_.kind(*chosen) == PickleKind::kCall) {
      absl::Status added = ExtractModule(tree_, *chosen, rebuilder_, listing_);
      if (!added.ok()) return added;
    } else {
      if (absl::Status added = AddEntries(*chosen); !added.ok()) return added;
      AddModuleVersions(*chosen);
    }
    AddProducer(root);
    if (*chosen != root) ListMetadata(tree_, root, *chosen, listing_.metadata);
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
                     ", which is no torch.nn.Module");
    }
    return Refused("expected a state_dict or a dict that holds one, got ",
                   PickleKindName(tree_.kind(root)));
  }

  // A dict that has a tensor among its values, or a whole model.
  bool HoldsWeights(PickleId id) const { return IsStateDict(id) || IsModule(tree_, id); }

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
      if (examined.insert(entry.value).second && HoldsWeights(entry.value)) {
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
                   seen, "}");
  }

  absl::Status AddEntries(PickleId state_dict) {
    if (absl::Status moderate = CheckEntryCount(state_dict); !moderate.ok()) return moderate;
    ListingBuilder builder(tree_, rebuilder_, listing_);
    for (const Entry& entry : Entries(state_dict)) {
      const std::optional<std::string_view> name = tree_.AsString(entry.key);
      if (!name.has_value()) {
        return Refused("expected strings as keys of the state_dict, got ",
                       PickleKindName(tree_.kind(entry.key)));
      }
      if (entry.value == state_dict) {
        return InContext(absl::StrCat("tensor '", Printable(*name), "'"),
                         Refused("expected a tensor, got the state_dict itself: a cycle"));
      }
      if (absl::Status added = builder.Add(*name, entry.value); !added.ok()) return added;
    }
    return builder.CheckHasData();
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
      // One long string may be the key again and again.
      if (prefix->size() > kMaxPrefixBytes) continue;
      // PyTorch writes one or two entries; a shared huge dict would be searched again and again.
      if (tree_.KeysAndValues(entry.value).size() > kMaxVersionItems) continue;
      const PickleId version = tree_.Lookup(entry.value, "version");
      if (version == kNoPickle || tree_.kind(version) != PickleKind::kInt) continue;
      listing_.module_versions.emplace(std::string(*prefix), tree_.Int(version));
    }
  }

  // Which training framework the checkpoint is of, where it says so.
  void AddProducer(PickleId root) {
    const PickleId version = tree_.Lookup(root, "pytorch-lightning_version");
    if (version == kNoPickle || tree_.kind(version) != PickleKind::kString) return;
    absl::StrAppend(&listing_.producer, listing_.producer.empty() ? "" : ", ", "PyTorch Lightning ",
                    Printable(tree_.Text(version)));
  }

  static constexpr size_t kMaxVersionItems = 2 * 16;
  static constexpr size_t kMaxPrefixBytes = 1024;

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
