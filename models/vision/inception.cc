// Inception v3 as torchvision has it, with its parameter names. Its auxiliary head, of use in
// training alone, is there where the weights have it.
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/max_pool2d.h>

#include <utility>

#include "models/families.h"
#include "models/vision/blocks.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

using InceptionKernel = torch::ExpandingArray<2>;

// Convolutions that run one after the other, and then perhaps two that run side by side.
struct InceptionBranch {
  std::vector<BasicConvolution> chain;
  std::vector<BasicConvolution> fork = {};
};

// Branches side by side, the last of which may begin with, or be, a pooling.
class InceptionBlock : public nn::Module {
 public:
  at::Tensor forward(const at::Tensor& x) {
    std::vector<at::Tensor> outputs;
    for (InceptionBranch& branch : branches_) Run(branch, x, outputs);
    if (pooled_branch_.is_empty()) {
      outputs.push_back(at::max_pool2d(x, 3, 2));
    } else {
      outputs.push_back(pooled_branch_->forward(at::avg_pool2d(x, 3, 1, 1)));
    }
    return at::cat(outputs, 1);
  }

 protected:
  explicit InceptionBlock(int64_t in) : in_(in) {}

  // Without padding where the stride is 2, else with as much as keeps the image's size.
  BasicConvolution Add(const std::string& name, int64_t in, int64_t out, InceptionKernel kernel,
                       int64_t stride = 1) {
    nn::Conv2dOptions options = nn::Conv2dOptions(in, out, kernel).stride(stride);
    if (stride == 1) options.padding(InceptionKernel({kernel->at(0) / 2, kernel->at(1) / 2}));
    return register_module(name, BasicConvolution(options));
  }

  void AddPooled(int64_t out) { pooled_branch_ = Add("branch_pool", in_, out, 1); }

  const int64_t in_;
  std::vector<InceptionBranch> branches_;

 private:
  static void Run(InceptionBranch& branch, at::Tensor x, std::vector<at::Tensor>& outputs) {
    for (BasicConvolution& convolution : branch.chain) x = convolution->forward(x);
    if (branch.fork.empty()) {
      outputs.push_back(std::move(x));
      return;
    }
    std::vector<at::Tensor> sides;
    for (BasicConvolution& convolution : branch.fork) sides.push_back(convolution->forward(x));
    outputs.push_back(at::cat(sides, 1));
  }

  BasicConvolution pooled_branch_{nullptr};
};

class InceptionA final : public InceptionBlock {
 public:
  InceptionA(int64_t in, int64_t pooled) : InceptionBlock(in) {
    branches_.push_back({{Add("branch1x1", in, 64, 1)}});
    branches_.push_back({{Add("branch5x5_1", in, 48, 1), Add("branch5x5_2", 48, 64, 5)}});
    branches_.push_back({{Add("branch3x3dbl_1", in, 64, 1), Add("branch3x3dbl_2", 64, 96, 3),
                          Add("branch3x3dbl_3", 96, 96, 3)}});
    AddPooled(pooled);
  }
};

class InceptionB final : public InceptionBlock {
 public:
  explicit InceptionB(int64_t in) : InceptionBlock(in) {
    branches_.push_back({{Add("branch3x3", in, 384, 3, 2)}});
    branches_.push_back({{Add("branch3x3dbl_1", in, 64, 1), Add("branch3x3dbl_2", 64, 96, 3),
                          Add("branch3x3dbl_3", 96, 96, 3, 2)}});
  }
};

class InceptionC final : public InceptionBlock {
 public:
  InceptionC(int64_t in, int64_t width) : InceptionBlock(in) {
    branches_.push_back({{Add("branch1x1", in, 192, 1)}});
    branches_.push_back(
        {{Add("branch7x7_1", in, width, 1), Add("branch7x7_2", width, width, {1, 7}),
          Add("branch7x7_3", width, 192, {7, 1})}});
    branches_.push_back(
        {{Add("branch7x7dbl_1", in, width, 1), Add("branch7x7dbl_2", width, width, {7, 1}),
          Add("branch7x7dbl_3", width, width, {1, 7}), Add("branch7x7dbl_4", width, width, {7, 1}),
          Add("branch7x7dbl_5", width, 192, {1, 7})}});
    AddPooled(192);
  }
};

class InceptionD final : public InceptionBlock {
 public:
  explicit InceptionD(int64_t in) : InceptionBlock(in) {
    branches_.push_back({{Add("branch3x3_1", in, 192, 1), Add("branch3x3_2", 192, 320, 3, 2)}});
    branches_.push_back(
        {{Add("branch7x7x3_1", in, 192, 1), Add("branch7x7x3_2", 192, 192, {1, 7}),
          Add("branch7x7x3_3", 192, 192, {7, 1}), Add("branch7x7x3_4", 192, 192, 3, 2)}});
  }
};

class InceptionE final : public InceptionBlock {
 public:
  explicit InceptionE(int64_t in) : InceptionBlock(in) {
    branches_.push_back({{Add("branch1x1", in, 320, 1)}});
    branches_.push_back(
        {{Add("branch3x3_1", in, 384, 1)},
         {Add("branch3x3_2a", 384, 384, {1, 3}), Add("branch3x3_2b", 384, 384, {3, 1})}});
    branches_.push_back(
        {{Add("branch3x3dbl_1", in, 448, 1), Add("branch3x3dbl_2", 448, 384, 3)},
         {Add("branch3x3dbl_3a", 384, 384, {1, 3}), Add("branch3x3dbl_3b", 384, 384, {3, 1})}});
    AddPooled(192);
  }
};

// Never run.
class InceptionAuxiliaryHead final : public nn::Module {
 public:
  InceptionAuxiliaryHead(int64_t in, int64_t num_classes) {
    register_module("conv0", BasicConvolution(nn::Conv2dOptions(in, 128, 1)));
    register_module("conv1", BasicConvolution(nn::Conv2dOptions(128, 768, 5)));
    register_module("fc", nn::Linear(768, num_classes));
  }
};

class InceptionModule final : public InceptionNetwork {
 public:
  explicit InceptionModule(const Parameters& parameters)
      : InceptionNetwork(Get<bool>(parameters, "transform_input")) {
    const int64_t num_classes = Get<int64_t>(parameters, "num_classes");
    const auto convolution = [](int64_t in, int64_t out, int64_t kernel) {
      return BasicConvolution(nn::Conv2dOptions(in, out, kernel));
    };
    Add("Conv2d_1a_3x3", BasicConvolution(nn::Conv2dOptions(3, 32, 3).stride(2)));
    Add("Conv2d_2a_3x3", convolution(32, 32, 3));
    Add("Conv2d_2b_3x3", BasicConvolution(nn::Conv2dOptions(32, 64, 3).padding(1)));
    Add("maxpool1", MaxPool(3, 2));
    Add("Conv2d_3b_1x1", convolution(64, 80, 1));
    Add("Conv2d_4a_3x3", convolution(80, 192, 3));
    Add("maxpool2", MaxPool(3, 2));
    Add("Mixed_5b", std::make_shared<InceptionA>(192, 32));
    Add("Mixed_5c", std::make_shared<InceptionA>(256, 64));
    Add("Mixed_5d", std::make_shared<InceptionA>(288, 64));
    Add("Mixed_6a", std::make_shared<InceptionB>(288));
    Add("Mixed_6b", std::make_shared<InceptionC>(768, 128));
    Add("Mixed_6c", std::make_shared<InceptionC>(768, 160));
    Add("Mixed_6d", std::make_shared<InceptionC>(768, 160));
    Add("Mixed_6e", std::make_shared<InceptionC>(768, 192));
    if (Get<bool>(parameters, "aux_logits")) {
      const int64_t aux_classes = AuxiliaryClasses(parameters);
      register_module("AuxLogits", std::make_shared<InceptionAuxiliaryHead>(768, aux_classes));
    }
    Add("Mixed_7a", std::make_shared<InceptionD>(768));
    Add("Mixed_7b", std::make_shared<InceptionE>(1280));
    Add("Mixed_7c", std::make_shared<InceptionE>(2048));
    AddHead(2048, num_classes);
  }
};

class InceptionFamily final : public Family {
 public:
  absl::string_view name() const override { return "inception_v3"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const std::vector<Variant>& variants() const override { return variants_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& configured) const override {
    if (Find(state, "Mixed_5b.branch1x1.conv.weight") == nullptr) {
      return absl::NotFoundError("no convolution at Mixed_5b.branch1x1.conv");
    }
    Inference inference{NumClasses(state, "fc.weight")};
    InferAuxiliaryHeads(state, "AuxLogits.fc.weight", inference.parameters);
    inference.assumed = TransformInputAssumption(name(), configured);
    return inference;
  }

  absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& parameters) const override {
    return BuildModuleNet<InceptionModule>(name(), "Inception3",
                                           ImageClassifierSignature(parameters), parameters);
  }

 private:
  const std::vector<ParameterSpec> parameters_ = WithImageClassifierParameters(
      75,
      {AuxiliaryHeads("the auxiliary head AuxLogits"), AuxiliaryClassesSpec(), TransformInput()},
      /*default_image=*/299);
  const std::vector<Variant> variants_;
};

}  // namespace

const Family& Inception() {
  static const auto* const family = new InceptionFamily;
  return *family;
}

}  // namespace sconce::models
