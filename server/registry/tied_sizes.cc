#include "server/registry/tied_sizes.h"

#include <map>
#include <optional>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "models/tied_sizes.h"
#include "server/base/printable.h"

namespace sconce {
namespace {

using models::TiedSize;

// A dimension of an input, counted without the rows.
struct Place {
  size_t input = 0;
  size_t dimension = 0;

  bool operator==(const Place&) const = default;
};

struct Tied {
  Place place;
  TiedSize size;
};

// By tie, in the order of the inputs.
std::map<int32_t, std::vector<Tied>> TiesOf(const Signature& signature) {
  std::map<int32_t, std::vector<Tied>> ties;
  for (size_t i = 0; i < signature.inputs.size(); ++i) {
    const std::vector<TiedSize>& sizes = signature.inputs[i].rules.ties;
    for (size_t d = 0; d < sizes.size(); ++d) {
      if (sizes[d].tie != -1) ties[sizes[d].tie].push_back({{i, d}, sizes[d]});
    }
  }
  return ties;
}

// n, where size == multiple * n + offset.
std::optional<int64_t> NumberOf(const TiedSize& tied, int64_t size) {
  int64_t multiples = 0;
  if (__builtin_sub_overflow(size, tied.offset, &multiples) || multiples < 0 ||
      multiples % tied.multiple != 0) {
    return std::nullopt;
  }
  return multiples / tied.multiple;
}

std::string ExpectedText(const TiedSize& tied, int64_t number) {
  const std::optional<int64_t> size = models::SizeAt(tied, number);
  return size.has_value() ? absl::StrCat(*size) : "more than can be counted";
}

// What a client of a signature may send in a dimension: multiple * m + offset, m being the same for
// all dimensions with the same `of`.
struct Sendable {
  int64_t multiple = 0;
  int64_t offset = 0;
  std::tuple<int32_t, size_t, size_t> of = {};
};

Sendable SendableAt(const Signature& signature, const Place& place) {
  const TensorSpec& spec = signature.inputs[place.input];
  const int64_t dim = spec.dims[place.dimension];
  if (dim != -1) return {.offset = dim};
  const TiedSize tied = spec.rules.ties.empty() ? TiedSize{} : spec.rules.ties[place.dimension];
  if (tied.tie != -1) return {tied.multiple, tied.offset, {tied.tie, 0, 0}};
  return {1, 0, {-1, place.input, place.dimension}};
}

// n as it depends on what is sent: multiple * m + offset.
std::optional<Sendable> NumberOf(const TiedSize& tied, const Sendable& sent) {
  int64_t offset = 0;
  if (__builtin_sub_overflow(sent.offset, tied.offset, &offset) || offset % tied.multiple != 0 ||
      sent.multiple % tied.multiple != 0) {
    return std::nullopt;
  }
  return Sendable{sent.multiple / tied.multiple, offset / tied.multiple, sent.of};
}

}  // namespace

std::string WhySizesDiffer(const Signature& signature, absl::Span<const size_t> position,
                           absl::Span<const DeclaredInput> inputs) {
  const size_t rows = signature.rows.batched ? 1 : 0;
  const auto size_at = [&](const Place& place) {
    return inputs[position[place.input]].shape[rows + place.dimension];
  };
  const auto described = [&](const Place& place) {
    return absl::StrCat("input '", Printable(signature.inputs[place.input].name), "' has size ",
                        size_at(place), " in dimension ", rows + place.dimension);
  };
  for (const auto& [tie, members] : TiesOf(signature)) {
    std::optional<Place> first;
    int64_t number = 0;
    for (const Tied& member : members) {
      if (position[member.place.input] == CheckedInputs::kAbsent) continue;
      const std::optional<int64_t> own = NumberOf(member.size, size_at(member.place));
      if (!first.has_value() && own.has_value()) {
        first = member.place;
        number = *own;
        continue;
      }
      if (own.has_value() && *own == number) continue;
      if (first.has_value()) {
        return absl::StrCat(described(member.place), ", ", described(*first), "; expected ",
                            ExpectedText(member.size, number), " of input '",
                            Printable(signature.inputs[member.place.input].name), "'");
      }
      return absl::StrCat(described(member.place), "; expected a multiple of ",
                          member.size.multiple,
                          member.size.offset == 0 ? "" : absl::StrCat(" and ", member.size.offset));
    }
  }
  return "";
}

std::string WhyFewerSizes(const Signature& before, const Signature& after) {
  for (const auto& [tie, members] : TiesOf(after)) {
    std::optional<Sendable> first;
    for (const Tied& member : members) {
      const std::optional<Sendable> number =
          NumberOf(member.size, SendableAt(before, member.place));
      if (!first.has_value()) first = number;
      if (number.has_value() && number->multiple == first->multiple &&
          number->offset == first->offset && (number->multiple == 0 || number->of == first->of)) {
        continue;
      }
      const TensorSpec& spec = before.inputs[member.place.input];
      return absl::StrCat("input '", Printable(spec.name), "' ",
                          SpecString(spec, before.rows.batched),
                          " would take fewer sizes in dimension ",
                          member.place.dimension + (before.rows.batched ? 1 : 0));
    }
  }
  return "";
}

}  // namespace sconce
