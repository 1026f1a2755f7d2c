#include "server/program/pt2_json.h"

#include <limits>

#include "server/base/printable.h"

namespace sconce {
namespace {

constexpr int kMaxDepth = 256;

}  // namespace

Json ParseJson(const std::string& text) {
  const auto guard = [](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxDepth) Bad("expected JSON nested at most ", kMaxDepth, " deep, got more");
    return true;
  };
  Json parsed = Json::parse(text, guard, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) Bad("expected JSON, got something that is none");
  return parsed;
}

const Json& Member(const Json& object, const char* key) {
  const auto found = Object(object).find(key);
  if (found == object.end()) Bad("expected an object with the key '", key, "', got one without");
  return *found;
}

const Json& Object(const Json& value) {
  if (!value.is_object()) Bad("expected an object, got ", value.type_name());
  return value;
}

const Json& List(const Json& value) {
  if (!value.is_array()) Bad("expected a list, got ", value.type_name());
  return value;
}

std::string Text(const Json& value) {
  if (!value.is_string()) Bad("expected a string, got ", value.type_name());
  return value.get<std::string>();
}

int64_t Integer(const Json& value) {
  if (!value.is_number_integer()) Bad("expected an integer, got ", value.type_name());
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    Bad("expected an integer within 63 bits, got ", value.get<uint64_t>());
  }
  return value.get<int64_t>();
}

double Real(const Json& value) {
  if (value.is_string()) {
    const auto word = value.get<std::string>();
    if (word == "Infinity") return std::numeric_limits<double>::infinity();
    if (word == "-Infinity") return -std::numeric_limits<double>::infinity();
    if (word == "NaN") return std::numeric_limits<double>::quiet_NaN();
  }
  if (!value.is_number()) Bad("expected a number, got ", value.type_name());
  return value.get<double>();
}

bool Boolean(const Json& value) {
  if (!value.is_boolean()) Bad("expected true or false, got ", value.type_name());
  return value.get<bool>();
}

std::pair<std::string, const Json*> Alternative(const Json& value) {
  if (Object(value).size() != 1) {
    Bad("expected an object with one member, got one with ", value.size());
  }
  return {value.begin().key(), &value.begin().value()};
}

}  // namespace sconce
