#include "models/architecture.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace sconce::models {
namespace {

// Dimensions beyond this are typing errors, and products of a few of them stay within int64.
constexpr int64_t kMaximum = std::numeric_limits<int32_t>::max();

const ParameterSpec* FindSpec(const Architecture& architecture, const std::string& name) {
  for (const ParameterSpec& spec : architecture.parameters()) {
    if (spec.name == name) return &spec;
  }
  return nullptr;
}

std::string Expected(const ParameterSpec& spec) {
  switch (spec.type) {
    case ParameterSpec::Type::kBool:
      return "true or false";
    case ParameterSpec::Type::kInt:
      return absl::StrCat("an integer of ", spec.minimum, " to ", kMaximum);
    case ParameterSpec::Type::kDouble:
      return "a number";
    case ParameterSpec::Type::kInts:
      return absl::StrCat("integers of ", spec.minimum, " to ", kMaximum, " between commas");
    case ParameterSpec::Type::kString:
      break;
  }
  return spec.choices.empty() ? "text" : absl::StrJoin(spec.choices, ", ");
}

absl::Status UnknownParameter(const Architecture& architecture, const std::string& name) {
  std::vector<std::string> known;
  for (const ParameterSpec& spec : architecture.parameters()) known.push_back(spec.name);
  return absl::InvalidArgumentError(
      absl::StrCat("architecture ", architecture.name(), " has no parameter ", Quoted(name), "; ",
                   known.empty() ? "it has none" : "it has: ", absl::StrJoin(known, ", ")));
}

absl::Status WrongParameter(const Architecture& architecture, const ParameterSpec& spec,
                            const std::string& got) {
  return absl::InvalidArgumentError(absl::StrCat("architecture ", architecture.name(),
                                                 ": parameter ", spec.name, " (", spec.meaning,
                                                 "): expected ", Expected(spec), ", got ", got));
}

bool InRange(const ParameterSpec& spec, int64_t value) {
  return value >= spec.minimum && value <= kMaximum;
}

bool Fits(const ParameterSpec& spec, const ParameterValue& value) {
  switch (spec.type) {
    case ParameterSpec::Type::kBool:
      return std::holds_alternative<bool>(value);
    case ParameterSpec::Type::kInt:
      return std::holds_alternative<int64_t>(value) && InRange(spec, std::get<int64_t>(value));
    case ParameterSpec::Type::kDouble:
      return std::holds_alternative<double>(value) && std::isfinite(std::get<double>(value));
    case ParameterSpec::Type::kInts: {
      const auto* elements = std::get_if<std::vector<int64_t>>(&value);
      if (elements == nullptr || elements->empty()) return false;
      for (int64_t element : *elements) {
        if (!InRange(spec, element)) return false;
      }
      return true;
    }
    case ParameterSpec::Type::kString:
      break;
  }
  const auto* text = std::get_if<std::string>(&value);
  if (text == nullptr) return false;
  if (spec.choices.empty()) return true;
  for (const std::string& choice : spec.choices) {
    if (choice == *text) return true;
  }
  return false;
}

// Nullopt where the text is not even of the type.
std::optional<ParameterValue> ParseValue(const ParameterSpec& spec, const std::string& text) {
  switch (spec.type) {
    case ParameterSpec::Type::kBool:
      if (text == "true") return true;
      if (text == "false") return false;
      return std::nullopt;
    case ParameterSpec::Type::kInt: {
      int64_t value = 0;
      if (!absl::SimpleAtoi(text, &value)) return std::nullopt;
      return value;
    }
    case ParameterSpec::Type::kDouble: {
      double value = 0;
      if (!absl::SimpleAtod(text, &value)) return std::nullopt;
      return value;
    }
    case ParameterSpec::Type::kInts: {
      std::vector<int64_t> values;
      for (absl::string_view part : absl::StrSplit(text, ',')) {
        int64_t value = 0;
        if (!absl::SimpleAtoi(part, &value)) return std::nullopt;
        values.push_back(value);
      }
      return values;
    }
    case ParameterSpec::Type::kString:
      break;
  }
  return text;
}

}  // namespace

std::string ToString(const ParameterValue& value) {
  if (const bool* b = std::get_if<bool>(&value)) return *b ? "true" : "false";
  if (const int64_t* i = std::get_if<int64_t>(&value)) return absl::StrCat(*i);
  if (const double* d = std::get_if<double>(&value)) return absl::StrCat(*d);
  if (const auto* s = std::get_if<std::string>(&value)) return Quoted(*s);
  return absl::StrCat("[", absl::StrJoin(std::get<std::vector<int64_t>>(value), ", "), "]");
}

std::string ToString(absl::string_view architecture, const Parameters& parameters) {
  return absl::StrCat(architecture, "(",
                      absl::StrJoin(parameters, ", ",
                                    [](std::string* out, const auto& parameter) {
                                      absl::StrAppend(out, parameter.first, "=",
                                                      ToString(parameter.second));
                                    }),
                      ")");
}

absl::StatusOr<Parameters> ParseParameters(const Architecture& architecture,
                                           const std::map<std::string, std::string>& text) {
  Parameters parsed;
  for (const auto& [name, value_text] : text) {
    const ParameterSpec* spec = FindSpec(architecture, name);
    if (spec == nullptr) return UnknownParameter(architecture, name);
    const std::optional<ParameterValue> value = ParseValue(*spec, value_text);
    if (!value || !Fits(*spec, *value))
      return WrongParameter(architecture, *spec, Quoted(value_text));
    parsed[name] = *value;
  }
  return parsed;
}

absl::StatusOr<Parameters> CompleteParameters(const Architecture& architecture,
                                              const Parameters& parameters) {
  for (const auto& [name, value] : parameters) {
    const ParameterSpec* spec = FindSpec(architecture, name);
    if (spec == nullptr) return UnknownParameter(architecture, name);
    if (!Fits(*spec, value)) return WrongParameter(architecture, *spec, ToString(value));
  }
  Parameters complete = parameters;
  for (const ParameterSpec& spec : architecture.parameters()) {
    if (complete.contains(spec.name)) continue;
    if (!spec.default_value) return WrongParameter(architecture, spec, "nothing");
    complete[spec.name] = *spec.default_value;
  }
  return complete;
}

std::string Quoted(absl::string_view untrusted) {
  constexpr size_t kLongest = 120;
  size_t end = std::min(untrusted.size(), kLongest);
  const auto continues_a_character = [&](size_t i) { return (untrusted[i] & 0xC0) == 0x80; };
  while (end < untrusted.size() && end > 0 && continues_a_character(end)) --end;
  return absl::StrCat("\"", absl::CEscape(untrusted.substr(0, end)),
                      end < untrusted.size() ? "..." : "", "\"");
}

std::string ShapeText(absl::Span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

const NamedShape* Find(absl::Span<const NamedShape> state, absl::string_view name) {
  for (const NamedShape& tensor : state) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

}  // namespace sconce::models
