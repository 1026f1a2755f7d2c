#include "server/tools/architectures.h"

#include <nlohmann/json.hpp>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/catalog.h"
#include "server/base/printable.h"
#include "server/tools/table.h"

namespace sconce::tools {
namespace {

using models::Architecture;
using models::ParameterSpec;
using nlohmann::ordered_json;

const char* TypeText(ParameterSpec::Type type) {
  switch (type) {
    case ParameterSpec::Type::kBool:
      return "true or false";
    case ParameterSpec::Type::kInt:
      return "integer";
    case ParameterSpec::Type::kDouble:
      return "number";
    case ParameterSpec::Type::kInts:
      return "integers";
    case ParameterSpec::Type::kString:
      break;
  }
  return "text";
}

std::string DefaultText(const ParameterSpec& spec) {
  return spec.default_value.has_value() ? models::ToString(*spec.default_value) : "";
}

ordered_json ToJson(const ParameterSpec& spec) {
  ordered_json json = {{"name", spec.name}, {"type", TypeText(spec.type)}, {"default", nullptr}};
  if (spec.default_value.has_value()) {
    std::visit([&](const auto& value) { json["default"] = value; }, *spec.default_value);
  }
  if (!spec.choices.empty()) json["choices"] = spec.choices;
  json["meaning"] = spec.meaning;
  return json;
}

ordered_json ToJson(const Architecture& architecture) {
  ordered_json parameters = ordered_json::array();
  for (const ParameterSpec& spec : architecture.parameters()) parameters.push_back(ToJson(spec));
  return {{"name", std::string(architecture.name())},
          {"family", std::string(architecture.family())},
          {"parameters", parameters}};
}

void PrintAll(Console& console) {
  std::vector<std::vector<std::string>> rows;
  for (const Architecture* architecture : models::Catalog()) {
    std::vector<std::string> parameters;
    for (const ParameterSpec& spec : architecture->parameters()) {
      const std::string value = DefaultText(spec);
      parameters.push_back(value.empty() ? spec.name : absl::StrCat(spec.name, "=", value));
    }
    rows.push_back({std::string(architecture->name()), std::string(architecture->family()),
                    absl::StrJoin(parameters, ", ")});
  }
  PrintTable({{"name"}, {"family"}, {"parameters"}}, rows, console);
}

void Print(const Architecture& architecture, Console& console) {
  console.Print(absl::StrCat(console.Paint(Style::kBold, std::string(architecture.name())),
                             ", of the family ", std::string(architecture.family()), "\n"));
  std::vector<std::vector<std::string>> rows;
  for (const ParameterSpec& spec : architecture.parameters()) {
    const std::string type =
        spec.choices.empty() ? TypeText(spec.type) : absl::StrJoin(spec.choices, ", ");
    rows.push_back({spec.name, DefaultText(spec), type, spec.meaning});
  }
  if (rows.empty()) return;
  console.Print("\n");
  PrintTable({{"parameter"}, {"default"}, {"type"}, {"meaning"}}, rows, console);
}

void PrintJson(const ordered_json& json, Console& console) {
  console.Print(absl::StrCat(json.dump(2), "\n"));
}

}  // namespace

absl::StatusOr<int> Architectures(const ArchitecturesOptions& options, Console& console) {
  if (options.name.empty()) {
    if (!options.json) {
      PrintAll(console);
      return 0;
    }
    ordered_json all = ordered_json::array();
    for (const Architecture* architecture : models::Catalog()) all.push_back(ToJson(*architecture));
    PrintJson(all, console);
    return 0;
  }
  for (const Architecture* architecture : models::Catalog()) {
    if (std::string(architecture->name()) != options.name) continue;
    options.json ? PrintJson(ToJson(*architecture), console) : Print(*architecture, console);
    return 0;
  }
  return absl::NotFoundError(absl::StrCat("no architecture is called '", Printable(options.name),
                                          "'; without a name, all are listed"));
}

}  // namespace sconce::tools
