// What config_file.cc and the files beside it read config.pbtxt with: messages that know where in
// the text each of their fields stands, and errors that say so. Pure functions and values.

#ifndef SCONCE_SERVER_RELOAD_LOCATED_CONFIG_H_
#define SCONCE_SERVER_RELOAD_LOCATED_CONFIG_H_

#include <google/protobuf/descriptor.h>
#include <google/protobuf/text_format.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sconce {

using ConfigPlaces = google::protobuf::TextFormat::ParseInfoTree;

// Lines and columns count from 0, as protobuf has them; -1 where there is none.
inline absl::Status ErrorAt(int line, int column, const std::string& message) {
  const std::string where = line < 0
                                ? std::string("config.pbtxt: ")
                                : absl::StrCat("config.pbtxt:", line + 1, ":", column + 1, ": ");
  return absl::InvalidArgumentError(where + message);
}

// A message and the places at which its fields stand in the file.
template <typename Message>
class Located {
 public:
  Located(const Message& message, const ConfigPlaces* places)
      : message_(message), places_(places) {}

  const Message& operator*() const { return message_; }
  const Message* operator->() const { return &message_; }

  // `index` counts the values of a repeated field.
  absl::Status Error(int number, const std::string& what, int index = kSingular) const {
    const google::protobuf::FieldDescriptor* field = Field(number);
    google::protobuf::TextFormat::ParseLocation place;
    // A list in brackets has one place for all its values.
    for (int i = index; places_ != nullptr && place.line < 0 && i >= (index < 0 ? -1 : 0); --i) {
      place = places_->GetLocation(field, i);
    }
    return ErrorAt(place.line, place.column, absl::StrCat(field->name(), ": ", what));
  }

  template <typename Nested>
  Located<Nested> Inside(int number, const Nested& nested, int index = kSingular) const {
    return Located<Nested>(
        nested, places_ == nullptr ? nullptr : places_->GetTreeForNested(Field(number), index));
  }

 private:
  static constexpr int kSingular = -1;

  static const google::protobuf::FieldDescriptor* Field(int number) {
    return Message::descriptor()->FindFieldByNumber(number);
  }

  const Message& message_;
  const ConfigPlaces* places_;
};

template <typename Number>
std::string ExpectedRange(Number low, Number high, Number got) {
  return absl::StrCat("expected ", low, " to ", high, ", got ", got);
}

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_LOCATED_CONFIG_H_
