// Net: a network whose tensors have names, ready to be given weights and to be run. What the server
// sees of an architecture, whatever it is made of.
//
// Owned by whoever created it. Everything but Forward is called by one thread at a time, before the
// net is shared; after Eval, Forward is thread-safe.
#ifndef SCONCE_MODELS_NET_H_
#define SCONCE_MODELS_NET_H_

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace sconce::models {

struct TensorSpec {
  std::string name;
  c10::ScalarType dtype;
  // Without the batch dimension, which always comes first; -1 = any size.
  std::vector<int64_t> dims;
};

struct Signature {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
};

struct NamedTensor {
  std::string name;
  at::Tensor tensor;
  bool is_parameter;  // else a buffer
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

  // Inference mode for the layers that have one (batch norm, dropout).
  virtual void Eval() = 0;

  // Inputs and outputs in the signature's order, the first dimension being the batch. Throws
  // c10::Error. REQUIRES: every tensor of State() has been assigned.
  virtual std::vector<at::Tensor> Forward(const std::vector<at::Tensor>& inputs) const = 0;
};

}  // namespace sconce::models

#endif  // SCONCE_MODELS_NET_H_
