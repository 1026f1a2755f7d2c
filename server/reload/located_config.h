// What config_file.cc and the files beside it read a configuration with: messages that know where
// in the text each of their fields stands, and errors that say so. Pure functions and values.

#ifndef SCONCE_SERVER_RELOAD_LOCATED_CONFIG_H_
#define SCONCE_SERVER_RELOAD_LOCATED_CONFIG_H_

#include <google/protobuf/descriptor.h>
#include <google/protobuf/text_format.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sconce {

using ConfigPlaces = google::protobuf::TextFormat::ParseInfoTree;

// What a configuration is called that came as a file, and one that came with a request.
constexpr char kTextConfigName[] = "config.pbtxt";
constexpr char kJsonConfigName[] = "config";

// Lines and columns count from 0, as protobuf has them; -1 where there is none.
inline absl::Status ErrorAt(const char* text, int line, int column, const std::string& message) {
  const std::string where = line < 0 ? absl::StrCat(text, ": ")
                                     : absl::StrCat(text, ":", line + 1, ":", column + 1, ": ");
  return absl::InvalidArgumentError(where + message);
}

// An error about a field, or about the value of that index in a repeated one (-1: it is not).
inline absl::Status ErrorOf(const google::protobuf::FieldDescriptor* field, const std::string& what,
                            const char* text, const ConfigPlaces* places, int index) {
  google::protobuf::TextFormat::ParseLocation place;
  // A list in brackets has one place for all its values.
  for (int i = index; places != nullptr && place.line < 0 && i >= (index < 0 ? -1 : 0); --i) {
    place = places->GetLocation(field, i);
  }
  return ErrorAt(text, place.line, place.column, absl::StrCat(field->name(), ": ", what));
}

// A message and the places at which its fields stand in the text of that name; null where they are
// not known.
template <typename Message>
class Located {
 public:
  Located(const Message& message, const char* text, const ConfigPlaces* places)
      : message_(message), text_(text), places_(places) {}

  const Message& operator*() const { return message_; }
  const Message* operator->() const { return &message_; }

  // `index` counts the values of a repeated field.
  absl::Status Error(int number, const std::string& what, int index = kSingular) const {
    return ErrorOf(Field(number), what, text_, places_, index);
  }

  // About the message as a whole.
  absl::Status Error(const std::string& what) const { return ErrorAt(text_, -1, -1, what); }

  // Where the value of that index in a repeated field stands, from 1; 0: not known.
  int Line(int number, int index) const {
    return places_ == nullptr ? 0 : places_->GetLocation(Field(number), index).line + 1;
  }

  template <typename Nested>
  Located<Nested> Inside(int number, const Nested& nested, int index = kSingular) const {
    return Located<Nested>(
        nested, text_,
        places_ == nullptr ? nullptr : places_->GetTreeForNested(Field(number), index));
  }

 private:
  static constexpr int kSingular = -1;

  static const google::protobuf::FieldDescriptor* Field(int number) {
    return Message::descriptor()->FindFieldByNumber(number);
  }

  const Message& message_;
  const char* const text_;
  const ConfigPlaces* places_;
};

template <typename Number>
std::string ExpectedRange(Number low, Number high, Number got) {
  return absl::StrCat("expected ", low, " to ", high, ", got ", got);
}

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_LOCATED_CONFIG_H_
