#include "server/program/onnx_shapes.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "server/base/printable.h"
#include "server/checkpoint/onnx/onnx_tensor.h"
#include "server/weights/scalar_type.h"

namespace sconce {

using models::Argument;
using models::ValueId;

void ImportFlatten(OnnxCall& call) {
  const int64_t rank = call.In(0).rank;
  const int64_t axis = call.Int("axis", 1) == rank ? rank : call.Axis(call.Int("axis", 1), rank);
  ValueId x = call.Tensor(0);
  if (axis == 0) {
    x = call.Emit("aten::reshape", {x, AsList({1, -1})});
  } else if (axis == rank) {
    x = call.Emit("aten::reshape", {x, AsList({-1, 1})});
  } else {
    x = call.Emit("aten::flatten.using_ints", {x, axis, int64_t{-1}});
    if (axis > 1) x = call.Emit("aten::flatten.using_ints", {x, int64_t{0}, axis - 1});
  }
  call.SetTensor(0, x, 2, call.In(0).dtype);
}

void ImportReshape(OnnxCall& call) {
  OnnxIntegers shape = call.Integers(1);
  for (size_t i = 0; i < shape.size() && call.Int("allowzero", 0) == 0; ++i) {
    const int64_t* number = AsNumber(shape[i]);
    if (number != nullptr && *number == 0) shape[i] = call.Size(0, static_cast<int64_t>(i));
  }
  const auto rank = static_cast<int64_t>(shape.size());
  call.SetTensor(0, call.Emit("aten::reshape", {call.Tensor(0), std::move(shape)}), rank,
                 call.In(0).dtype);
}

void ImportTranspose(OnnxCall& call) {
  const int64_t rank = call.In(0).rank;
  std::vector<int64_t> order = call.Ints("perm");
  for (int64_t i = rank; order.empty() && i > 0;) {
    while (i > 0) order.push_back(--i);
  }
  if (static_cast<int64_t>(order.size()) != rank) {
    return call.Wrong("expected a perm of ", rank, " dimensions, got ", order.size());
  }
  std::vector<int64_t> sizes;
  for (const int64_t from : order) {
    sizes.push_back(call.KnownSizes(0)[static_cast<size_t>(call.Axis(from, rank))]);
  }
  call.SetSized(0, call.Emit("aten::permute", {call.Tensor(0), AsList(order)}), std::move(sizes),
                call.In(0).dtype);
}

void ImportConcat(OnnxCall& call) {
  std::vector<Argument> tensors;
  std::vector<int64_t> sizes(static_cast<size_t>(call.In(0).rank), -1);
  const int64_t axis = call.Axis(call.Int("axis", 0), call.In(0).rank);
  if (!call.status().ok()) return;
  int64_t& together = sizes[static_cast<size_t>(axis)];
  together = 0;
  for (size_t i = 0; i < call.inputs(); ++i) {
    tensors.emplace_back(call.Tensor(i));
    const std::vector<int64_t> own = call.KnownSizes(i);
    const int64_t size = own.size() == sizes.size() ? own[static_cast<size_t>(axis)] : -1;
    if (together >= 0 && (size < 0 || __builtin_add_overflow(together, size, &together))) {
      together = -1;
    }
  }
  call.SetSized(0, call.Emit("aten::cat", {tensors, axis}), std::move(sizes), call.In(0).dtype);
}

void ImportSplit(OnnxCall& call) {
  const int64_t rank = call.In(0).rank, axis = call.Axis(call.Int("axis", 0), rank);
  const size_t count = call.outputs();
  const ValueId x = call.Tensor(0);
  std::vector<ValueId> parts;
  if (call.Has(1)) {
    OnnxIntegers sizes = call.Integers(1);
    if (sizes.size() != count) return call.Wrong("expected one size for each output");
    parts = call.EmitList("aten::split_with_sizes", {x, std::move(sizes), axis}, count);
  } else {
    parts = call.EmitList("aten::chunk", {x, static_cast<int64_t>(count), axis}, count);
  }
  for (size_t i = 0; i < count; ++i) call.SetTensor(i, parts[i], rank, call.In(0).dtype);
}

namespace {

bool IsCount(double number) { return number >= 0 && number <= 1 << 30; }

}  // namespace

// The only sequences there are: a tensor cut into parts of one size, of which single ones are used.
void ImportSplitToSequence(OnnxCall& call) {
  const int64_t rank = call.In(0).rank;
  const std::optional<double> size = call.Has(1) ? call.Number(1) : std::nullopt;
  if (!size.has_value() || call.In(1).rank != 0 || !IsCount(*size) || *size == 0) {
    return call.Unsupported("splitting into other parts than of one constant size");
  }
  call.Set(0, {.dtype = call.In(0).dtype,
               .rank = rank,
               .parts = OnnxParts{call.Tensor(0), call.Axis(call.Int("axis", 0), rank),
                                  static_cast<int64_t>(*size)}});
}

void ImportSequenceAt(OnnxCall& call) {
  const OnnxValue& sequence = call.In(0);
  const std::optional<double> at = call.Number(1);
  if (!sequence.parts.has_value() || !at.has_value() || !IsCount(*at)) {
    return call.Unsupported("what is not a constant part of a tensor that was split");
  }
  const auto [whole, axis, size] = *sequence.parts;
  const int64_t start = static_cast<int64_t>(*at) * size;
  call.SetTensor(0, call.Emit("aten::slice.Tensor", {whole, axis, start, start + size, int64_t{1}}),
                 sequence.rank, sequence.dtype);
}

namespace {

// ATen slices forwards only: the dimension is turned round, and sliced from where the places are
// then.
ValueId SlicedBackwards(OnnxCall& call, ValueId x, int64_t axis, const Argument& start,
                        const Argument& end, int64_t step) {
  if (AsNumber(start) == nullptr || AsNumber(end) == nullptr || step == 0 ||
      step == std::numeric_limits<int64_t>::min()) {
    call.Unsupported("a step of ", step, step < 0 ? " between places that are calculated" : "");
    return x;
  }
  const auto turned = [&](int64_t place) -> Argument {
    if (place < 0) return -1 - place;
    const Argument last = call.Calculate("sub", call.SizeOf(x, axis), int64_t{1});
    return call.Calculate("max", call.Calculate("sub", last, place), int64_t{0});
  };
  const Argument from = turned(*AsNumber(start)), to = turned(*AsNumber(end));
  x = call.Emit("aten::flip", {x, std::vector<Argument>{axis}});
  return call.Emit("aten::slice.Tensor", {x, axis, from, to, -step});
}

}  // namespace

void ImportSlice(OnnxCall& call) {
  ValueId x = call.Tensor(0);
  const int64_t rank = call.In(0).rank;
  const OnnxIntegers starts = call.Integers(1), ends = call.Integers(2);
  const std::vector<int64_t> steps =
      call.Has(4) ? call.Numbers(4) : std::vector<int64_t>(starts.size(), 1);
  std::vector<int64_t> axes;
  for (int64_t i = 0; i < static_cast<int64_t>(starts.size()); ++i) axes.push_back(i);
  if (call.Has(3)) axes = call.Numbers(3);
  if (ends.size() != starts.size() || axes.size() != starts.size() ||
      steps.size() != starts.size()) {
    return call.Wrong("expected as many ends, axes and steps as starts");
  }
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t axis = call.Axis(axes[i], rank);
    if (steps[i] > 0) {
      x = call.Emit("aten::slice.Tensor", {x, axis, starts[i], ends[i], steps[i]});
    } else {
      x = SlicedBackwards(call, x, axis, starts[i], ends[i], steps[i]);
    }
  }
  call.SetTensor(0, x, rank, call.In(0).dtype);
}

namespace {

// The places that a Gather picks of a dimension of `size`: those that are known, counted from the
// front. Wrong where the dimension has none such, which on a device would be found out too late.
ValueId PlacesOf(OnnxCall& call, const Argument& size) {
  OnnxValue& places = call.In(1);
  if (places.dtype != c10::ScalarType::Long && places.dtype != c10::ScalarType::Int) {
    call.Wrong("expected integers of 32 or 64 bits as places, got ", c10::toString(places.dtype));
  }
  if (places.input.index >= 0) return places.input;
  const ValueId given = call.Tensor(1);
  const int64_t* known = AsNumber(size);
  if (!places.constant.has_value() || known == nullptr || places.constant->numel() == 0) {
    return given;
  }
  const auto lowest = places.constant->min().item<int64_t>();
  if (lowest < -*known || places.constant->max().item<int64_t>() >= *known) {
    call.Wrong("expected places in a dimension of ", *known, ", got one beyond");
    return given;
  }
  if (lowest >= 0) return given;
  OnnxValue counted{.constant = places.constant->remainder(*known), .dtype = places.dtype};
  return call.TensorOf(counted);
}

}  // namespace

// Row by row along `axis`, with indices of any rank. What is negative counts from the end, but not
// in the ids that are looked up as they come: they have to be rows of the table.
void ImportGather(OnnxCall& call) {
  const int64_t rank = call.In(0).rank, index_rank = call.In(1).rank;
  const int64_t axis = call.Axis(call.Int("axis", 0), rank);
  const ValueId x = call.Tensor(0);
  const std::optional<OnnxIntegers> known = IntegersOf(call.In(1));
  ValueId result;
  if (index_rank == 0 && known.has_value() && known->size() == 1) {
    result = call.Emit("aten::select.int", {x, axis, (*known)[0]});
  } else {
    const ValueId places = PlacesOf(call, call.Size(0, axis));
    const bool is_table = axis == 0 && rank == 2 && call.In(0).is_weight;
    if (is_table && (call.In(1).input.index >= 0 || call.In(1).constant.has_value())) {
      result = call.Emit("aten::embedding", {x, places});
    } else {
      std::vector<Argument> indices(static_cast<size_t>(axis), Argument());
      indices.emplace_back(places);
      result = call.Emit("aten::index.Tensor", {x, std::move(indices)});
    }
  }
  call.SetTensor(0, result, rank + index_rank - 1, call.In(0).dtype);
}

void ImportGatherElements(OnnxCall& call) {
  const int64_t rank = call.In(0).rank;
  call.SetTensor(0,
                 call.Emit("aten::gather",
                           {call.Tensor(0), call.Axis(call.Int("axis", 0), rank), call.Tensor(1)}),
                 call.In(1).rank, call.In(0).dtype);
}

namespace {

// Each row of the last dimension of input 1 is a place in the first dimensions of input 0: an index
// for each of these, as ATen has it.
std::vector<Argument> PlacesByDimension(OnnxCall& call) {
  const std::vector<int64_t> sizes = call.KnownSizes(1);
  const int64_t depth = sizes.empty() ? -1 : sizes.back();
  if (depth < 0) call.Unsupported("a number of indices for each place that is not known");
  if (depth < 1 || depth > call.In(0).rank) {
    call.Wrong("expected 1 to ", call.In(0).rank, " indices for each place, got ", depth);
    return {};
  }
  std::vector<Argument> indices;
  for (int64_t i = 0; i < depth; ++i) {
    indices.emplace_back(call.Emit("aten::select.int", {call.Tensor(1), int64_t{-1}, i}));
  }
  return indices;
}

}  // namespace

void ImportGatherNd(OnnxCall& call) {
  if (call.Int("batch_dims", 0) != 0) return call.Unsupported("batch_dims");
  std::vector<Argument> indices = PlacesByDimension(call);
  const int64_t rank = call.In(0).rank - static_cast<int64_t>(indices.size()) + call.In(1).rank - 1;
  call.SetTensor(0, call.Emit("aten::index.Tensor", {call.Tensor(0), std::move(indices)}), rank,
                 call.In(0).dtype);
}

void ImportScatterNd(OnnxCall& call) {
  if (call.Text("reduction", "none") != "none") return call.Unsupported("a reduction");
  std::vector<Argument> indices = PlacesByDimension(call);
  call.SetTensor(0,
                 call.Emit("aten::index_put", {call.Tensor(0), std::move(indices), call.Tensor(2)}),
                 call.In(0).rank, call.In(0).dtype);
}

void ImportNonZero(OnnxCall& call) {
  const int64_t rank = call.In(0).rank;
  if (rank == 0) return call.Unsupported("an input without dimensions");
  const ValueId places = call.Emit("aten::nonzero", {call.Tensor(0)});
  call.SetSized(0, call.Emit("aten::t", {places}), {rank, -1}, c10::ScalarType::Long);
}

void ImportUnsqueeze(OnnxCall& call) {
  std::vector<int64_t> axes = call.Axes(13, 1).value_or(std::vector<int64_t>());
  const int64_t rank = call.In(0).rank + static_cast<int64_t>(axes.size());
  for (int64_t& axis : axes) axis = call.Axis(axis, rank);
  std::sort(axes.begin(), axes.end());
  ValueId x = call.Tensor(0);
  std::vector<int64_t> sizes = call.KnownSizes(0);
  for (const int64_t axis : axes) {
    x = call.Emit("aten::unsqueeze", {x, axis});
    sizes.insert(sizes.begin() + std::min(axis, static_cast<int64_t>(sizes.size())), 1);
  }
  call.SetSized(0, x, std::move(sizes), call.In(0).dtype);
}

void ImportSqueeze(OnnxCall& call) {
  const std::optional<std::vector<int64_t>> axes = call.Axes(13, 1);
  if (!axes.has_value()) return call.Unsupported("squeezing without axes");
  call.SetTensor(0, call.Emit("aten::squeeze.dims", {call.Tensor(0), AsList(*axes)}),
                 call.In(0).rank - static_cast<int64_t>(axes->size()), call.In(0).dtype);
}

// To a shape that the input is broadcast to, and the other way round.
void ImportExpand(OnnxCall& call) {
  OnnxIntegers shape = call.Integers(1);
  const int64_t rank = call.In(0).rank;
  while (static_cast<int64_t>(shape.size()) < rank) shape.insert(shape.begin(), int64_t{1});
  const auto target = static_cast<int64_t>(shape.size());
  for (int64_t i = target - rank; i < target; ++i) {
    Argument& size = shape[static_cast<size_t>(i)];
    const int64_t* number = AsNumber(size);
    if (number != nullptr && *number == 1) size = int64_t{-1};
  }
  call.SetTensor(0, call.Emit("aten::expand", {call.Tensor(0), std::move(shape)}), target,
                 call.In(0).dtype);
}

void ImportTile(OnnxCall& call) {
  OnnxIntegers repeats = call.Integers(1);
  call.SetTensor(0, call.Emit("aten::repeat", {call.Tensor(0), std::move(repeats)}),
                 call.In(0).rank, call.In(0).dtype);
}

void ImportTrilu(OnnxCall& call) {
  const int64_t diagonal = call.Has(1) ? static_cast<int64_t>(call.Number(1).value_or(0)) : 0;
  const std::string op = call.Int("upper", 1) != 0 ? "aten::triu" : "aten::tril";
  call.SetTensor(0, call.Emit(op, {call.Tensor(0), diagonal}), call.In(0).rank, call.In(0).dtype);
}

namespace {

std::optional<c10::ScalarType> TypeOfCast(OnnxCall& call) {
  const int64_t to = call.Int("to", 0);
  const std::optional<DType> dtype = OnnxDType(to);
  if (dtype.has_value()) return ToScalarType(*dtype);
  call.Unsupported("a cast to ", OnnxTypeName(to));
  return std::nullopt;
}

void CastTo(OnnxCall& call, c10::ScalarType type) {
  OnnxValue value = call.In(0);
  if (value.constant.has_value() && value.dtype != type) {
    value = {.constant = value.constant->to(type),
             .dtype = type,
             .rank = value.rank,
             .shape = std::move(value.shape)};
    return call.Set(0, std::move(value));
  }
  value.tensor = call.Tensor(0);
  if (value.dtype != type) {
    const bool keeps_numbers = value.dtype == c10::ScalarType::Int && type == c10::ScalarType::Long;
    value = {.tensor = call.Emit("aten::to.dtype", {value.tensor, type}),
             .dtype = type,
             .rank = value.rank,
             .input = keeps_numbers ? value.input : ValueId{}};
  }
  call.Set(0, std::move(value));
}

}  // namespace

void ImportCast(OnnxCall& call) {
  if (const auto type = TypeOfCast(call)) CastTo(call, *type);
}

void ImportCastLike(OnnxCall& call) { CastTo(call, call.In(1).dtype); }

void ImportIdentity(OnnxCall& call) {
  OnnxValue value = call.In(0);
  value.tensor = call.Tensor(0);
  call.Set(0, std::move(value));
  if (call.Wants(1)) call.Unsupported("a second output");
}

void ImportRange(OnnxCall& call) {
  std::vector<Argument> bounds;
  for (size_t i = 0; i < 3; ++i) {
    const std::optional<OnnxIntegers> integers = IntegersOf(call.In(i));
    if (integers.has_value() && integers->size() == 1) {
      bounds.push_back((*integers)[0]);
    } else if (const std::optional<double> number = call.Number(i)) {
      bounds.emplace_back(*number);
    } else {
      return call.Unsupported("a range whose bounds are calculated from values");
    }
  }
  const c10::ScalarType type = call.In(0).dtype;
  const ValueId result =
      call.Emit("aten::arange.start_step", std::move(bounds),
                {{"dtype", Argument(type)}, {"device", Argument(c10::Device(c10::kCPU))}});
  call.SetTensor(0, result, 1, type);
}

}  // namespace sconce
