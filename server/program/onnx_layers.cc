#include "server/program/onnx_layers.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "server/base/printable.h"
#include "server/weights/scalar_type.h"

namespace sconce {
namespace {

using models::Argument;
using models::ValueId;

// ONNX pads all beginnings and then all ends, PyTorch both sides of the last dimension first.
template <typename Size>
std::vector<Size> AsTorchPads(const std::vector<Size>& pads) {
  std::vector<Size> pairs;
  for (size_t i = pads.size() / 2; i-- > 0;) {
    pairs.push_back(pads[i]);
    pairs.push_back(pads[i + pads.size() / 2]);
  }
  return pairs;
}

// How a window moves over the spatial dimensions.
struct Window {
  std::vector<int64_t> kernel, strides, dilations;
  std::vector<int64_t> pads;  // the same at both ends; what was not is padded before
  ValueId x;
};

// Nullopt where something is not supported, which the call then knows.
std::optional<Window> WindowOf(OnnxCall& call, std::optional<double> padding) {
  const int64_t spatial = call.In(0).rank - 2;
  if (spatial < 1 || spatial > 3) {
    call.Unsupported("an input of ", call.In(0).rank, " dimensions");
    return std::nullopt;
  }
  const auto size = static_cast<size_t>(spatial);
  const std::string automatic = call.Text("auto_pad", "NOTSET");
  if (automatic != "NOTSET" && automatic != "VALID") {
    call.Unsupported("auto_pad ", Printable(automatic));
    return std::nullopt;
  }
  Window window{.kernel = call.Ints("kernel_shape"),
                .strides = call.Ints("strides", std::vector<int64_t>(size, 1)),
                .dilations = call.Ints("dilations", std::vector<int64_t>(size, 1)),
                .pads = {},
                .x = call.Tensor(0)};
  std::vector<int64_t> pads = call.Ints("pads", std::vector<int64_t>(2 * size, 0));
  if (window.strides.size() != size || window.dilations.size() != size || pads.size() != 2 * size ||
      (!window.kernel.empty() && window.kernel.size() != size)) {
    call.Wrong("expected strides, dilations, pads and kernel_shape of ", size, " dimensions");
    return std::nullopt;
  }
  if (std::equal(pads.begin(), pads.begin() + spatial, pads.begin() + spatial)) {
    window.pads.assign(pads.begin(), pads.begin() + spatial);
    return window;
  }
  if (!padding.has_value()) {
    call.Unsupported("padding that differs at the two ends");
    return std::nullopt;
  }
  window.x = call.Emit("aten::constant_pad_nd", {window.x, AsList(AsTorchPads(pads)), *padding});
  window.pads.assign(size, 0);
  return window;
}

std::string Numbered(const std::string& op, int64_t spatial) {
  return absl::StrCat(op, spatial, "d");
}

}  // namespace

void ImportConvolution(OnnxCall& call) {
  const bool transposed = call.node().op_type == "ConvTranspose";
  if (call.Find("output_shape") != nullptr) return call.Unsupported("output_shape");
  const std::optional<Window> window =
      WindowOf(call, transposed ? std::nullopt : std::optional<double>(0.0));
  if (!window.has_value()) return;
  const std::vector<int64_t> more =
      call.Ints("output_padding", std::vector<int64_t>(window->strides.size(), 0));
  const ValueId result = call.Emit(
      "aten::convolution",
      {window->x, call.Tensor(1), call.Optional(2), AsList(window->strides), AsList(window->pads),
       AsList(window->dilations), transposed, AsList(more), call.Int("group", 1)});
  call.SetTensor(0, result, call.In(0).rank, call.In(0).dtype);
}

void ImportAveragePool(OnnxCall& call) {
  const bool count_padding = call.Int("count_include_pad", 0) != 0;
  const std::optional<Window> window =
      WindowOf(call, count_padding ? std::optional<double>(0.0) : std::nullopt);
  if (!window.has_value()) return;
  for (const int64_t dilation : window->dilations) {
    if (dilation != 1) return call.Unsupported("dilation");
  }
  const ValueId result =
      call.Emit(Numbered("aten::avg_pool", call.In(0).rank - 2),
                {window->x, AsList(window->kernel), AsList(window->strides), AsList(window->pads),
                 call.Int("ceil_mode", 0) != 0, count_padding});
  call.SetTensor(0, result, call.In(0).rank, call.In(0).dtype);
}

void ImportMaxPool(OnnxCall& call) {
  if (call.Wants(1)) return call.Unsupported("the output of indices");
  const std::optional<Window> window = WindowOf(call, -std::numeric_limits<double>::infinity());
  if (!window.has_value()) return;
  const ValueId result =
      call.Emit(Numbered("aten::max_pool", call.In(0).rank - 2),
                {window->x, AsList(window->kernel), AsList(window->strides), AsList(window->pads),
                 AsList(window->dilations), call.Int("ceil_mode", 0) != 0});
  call.SetTensor(0, result, call.In(0).rank, call.In(0).dtype);
}

void ImportGlobalPool(OnnxCall& call) {
  std::vector<Argument> dims;
  for (int64_t i = 2; i < call.In(0).rank; ++i) dims.emplace_back(i);
  const bool mean = call.node().op_type == "GlobalAveragePool";
  const ValueId result =
      call.Emit(mean ? "aten::mean.dim" : "aten::amax", {call.Tensor(0), dims, true});
  call.SetTensor(0, result, call.In(0).rank, call.In(0).dtype);
}

void ImportBatchNormalization(OnnxCall& call) {
  if (call.Int("training_mode", 0) != 0) return call.Unsupported("training_mode");
  const ValueId result = call.Emit("aten::batch_norm",
                                   {call.Tensor(0), call.Tensor(1), call.Tensor(2), call.Tensor(3),
                                    call.Tensor(4), false, 0.1, call.Float("epsilon", 1e-5), true});
  call.SetTensor(0, result, call.In(0).rank, call.In(0).dtype);
}

void ImportInstanceNormalization(OnnxCall& call) {
  const ValueId result =
      call.Emit("aten::instance_norm", {call.Tensor(0), call.Tensor(1), call.Tensor(2), Argument(),
                                        Argument(), true, 0.1, call.Float("epsilon", 1e-5), true});
  call.SetTensor(0, result, call.In(0).rank, call.In(0).dtype);
}

void ImportLayerNormalization(OnnxCall& call) {
  if (call.Wants(1) || call.Wants(2)) return call.Unsupported("an output of mean or deviation");
  const int64_t rank = call.In(0).rank;
  std::vector<Argument> shape;
  for (int64_t i = call.Axis(call.Int("axis", -1), rank); i < rank; ++i) {
    const OnnxValue& scale = call.In(1);
    const int64_t dim = i - (rank - scale.rank);
    shape.push_back(dim >= 0 ? call.Size(1, dim) : call.Size(0, i));
  }
  const ValueId result = call.Emit(
      "aten::layer_norm",
      {call.Tensor(0), shape, call.Tensor(1), call.Optional(2), call.Float("epsilon", 1e-5), true});
  call.SetTensor(0, result, rank, call.In(0).dtype);
}

void ImportPad(OnnxCall& call) {
  const std::string mode = call.Text("mode", "constant");
  const int64_t rank = call.In(0).rank;
  const OnnxIntegers given = call.Integers(1);
  OnnxIntegers pads(static_cast<size_t>(2 * rank), int64_t{0});
  std::vector<int64_t> axes;
  for (int64_t i = 0; i < rank; ++i) axes.push_back(i);
  if (call.Has(3)) axes = call.Numbers(3);
  if (given.size() != 2 * axes.size()) return call.Wrong("expected two pads for each dimension");
  for (size_t i = 0; i < axes.size(); ++i) {
    const auto axis = static_cast<size_t>(call.Axis(axes[i], rank));
    pads[axis] = given[i];
    pads[axis + static_cast<size_t>(rank)] = given[i + axes.size()];
  }
  OnnxIntegers pairs = AsTorchPads(pads);
  const auto is_nothing = [](const Argument& pad) { return AsNumber(pad) && *AsNumber(pad) == 0; };
  while (pairs.size() >= 2 && is_nothing(pairs.back()) && is_nothing(pairs[pairs.size() - 2])) {
    pairs.resize(pairs.size() - 2);
  }
  const std::optional<double> value = call.Has(2) ? call.Number(2) : 0.0;
  if (!value.has_value()) return call.Unsupported("a value that is not constant");
  ValueId x = call.Tensor(0);
  if (mode == "constant") {
    if (!pairs.empty()) x = call.Emit("aten::constant_pad_nd", {x, std::move(pairs), *value});
  } else if (mode == "reflect" || mode == "edge") {
    x = call.Emit("aten::pad",
                  {x, std::move(pairs), std::string(mode == "edge" ? "replicate" : "reflect")});
  } else {
    return call.Unsupported("mode ", Printable(mode));
  }
  call.SetTensor(0, x, rank, call.In(0).dtype);
}

// Of images: the last two dimensions, by sizes or by constant scales.
void ImportResize(OnnxCall& call) {
  const std::string mode = call.Text("mode", "nearest");
  const std::string place = call.Text("coordinate_transformation_mode", "half_pixel");
  if (call.In(0).rank != 4) return call.Unsupported("an input of other than 4 dimensions");
  if (call.Int("antialias", 0) != 0 || call.Find("axes") != nullptr) {
    return call.Unsupported("antialias or axes");
  }
  Argument sizes, scales;
  if (call.Has(3)) {
    const OnnxIntegers all = call.Integers(3);
    if (all.size() != 4) return call.Wrong("expected 4 sizes, got ", all.size());
    sizes = std::vector<Argument>{all[2], all[3]};
  } else if (call.Has(2) && call.In(2).constant.has_value() && call.In(2).constant->numel() == 4) {
    const at::Tensor factors = call.In(2).constant->to(at::kDouble).contiguous();
    const double* factor = factors.const_data_ptr<double>();
    if (factor[0] != 1 || factor[1] != 1) return call.Unsupported("scaling of batch or channels");
    scales = std::vector<Argument>{factor[2], factor[3]};
  } else {
    return call.Unsupported("resizing by what is neither sizes nor constant scales");
  }
  const bool corners = place == "align_corners";
  const bool half = place == "half_pixel" || place == "pytorch_half_pixel";
  const ValueId x = call.Tensor(0);
  ValueId result;
  if (mode == "nearest" && place == "asymmetric" &&
      call.Text("nearest_mode", "round_prefer_floor") == "floor") {
    result = call.Emit("aten::upsample_nearest2d.vec", {x, sizes, scales});
  } else if (mode == "linear" && (corners || half)) {
    result = call.Emit("aten::upsample_bilinear2d.vec", {x, sizes, corners, scales});
  } else if (mode == "cubic" && (corners || half) && call.Float("cubic_coeff_a", -0.75) == -0.75) {
    result = call.Emit("aten::upsample_bicubic2d.vec", {x, sizes, corners, scales});
  } else {
    return call.Unsupported("mode ", Printable(mode), " with ", Printable(place));
  }
  call.SetTensor(0, result, 4, call.In(0).dtype);
}

namespace {

// ONNX has the gates one behind the other in another order than PyTorch.
ValueId GatesInOrder(OnnxCall& call, ValueId weights, int64_t hidden,
                     const std::vector<int64_t>& order) {
  std::vector<Argument> gates;
  for (const int64_t gate : order) {
    gates.emplace_back(call.Emit("aten::slice.Tensor", {weights, int64_t{0}, gate * hidden,
                                                        (gate + 1) * hidden, int64_t{1}}));
  }
  return call.Emit("aten::cat", {gates, int64_t{0}});
}

}  // namespace

void ImportRecurrent(OnnxCall& call) {
  const bool is_lstm = call.node().op_type == "LSTM";
  const std::vector<int64_t> order =
      is_lstm ? std::vector<int64_t>{0, 2, 3, 1} : std::vector<int64_t>{1, 0, 2};
  const auto gates = static_cast<int64_t>(order.size());
  const std::string direction = call.Text("direction", "forward");
  const int64_t hidden = call.Int("hidden_size", 0);
  if (direction == "reverse") return call.Unsupported("direction reverse");
  for (const char* name : {"activations", "clip", "activation_alpha", "activation_beta"}) {
    if (call.Find(name) != nullptr) return call.Unsupported("the attribute ", name);
  }
  if (call.Int("layout", 0) != 0 || call.Int("input_forget", 0) != 0 || call.Has(4) ||
      call.Has(7)) {
    return call.Unsupported("layout, input_forget, sequence lengths or peepholes");
  }
  if (!is_lstm && call.Int("linear_before_reset", 0) == 0) {
    return call.Unsupported("linear_before_reset 0");
  }
  if (hidden < 1 || hidden > int64_t{1} << 30) return call.Wrong("expected a hidden_size");
  const int64_t directions = direction == "bidirectional" ? 2 : 1;
  const ValueId x = call.Tensor(0);
  std::vector<Argument> weights;
  for (int64_t i = 0; i < directions; ++i) {
    const auto part = [&](ValueId tensor) {
      return call.Emit("aten::select.int", {tensor, int64_t{0}, i});
    };
    weights.emplace_back(GatesInOrder(call, part(call.Tensor(1)), hidden, order));
    weights.emplace_back(GatesInOrder(call, part(call.Tensor(2)), hidden, order));
    if (!call.Has(3)) continue;
    const ValueId biases = part(call.Tensor(3));
    for (int64_t half = 0; half < 2; ++half) {
      const ValueId bias = call.Emit(
          "aten::slice.Tensor",
          {biases, int64_t{0}, half * gates * hidden, (half + 1) * gates * hidden, int64_t{1}});
      weights.emplace_back(GatesInOrder(call, bias, hidden, order));
    }
  }
  const auto initial = [&](size_t input) {
    if (call.Has(input)) return call.Tensor(input);
    return call.Emit("aten::new_zeros",
                     {x, std::vector<Argument>{directions, call.Size(0, 1), hidden}});
  };
  const ValueId h = initial(5);
  const auto run = [&](const char* op, const Argument& state, size_t results) {
    return call.EmitSome(
        op, {x, state, weights, call.Has(3), int64_t{1}, 0.0, false, directions == 2, false},
        results, results);
  };
  const std::vector<ValueId> results =
      is_lstm ? run("aten::lstm.input", std::vector<Argument>{h, initial(6)}, 3)
              : run("aten::gru.input", h, 2);
  // [time, batch, directions * hidden] is [time, directions, batch, hidden] in ONNX.
  const ValueId parted = call.Emit(
      "aten::unflatten.int", {results[0], int64_t{2}, std::vector<Argument>{directions, hidden}});
  const c10::ScalarType dtype = call.In(0).dtype;
  call.SetTensor(0, call.Emit("aten::permute", {parted, AsList({0, 2, 1, 3})}), 4, dtype);
  for (size_t i = 1; i < results.size(); ++i) call.SetTensor(i, results[i], 3, dtype);
}

at::Tensor TensorOfValues(const OnnxValues& values) {
  at::Tensor tensor = at::empty(values.shape, ToScalarType(values.dtype));
  std::memcpy(tensor.mutable_data_ptr(), values.bytes.data(), values.bytes.size());
  return tensor;
}

void ImportConstant(OnnxCall& call) {
  at::Tensor tensor;
  if (const OnnxAttribute* value = call.Find("value"); value != nullptr && value->t) {
    tensor = TensorOfValues(*value->t);
  } else if (call.Find("value_int") != nullptr) {
    tensor = at::tensor({call.Int("value_int", 0)}, at::kLong).reshape({});
  } else if (call.Find("value_ints") != nullptr) {
    tensor = at::tensor(call.Ints("value_ints"), at::kLong);
  } else if (call.Find("value_float") != nullptr) {
    tensor = at::tensor({call.Float("value_float", 0)}, at::kFloat).reshape({});
  } else if (const OnnxAttribute* floats = call.Find("value_floats")) {
    tensor = at::tensor(floats->floats, at::kFloat);
  } else {
    return call.Unsupported("a constant of another kind than a tensor or numbers");
  }
  call.Set(0, {.constant = tensor,
               .dtype = tensor.scalar_type(),
               .rank = tensor.dim(),
               .shape = tensor.sizes().vec()});
}

void ImportConstantOfShape(OnnxCall& call) {
  OnnxIntegers shape = call.Integers(0);
  c10::ScalarType type = c10::ScalarType::Float;
  Argument fill = 0.0;
  if (const OnnxAttribute* value = call.Find("value"); value != nullptr && value->t) {
    const at::Tensor tensor = TensorOfValues(*value->t);
    if (tensor.numel() != 1) return call.Wrong("expected one value, got ", tensor.numel());
    type = tensor.scalar_type();
    if (c10::isIntegralType(type, /*includeBool=*/true)) {
      fill = tensor.to(at::kLong).item<int64_t>();
    } else {
      fill = tensor.to(at::kDouble).item<double>();
    }
  }
  const auto rank = static_cast<int64_t>(shape.size());
  const ValueId result =
      call.Emit("aten::full", {std::move(shape), fill},
                {{"dtype", Argument(type)}, {"device", Argument(c10::Device(c10::kCPU))}});
  call.SetTensor(0, result, rank, type);
}

}  // namespace sconce
