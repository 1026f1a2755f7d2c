#include "server/checkpoint/pytorch/module_tree.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "server/base/printable.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/pytorch/listing_builder.h"
#include "server/checkpoint/pytorch/metadata_text.h"

namespace sconce {
namespace {

// Python itself stops at 1000 nested calls.
constexpr size_t kMaxModuleDepth = 512;

// What a walk may come to, in bytes of names and a few dozen for each entry. It counts, since
// shared modules make a small file a large tree: so much, and so much more for each value in the
// file.
constexpr size_t kBaseWork = size_t{1} << 20;
constexpr size_t kWorkPerValue = 256;
constexpr size_t kMaxWork = size_t{256} << 20;

constexpr size_t kMaxBufferName = 1024;
constexpr size_t kMaxAttributes = 64;
constexpr size_t kMaxAttributeChars = 200;

using Items = absl::Span<const PickleId>;

// What BUILD would have set: the object's attributes. kNoPickle for what has none.
PickleId StateOf(const PickleTree& tree, PickleId object) {
  if (tree.kind(object) != PickleKind::kCall) return kNoPickle;
  // A traced network (torch.fx) is pickled as a call that takes its attributes.
  if (tree.IsGlobal(tree.Callable(object), "torch.fx.graph_module", "reduce_graph_module")) {
    const Items arguments = tree.Items(tree.Arguments(object));
    return !arguments.empty() && tree.kind(arguments[0]) == PickleKind::kDict ? arguments[0]
                                                                              : kNoPickle;
  }
  PickleId state = tree.State(object);
  if (state == kNoPickle) return kNoPickle;
  // (attributes, slots)
  if (tree.kind(state) == PickleKind::kTuple && tree.Items(state).size() == 2) {
    state = tree.Items(state)[0];
  }
  return tree.kind(state) == PickleKind::kDict ? state : kNoPickle;
}

// "__torch__.torch.nn.modules.conv.___torch_mangle_5.Conv2d" is torch.nn.modules.conv.Conv2d.
std::string ScriptClassName(std::string_view name) {
  constexpr std::string_view kPrefix = "__torch__.";
  constexpr std::string_view kMangle = "___torch_mangle_";
  if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
  std::string readable;
  while (!name.empty()) {
    const size_t end = std::min(name.find('.'), name.size());
    const std::string_view part = name.substr(0, end);
    if (!part.starts_with(kMangle)) {
      absl::StrAppend(&readable, readable.empty() ? "" : ".", std::string(part));
    }
    name.remove_prefix(std::min(end + 1, name.size()));
  }
  return readable;
}

enum class ModuleKind { kEager, kScript };

class ModuleWalk {
 public:
  ModuleWalk(ModuleKind kind, const PickleTree& tree, TensorRebuilder& rebuilder,
             CheckpointListing& listing)
      : kind_(kind),
        tree_(tree),
        rebuilder_(rebuilder),
        listing_(listing),
        builder_(tree, rebuilder, listing),
        max_work_(std::min(kMaxWork, kBaseWork + kWorkPerValue * tree.size())) {}

  absl::Status Run(PickleId root) {
    absl::Status done = Enter({.name = "", .module = root}, "");
    while (done.ok() && !frames_.empty()) {
      Frame& frame = frames_.back();
      if (frame.next == frame.children.size()) {
        open_.erase(frame.module);
        frames_.pop_back();
        continue;
      }
      const Child child = frame.children[frame.next++];
      done = Enter(child, Join(frame.path, child.name));
    }
    return done.ok() ? builder_.CheckHasData() : done;
  }

 private:
  struct Child {
    std::string_view name;
    PickleId module;
  };

  struct Frame {
    PickleId module;
    std::string path;
    std::vector<Child> children;
    size_t next = 0;
  };

  static std::string Join(const std::string& path, std::string_view name) {
    return path.empty() ? std::string(name) : absl::StrCat(path, ".", std::string(name));
  }

  absl::Status Spend(size_t work) {
    work_ += work;
    if (work_ <= max_work_) return absl::OkStatus();
    return Refused("expected a model with names of at most ", max_work_,
                   " bytes, got more: modules that are shared again and again, perhaps");
  }

  absl::Status Enter(const Child& child, std::string path) {
    const std::string where = absl::StrCat("module '", Printable(path), "'");
    if (!open_.insert(child.module).second) {
      return InContext(where, Refused("expected a module, got one that holds itself: a cycle"));
    }
    if (frames_.size() >= kMaxModuleDepth) {
      return InContext(where,
                       Refused("expected modules at most ", kMaxModuleDepth, " deep, got more"));
    }
    frames_.push_back({.module = child.module, .path = std::move(path), .children = {}});
    const PickleId state = StateOf(tree_, child.module);
    if (absl::Status spent = Spend(64 + frames_.back().path.size()); !spent.ok()) return spent;
    if (absl::Status spent = Spend(tree_.KeysAndValues(state).size()); !spent.ok()) return spent;
    ModuleEntry entry;
    entry.path = Printable(frames_.back().path);
    entry.class_name = ClassName(child.module);
    listing_.modules.push_back(std::move(entry));
    return kind_ == ModuleKind::kEager ? AddEager(state) : AddScript(state);
  }

  std::string ClassName(PickleId module) const {
    PickleId callable = tree_.Callable(module);
    if (kind_ == ModuleKind::kScript) return ScriptClassName(tree_.TypeName(callable));
    if (tree_.IsGlobal(callable, "torch.fx.graph_module", "reduce_graph_module")) {
      return "torch.fx.graph_module.GraphModule";
    }
    // An object whose class takes part in its pickling: copyreg.__newobj__(class, ...) or similar.
    const Items arguments = tree_.Items(tree_.Arguments(module));
    if (tree_.kind(callable) == PickleKind::kGlobal && !arguments.empty() &&
        tree_.kind(arguments[0]) == PickleKind::kGlobal &&
        (tree_.GlobalName(callable).module == "copyreg" ||
         tree_.GlobalName(callable).module == "copy_reg")) {
      callable = arguments[0];
    }
    return tree_.TypeName(callable);
  }

  absl::Status AddEager(PickleId state) {
    PickleId parameters = kNoPickle, buffers = kNoPickle, modules = kNoPickle;
    std::set<std::string_view> transient;
    const Items items = tree_.KeysAndValues(state);
    for (size_t i = 0; i + 1 < items.size(); i += 2) {
      const std::optional<std::string_view> key = tree_.AsString(items[i]);
      if (!key.has_value()) continue;
      const PickleId value = items[i + 1];
      if (*key == "_parameters") {
        parameters = value;
      } else if (*key == "_buffers") {
        buffers = value;
      } else if (*key == "_modules") {
        modules = value;
      } else if (*key == "_non_persistent_buffers_set") {
        transient = StringsOf(value);
      } else {
        AddAttribute(*key, value);
      }
    }
    absl::Status added = AddTensors(parameters, /*are_parameters=*/true, {});
    if (added.ok()) added = AddTensors(buffers, /*are_parameters=*/false, transient);
    if (added.ok()) added = AddChildren(modules);
    return added;
  }

  // A set as such, or as protocol 2 has it: set([...]).
  std::set<std::string_view> StringsOf(PickleId set) const {
    std::set<std::string_view> strings;
    if (tree_.kind(set) == PickleKind::kCall && tree_.Items(tree_.Arguments(set)).size() == 1) {
      set = tree_.Items(tree_.Arguments(set))[0];
    }
    if (tree_.kind(set) != PickleKind::kSet && tree_.kind(set) != PickleKind::kList) return strings;
    for (const PickleId item : tree_.Items(set)) {
      const std::optional<std::string_view> string = tree_.AsString(item);
      // One long string may be referred to again and again, and each time be compared in full.
      if (string.has_value() && string->size() <= kMaxBufferName) strings.insert(*string);
    }
    return strings;
  }

  // {name: tensor or None}
  absl::Status AddTensors(PickleId dict, bool are_parameters,
                          const std::set<std::string_view>& without) {
    if (dict == kNoPickle || tree_.kind(dict) != PickleKind::kDict) return absl::OkStatus();
    const Items items = tree_.KeysAndValues(dict);
    if (absl::Status spent = Spend(items.size()); !spent.ok()) return spent;
    for (size_t i = 0; i + 1 < items.size(); i += 2) {
      const std::optional<std::string_view> name = tree_.AsString(items[i]);
      if (!name.has_value()) return RefuseName(items[i]);
      if (tree_.kind(items[i + 1]) == PickleKind::kNone || without.contains(*name)) continue;
      const std::string full = Join(frames_.back().path, *name);
      if (absl::Status spent = Spend(64 + full.size()); !spent.ok()) return spent;
      absl::Status added = builder_.Add(full, items[i + 1], are_parameters);
      if (!added.ok()) return added;
    }
    return absl::OkStatus();
  }

  absl::Status AddChildren(PickleId dict) {
    if (dict == kNoPickle || tree_.kind(dict) != PickleKind::kDict) return absl::OkStatus();
    const Items items = tree_.KeysAndValues(dict);
    if (absl::Status spent = Spend(items.size()); !spent.ok()) return spent;
    Frame& frame = frames_.back();
    for (size_t i = 0; i + 1 < items.size(); i += 2) {
      const std::optional<std::string_view> name = tree_.AsString(items[i]);
      if (!name.has_value()) return RefuseName(items[i]);
      const PickleId value = items[i + 1];
      if (StateOf(tree_, value) != kNoPickle) {
        frame.children.push_back({*name, value});
      } else if (tree_.kind(value) != PickleKind::kNone) {
        listing_.non_tensors.push_back({Join(frame.path, *name), tree_.TypeName(value)});
      }
    }
    return absl::OkStatus();
  }

  absl::Status RefuseName(PickleId name) const {
    return InContext(absl::StrCat("module '", Printable(frames_.back().path), "'"),
                     Refused("expected a string as the name of a tensor or module, got ",
                             PickleKindName(tree_.kind(name))));
  }

  // All attributes are in one dict: tensors first, as in a state_dict.
  absl::Status AddScript(PickleId state) {
    Frame& frame = frames_.back();
    const Items items = tree_.KeysAndValues(state);
    for (size_t i = 0; i + 1 < items.size(); i += 2) {
      const std::optional<std::string_view> name = tree_.AsString(items[i]);
      if (!name.has_value()) return RefuseName(items[i]);
      const PickleId value = items[i + 1];
      if (rebuilder_.IsTensor(value)) {
        const std::string full = Join(frame.path, *name);
        if (absl::Status spent = Spend(64 + full.size()); !spent.ok()) return spent;
        if (absl::Status added = builder_.Add(full, value); !added.ok()) return added;
      } else if (StateOf(tree_, value) != kNoPickle) {
        frame.children.push_back({*name, value});
      } else {
        AddAttribute(*name, value);
      }
    }
    return absl::OkStatus();
  }

  // The module's hyper-parameters; what begins with '_' is its machinery.
  void AddAttribute(std::string_view name, PickleId value) {
    std::vector<MetadataEntry>& attributes = listing_.modules.back().attributes;
    if (name.starts_with("_") || name == "training" || attributes.size() >= kMaxAttributes) return;
    std::optional<std::string> text = DescribeValue(tree_, value);
    if (!text.has_value() || text->size() > kMaxAttributeChars) return;
    if (!Spend(64 + name.size() + text->size()).ok()) return;
    attributes.push_back({Printable(name), *std::move(text)});
  }

  const ModuleKind kind_;
  const PickleTree& tree_;
  TensorRebuilder& rebuilder_;
  CheckpointListing& listing_;
  ListingBuilder builder_;
  std::vector<Frame> frames_;
  std::set<PickleId> open_;  // the modules of the frames
  const size_t max_work_;
  size_t work_ = 0;
};

}  // namespace

bool IsModule(const PickleTree& tree, PickleId id) {
  const PickleId state = StateOf(tree, id);
  if (state == kNoPickle) return false;
  bool has_parameters = false, has_modules = false;
  const Items items = tree.KeysAndValues(state);
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    const std::optional<std::string_view> key = tree.AsString(items[i]);
    has_parameters = has_parameters || key == "_parameters";
    has_modules = has_modules || key == "_modules";
  }
  return has_parameters && has_modules;
}

absl::Status ExtractModule(const PickleTree& tree, PickleId module, TensorRebuilder& rebuilder,
                           CheckpointListing& listing) {
  return ModuleWalk(ModuleKind::kEager, tree, rebuilder, listing).Run(module);
}

absl::Status ExtractScriptModule(const PickleTree& tree, TensorRebuilder& rebuilder,
                                 CheckpointListing& listing) {
  if (StateOf(tree, tree.root()) == kNoPickle) {
    return Refused("expected a TorchScript module, got ", tree.TypeName(tree.root()));
  }
  return ModuleWalk(ModuleKind::kScript, tree, rebuilder, listing).Run(tree.root());
}

absl::Status CheckScriptPickle(const PickleTree& tree, TensorRebuilder& rebuilder) {
  for (PickleId id = 0; id < tree.size(); ++id) {
    if (tree.kind(id) != PickleKind::kCall) continue;
    const PickleId callable = tree.Callable(id);
    // What these return may be a number, which a call of it would make another function of.
    const bool is_value = tree.kind(callable) == PickleKind::kGlobal &&
                          tree.GlobalName(callable).module == "torch.jit._pickle";
    if (tree.kind(callable) != PickleKind::kGlobal || (is_value && tree.State(id) != kNoPickle)) {
      return Refused("expected a class or function to be called by its name, got a call of what ",
                     tree.TypeName(is_value ? id : callable), " returned");
    }
    if (!rebuilder.IsTensor(id)) continue;
    const absl::StatusOr<TensorDescriptor> tensor = rebuilder.Rebuild(id);
    if (!tensor.ok()) return InContext("a tensor", tensor.status());
  }
  return absl::OkStatus();
}

}  // namespace sconce
