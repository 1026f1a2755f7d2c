// Net: a network whose tensors have names, ready to be given weights and to be run. What the server
// sees of an architecture, whatever it is made of.
//
// Owned by whoever created it. Everything but Forward is called by one thread at a time, before the
// net is shared; after Eval, Forward is thread-safe.
#ifndef SCONCE_MODELS_NET_H_
#define SCONCE_MODELS_NET_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/tensor_rules.h"

namespace sconce::models {

struct TensorSpec {
  std::string name;
  c10::ScalarType dtype;
  // Without the batch dimension, which comes first; -1 = any size that `rules` allows.
  std::vector<int64_t> dims;
  TensorRules rules = {};
};

struct Signature {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  RowRules rows = {};
};

struct NamedTensor {
  std::string name;
  at::Tensor tensor;
  bool is_parameter;  // else a buffer
};

// A convolution whose output goes to a batch norm and nowhere else, so that the convolution may
// take over the norm's numbers. Indexes are of State(); the first dimension of `weight` is the
// channels.
struct NormPair {
  size_t weight = 0;
  std::optional<size_t> bias = {};
  // The norm's weight and bias; none: ones and zeros.
  std::optional<size_t> scale = {};
  std::optional<size_t> shift = {};
  size_t mean = 0;
  size_t variance = 0;
  double epsilon = 0;
};

// What Forward throws where the inputs are not what the network takes, in a way that its signature
// cannot say: whoever sent them is told, and the network is as good as before.
class InvalidInput : public c10::Error {
 public:
  using c10::Error::Error;
};

class Net {
 public:
  virtual ~Net() = default;

  // The class name that PyTorch's messages would give: "ResNet".
  virtual const std::string& class_name() const = 0;

  virtual const Signature& signature() const = 0;

  // Parameters and persistent buffers, in the order of a state_dict. A net fresh from
  // Architecture::Create has no memory for them yet: each tensor has its shape and dtype, with one
  // element seen through strides of 0 (skip_init.h). Such a tensor may be read but not written.
  virtual std::vector<NamedTensor> State() const = 0;

  // The dotted names of all modules, each before its children, beginning with "" for the net
  // itself; the ones without tensors included.
  virtual std::vector<std::string> ModuleNames() const = 0;

  // Makes the index-th tensor of State() use `tensor`'s memory, on whatever device that is.
  // REQUIRES: same shape; same dtype, or another of floating-point numbers. Throws c10::Error
  // otherwise.
  virtual void Assign(size_t index, const at::Tensor& tensor) = 0;

  // Called once, after every tensor of State() has been assigned on `device`: inference mode for
  // the layers that have one (batch norm, dropout), and what the net holds beside State()
  // (constants) goes to `device`, too. Throws c10::Error.
  virtual void Eval(c10::Device device) = 0;

  // Inputs and outputs in the signature's order, the first dimension being the batch; all inputs
  // are there, also those that requests may leave out. Throws c10::Error, InvalidInput where the
  // inputs are to blame. REQUIRES: Eval.
  virtual std::vector<at::Tensor> Forward(const std::vector<at::Tensor>& inputs) const = 0;

  // How much Eval takes of a device's memory for what the net holds beside State(); on the CPU it
  // is there from the start.
  virtual int64_t ConstantBytes() const { return 0; }

  // The batch norms that can be dropped.
  virtual std::vector<NormPair> NormPairs() const { return {}; }

  // Drops the norm of NormPairs()[pair]: from here on its convolution has this weight and this
  // bias, and its output is what the norm gave. The tensors of State() that the pair names are let
  // go. Called after Eval, once for a pair, while nobody runs the net. Throws c10::Error.
  virtual void Fold(size_t pair, const at::Tensor& weight, const at::Tensor& bias);
};

}  // namespace sconce::models

#endif  // SCONCE_MODELS_NET_H_
