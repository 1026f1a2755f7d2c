#include "models/text/hugging_face.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "models/text/encoder.h"
#include "nlohmann/json.hpp"

namespace sconce::models {
namespace {

using FolderJson = nlohmann::json;

constexpr char kConfigJson[] = "config.json";
constexpr char kModulesJson[] = "modules.json";
constexpr char kPoolingJson[] = "1_Pooling/config.json";
constexpr int64_t kMostHeads = 65536;
// What transformers takes where config.json is silent.
constexpr int64_t kDefaultHeads = 12;
constexpr double kDefaultEps = 1e-12;

absl::Status WrongFolder(absl::string_view file, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": ", what));
}

absl::Status UnsupportedFolder(absl::string_view file, const std::string& what) {
  return absl::FailedPreconditionError(absl::StrCat(
      file, ": ", what,
      " is not supported; architecture { name: ... } in config.pbtxt takes the weights for another "
      "network than this file says"));
}

absl::StatusOr<FolderJson> ParseFolderFile(absl::string_view file, const std::string& text) {
  if (text.size() > kMaxHuggingFaceBytes) {
    return WrongFolder(
        file, absl::StrCat("expected at most ", kMaxHuggingFaceBytes, " bytes, got ", text.size()));
  }
  FolderJson json = FolderJson::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return WrongFolder(file, "is not JSON");
  return json;
}

// A value as a message shows it; `text` is untrusted, and may be long.
std::string Shown(const FolderJson& value) {
  return Quoted(value.dump(-1, ' ', true, FolderJson::error_handler_t::replace));
}

// config.json, of which a setting that is null is one that is not there.
class Settings {
 public:
  Settings(absl::string_view file, const FolderJson& json) : file_(file), json_(json) {}

  const FolderJson* Find(const char* key) const {
    const auto it = json_.find(key);
    return it == json_.end() || it->is_null() ? nullptr : &*it;
  }

  absl::Status Expected(const char* key, absl::string_view what, const FolderJson& got) const {
    return WrongFolder(file_, absl::StrCat(key, ": expected ", what, ", got ", Shown(got)));
  }

  absl::StatusOr<bool> Bool(const char* key) const {
    const FolderJson* value = Find(key);
    if (value == nullptr) return false;
    if (!value->is_boolean()) return Expected(key, "true or false", *value);
    return value->get<bool>();
  }

  absl::StatusOr<int64_t> Integer(const char* key, int64_t absent, int64_t low,
                                  int64_t high) const {
    const FolderJson* value = Find(key);
    if (value == nullptr) return absent;
    const bool fits = value->is_number_integer() && *value >= low && *value <= high;
    if (!fits) return Expected(key, absl::StrCat("an integer from ", low, " to ", high), *value);
    return value->get<int64_t>();
  }

  absl::StatusOr<std::string> String(const char* key, const char* absent) const {
    const FolderJson* value = Find(key);
    if (value == nullptr) return absent;
    if (!value->is_string()) return Expected(key, "a string", *value);
    return value->get<std::string>();
  }

 private:
  const absl::string_view file_;
  const FolderJson& json_;
};

// How the configurations of a model_type are read.
struct ModelType {
  const char* name;
  const char* architecture;
  const char* heads;
  const char* activation;
  bool eps;
  bool padding_id;
};

constexpr ModelType kModelTypes[] = {
    {"bert", "bert", "num_attention_heads", "hidden_act", true, false},
    {"distilbert", "distilbert", "n_heads", "activation", false, false},
    {"roberta", "roberta", "num_attention_heads", "hidden_act", true, true},
    {"xlm-roberta", "roberta", "num_attention_heads", "hidden_act", true, true},
    {"camembert", "roberta", "num_attention_heads", "hidden_act", true, true},
    {"mpnet", "mpnet", "num_attention_heads", "hidden_act", true, false},
};

// Settings that change what is computed.
absl::Status CheckFolderSupported(const Settings& settings) {
  for (const char* key : {"is_decoder", "add_cross_attention", "is_encoder_decoder"}) {
    const auto on = settings.Bool(key);
    if (!on.ok()) return on.status();
    if (*on) return UnsupportedFolder(kConfigJson, absl::StrCat(key, " true"));
  }
  const auto positions = settings.String("position_embedding_type", "absolute");
  if (!positions.ok()) return positions.status();
  if (*positions != "absolute") {
    return UnsupportedFolder(kConfigJson,
                             absl::StrCat("position_embedding_type ", Quoted(*positions)));
  }
  const FolderJson* pruned = settings.Find("pruned_heads");
  if (pruned != nullptr && !pruned->empty()) return UnsupportedFolder(kConfigJson, "pruned_heads");
  if (settings.Find("quantization_config") != nullptr) {
    return UnsupportedFolder(kConfigJson, "quantization_config");
  }
  return absl::OkStatus();
}

// The head that transformers' class of that name has; empty: the configuration does not say.
absl::StatusOr<std::string> HeadOfClass(const Settings& settings) {
  const FolderJson* classes = settings.Find("architectures");
  if (classes == nullptr) return "";
  if (!classes->is_array() ||
      !std::all_of(classes->begin(), classes->end(), [](const auto& c) { return c.is_string(); })) {
    return settings.Expected("architectures", "a list of names", *classes);
  }
  if (classes->empty()) return "";
  const std::string name = classes->front().get<std::string>();
  if (absl::EndsWith(name, "ForSequenceClassification")) return "sequence_classification";
  if (absl::EndsWith(name, "ForTokenClassification")) return "token_classification";
  for (const char* encoder : {"Model", "ForMaskedLM", "ForPreTraining"}) {
    if (absl::EndsWith(name, encoder) && !absl::EndsWith(name, "LMHeadModel")) return "none";
  }
  return UnsupportedFolder(kConfigJson, absl::StrCat("architectures ", Quoted(name)));
}

// The kind of pooling that 1_Pooling/config.json chooses.
absl::StatusOr<std::string> PoolingOf(const std::string& text) {
  if (text.empty()) {
    return WrongFolder(kModulesJson, absl::StrCat("names ", kPoolingJson, ", which is not there"));
  }
  auto json = ParseFolderFile(kPoolingJson, text);
  if (!json.ok()) return json.status();
  if (!json->is_object()) return WrongFolder(kPoolingJson, "is not an object");
  constexpr std::pair<const char*, const char*> kModes[] = {{"pooling_mode_mean_tokens", "mean"},
                                                            {"pooling_mode_cls_token", "cls"},
                                                            {"pooling_mode_max_tokens", "max"}};
  std::string pooling;
  for (const auto& [key, value] : json->items()) {
    if (!absl::StartsWith(key, "pooling_mode_") || value == false) continue;
    const auto* mode = std::find_if(std::begin(kModes), std::end(kModes),
                                    [&](const auto& known) { return key == known.first; });
    if (mode == std::end(kModes)) return UnsupportedFolder(kPoolingJson, Quoted(key));
    if (value != true) {
      return WrongFolder(kPoolingJson,
                         absl::StrCat(key, ": expected true or false, got ", Shown(value)));
    }
    if (!pooling.empty()) return UnsupportedFolder(kPoolingJson, "more than one kind of pooling");
    pooling = mode->second;
  }
  if (pooling.empty()) return WrongFolder(kPoolingJson, "chooses no kind of pooling");
  return pooling;
}

// What sentence-transformers does with the tokens.
absl::Status ReadModules(const HuggingFaceFolder& folder,
                         std::map<std::string, std::string>& parameters) {
  auto json = ParseFolderFile(kModulesJson, folder.modules);
  if (!json.ok()) return json.status();
  if (!json->is_array()) return WrongFolder(kModulesJson, "is not a list");
  constexpr const char* kOrder[] = {"Transformer", "Pooling", "Normalize"};
  for (size_t i = 0; i < json->size(); ++i) {
    const FolderJson& module = (*json)[i];
    const std::string where = absl::StrCat("modules[", i, "]");
    if (!module.is_object() || !module.contains("type") || !module["type"].is_string() ||
        !module.contains("path") || !module["path"].is_string()) {
      return WrongFolder(kModulesJson, absl::StrCat(where, ": expected a type and a path"));
    }
    const std::string type = module["type"].get<std::string>();
    const std::string path = module["path"].get<std::string>();
    const std::string kind = type.substr(type.rfind('.') + 1);
    if (i >= std::size(kOrder) || kind != kOrder[i]) {
      return UnsupportedFolder(kModulesJson, absl::StrCat(where, " of type ", Quoted(type)));
    }
    if ((kind == "Transformer" && !path.empty()) || (kind == "Pooling" && path != "1_Pooling")) {
      return UnsupportedFolder(kModulesJson, absl::StrCat(where, " at path ", Quoted(path)));
    }
  }
  if (json->size() < 2) return UnsupportedFolder(kModulesJson, "a network without Pooling");
  auto pooling = PoolingOf(folder.pooling);
  if (!pooling.ok()) return pooling.status();
  parameters["head"] = "sentence";
  parameters["pooling"] = *std::move(pooling);
  parameters["normalize"] = json->size() == 3 ? "true" : "false";
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::optional<Configured>> FromHuggingFace(const HuggingFaceFolder& folder) {
  auto json = ParseFolderFile(kConfigJson, folder.config);
  if (!json.ok()) return json.status();
  if (!json->is_object()) return WrongFolder(kConfigJson, "is not an object");
  const Settings settings(kConfigJson, *json);
  const auto type_name = settings.String("model_type", "");
  if (!type_name.ok()) return type_name.status();
  const auto* type = std::find_if(std::begin(kModelTypes), std::end(kModelTypes),
                                  [&](const ModelType& known) { return *type_name == known.name; });
  if (type == std::end(kModelTypes)) return std::nullopt;
  if (const absl::Status status = CheckFolderSupported(settings); !status.ok()) return status;

  Configured configured{.architecture = type->architecture, .parameters = {}};
  const auto heads = settings.Integer(type->heads, kDefaultHeads, 1, kMostHeads);
  if (!heads.ok()) return heads.status();
  // MPNet's weights tell.
  if (type->architecture != absl::string_view("mpnet")) {
    configured.parameters["num_attention_heads"] = absl::StrCat(*heads);
  }
  auto activation = settings.String(type->activation, "gelu");
  if (!activation.ok()) return activation.status();
  if (*activation == "swish") *activation = "silu";
  const std::vector<std::string>& known = TextActivations();
  if (std::find(known.begin(), known.end(), *activation) == known.end()) {
    return UnsupportedFolder(kConfigJson, absl::StrCat(type->activation, " ", Quoted(*activation)));
  }
  configured.parameters["hidden_act"] = *activation;
  if (type->eps) {
    const FolderJson* eps = settings.Find("layer_norm_eps");
    if (eps != nullptr && (!eps->is_number() || *eps < 0 || *eps > 1)) {
      return settings.Expected("layer_norm_eps", "a number from 0 to 1", *eps);
    }
    configured.parameters["layer_norm_eps"] =
        FolderJson(eps == nullptr ? kDefaultEps : eps->get<double>()).dump();
  }
  if (type->padding_id) {
    const auto padding = settings.Integer("pad_token_id", 1, 0, int64_t{1} << 31);
    if (!padding.ok()) return padding.status();
    configured.parameters["pad_token_id"] = absl::StrCat(*padding);
  }
  if (!folder.modules.empty()) {
    const absl::Status status = ReadModules(folder, configured.parameters);
    if (!status.ok()) return status;
  } else {
    auto head = HeadOfClass(settings);
    if (!head.ok()) return head.status();
    if (!head->empty()) configured.parameters["head"] = *std::move(head);
  }
  return configured;
}

}  // namespace sconce::models
