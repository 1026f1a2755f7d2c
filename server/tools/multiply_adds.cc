#include "server/tools/multiply_adds.h"

#include <map>

namespace sconce::tools {
namespace {

using Count = int64_t (*)(const OperatorCall& call, const at::Tensor& output);

int64_t Rows(const at::Tensor& tensor) {
  return tensor.dim() == 0 || tensor.size(-1) == 0 ? 0 : tensor.numel() / tensor.size(-1);
}

bool Has(const OperatorCall& call, size_t position) {
  return position < call.arguments.size() && call.arguments[position].defined();
}

// A row of the output is a sum over the last dimension of the factor at that position.
template <size_t kPosition>
int64_t Product(const OperatorCall& call, const at::Tensor& output) {
  if (!Has(call, kPosition) || call.arguments[kPosition].dim() == 0) return 0;
  return output.numel() * call.arguments[kPosition].size(-1);
}

// Each weight of an output's channel is used once for each of its elements; where the convolution
// is transposed, each of an input's channel for each element of the input.
int64_t Convolution(const OperatorCall& call, const at::Tensor& output) {
  if (!Has(call, 0) || !Has(call, 1)) return 0;
  const at::Tensor& weight = call.arguments[1];
  if (weight.dim() < 2 || weight.size(0) == 0) return 0;
  const int64_t per_channel = weight.numel() / weight.size(0);
  return (call.transposed ? call.arguments[0].numel() : output.numel()) * per_channel;
}

int64_t TransposedConvolution(const OperatorCall& call, const at::Tensor& output) {
  OperatorCall transposed = call;
  transposed.transposed = true;
  return Convolution(transposed, output);
}

// Query, key and value of [..., length, width].
int64_t Attention(const OperatorCall& call, const at::Tensor& /*output*/) {
  if (!Has(call, 0) || !Has(call, 1) || !Has(call, 2)) return 0;
  const at::Tensor &query = call.arguments[0], &key = call.arguments[1], &value = call.arguments[2];
  if (key.dim() < 2) return 0;
  return Rows(query) * key.size(-2) * (query.size(-1) + value.size(-1));
}

int64_t SumOfMatrices(const std::vector<at::Tensor>& tensors, size_t from) {
  int64_t sum = 0;
  for (size_t i = from; i < tensors.size(); ++i) {
    if (tensors[i].defined() && tensors[i].dim() == 2) sum += tensors[i].numel();
  }
  return sum;
}

// Every row goes through every matrix, and meets every row of its batch twice.
int64_t AttentionAmongRows(const OperatorCall& call, int64_t matrices) {
  const at::Tensor& input = call.arguments[0];
  if (input.dim() != 3) return 0;
  return Rows(input) * (matrices + 2 * input.size(1) * input.size(2));
}

// (query, key, value, width, heads, qkv_weight, qkv_bias, proj_weight, proj_bias, mask, ...): of
// self-attention, the only kind that networks call it for.
int64_t MultiHeadAttention(const OperatorCall& call, const at::Tensor& /*output*/) {
  if (!Has(call, 0) || !Has(call, 5) || !Has(call, 7)) return 0;
  return AttentionAmongRows(call, call.arguments[5].numel() + call.arguments[7].numel());
}

// (input, width, heads, qkv_weight, qkv_bias, proj_weight, proj_bias, use_gelu, norm_first, eps,
// norm_weight_1, norm_bias_1, norm_weight_2, norm_bias_2, ffn_weight_1, ffn_bias_1, ffn_weight_2,
// ffn_bias_2, mask, ...).
int64_t TransformerLayer(const OperatorCall& call, const at::Tensor& /*output*/) {
  int64_t matrices = 0;
  for (const size_t position : {3, 5, 14, 16}) {
    if (Has(call, position)) matrices += call.arguments[position].numel();
  }
  return Has(call, 0) ? AttentionAmongRows(call, matrices) : 0;
}

// Each step of each sequence goes through every matrix.
int64_t Recurrent(const OperatorCall& call, const at::Tensor& /*output*/) {
  return Has(call, 0) ? Rows(call.arguments[0]) * SumOfMatrices(call.listed, 0) : 0;
}

// (input, hidden state, w_ih, w_hh, b_ih, b_hh); the state may be a list.
int64_t RecurrentCell(const OperatorCall& call, const at::Tensor& /*output*/) {
  return Has(call, 0) ? Rows(call.arguments[0]) * SumOfMatrices(call.arguments, 2) : 0;
}

const std::map<std::string_view, Count>& Counts() {
  static const auto* const counts = new std::map<std::string_view, Count>{
      {"aten::conv1d", Convolution},
      {"aten::conv2d", Convolution},
      {"aten::conv3d", Convolution},
      {"aten::convolution", Convolution},
      {"aten::_convolution", Convolution},
      {"aten::conv_transpose1d", TransposedConvolution},
      {"aten::conv_transpose2d", TransposedConvolution},
      {"aten::conv_transpose3d", TransposedConvolution},
      {"aten::linear", Product<0>},
      {"aten::matmul", Product<0>},
      {"aten::mm", Product<0>},
      {"aten::bmm", Product<0>},
      {"aten::mv", Product<0>},
      {"aten::dot", Product<0>},
      {"aten::addmm", Product<1>},
      {"aten::addmm_", Product<1>},
      {"aten::addmv", Product<1>},
      {"aten::baddbmm", Product<1>},
      {"aten::baddbmm_", Product<1>},
      {"aten::_addmm_activation", Product<1>},
      {"aten::scaled_dot_product_attention", Attention},
      {"aten::_native_multi_head_attention", MultiHeadAttention},
      {"aten::_transformer_encoder_layer_fwd", TransformerLayer},
      {"aten::lstm", Recurrent},
      {"aten::gru", Recurrent},
      {"aten::rnn_tanh", Recurrent},
      {"aten::rnn_relu", Recurrent},
      {"aten::lstm_cell", RecurrentCell},
      {"aten::gru_cell", RecurrentCell},
      {"aten::rnn_tanh_cell", RecurrentCell},
      {"aten::rnn_relu_cell", RecurrentCell},
  };
  return *counts;
}

}  // namespace

bool IsCounted(std::string_view name) { return Counts().contains(name); }

int64_t MultiplyAdds(const OperatorCall& call, const at::Tensor& output) {
  return Counts().at(call.name)(call, output);
}

}  // namespace sconce::tools
