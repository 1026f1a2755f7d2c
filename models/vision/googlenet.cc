// GoogLeNet (Inception v1) as torchvision has it, with its parameter names. Its auxiliary heads, of
// use in training alone, are there where the weights have them.
#include <ATen/ops/cat.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "models/families.h"
#include "models/vision/blocks.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

BasicConvolution GoogLeNetConvolution(int64_t in, int64_t out, int64_t kernel, int64_t stride = 1) {
  return BasicConvolution(nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2));
}

struct GoogLeNetWidths {
  int64_t direct, narrowed3, wide3, narrowed5, wide5, pooled;

  int64_t sum() const { return direct + wide3 + wide5 + pooled; }
};

// Four branches side by side. The third, called 5x5 in the paper, is 3x3 in torchvision.
class GoogLeNetInception final : public nn::Module {
 public:
  GoogLeNetInception(int64_t in, const GoogLeNetWidths& widths) {
    branch1_ = register_module("branch1", GoogLeNetConvolution(in, widths.direct, 1));
    branch2_ =
        register_module("branch2", Layers(GoogLeNetConvolution(in, widths.narrowed3, 1),
                                          GoogLeNetConvolution(widths.narrowed3, widths.wide3, 3)));
    branch3_ =
        register_module("branch3", Layers(GoogLeNetConvolution(in, widths.narrowed5, 1),
                                          GoogLeNetConvolution(widths.narrowed5, widths.wide5, 3)));
    branch4_ = register_module("branch4", Layers(MaxPool(3, 1, 1, /*ceil_mode=*/true),
                                                 GoogLeNetConvolution(in, widths.pooled, 1)));
  }

  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor direct = branch1_->forward(x), wide3 = branch2_->forward(x),
                     wide5 = branch3_->forward(x), pooled = branch4_->forward(x);
    return at::cat({direct, wide3, wide5, pooled}, 1);
  }

 private:
  BasicConvolution branch1_{nullptr};
  Layers branch2_{nullptr}, branch3_{nullptr}, branch4_{nullptr};
};

// Never run.
class GoogLeNetAuxiliaryHead final : public nn::Module {
 public:
  GoogLeNetAuxiliaryHead(int64_t in, int64_t num_classes) {
    register_module("conv", GoogLeNetConvolution(in, 128, 1));
    register_module("fc1", nn::Linear(2048, 1024));
    register_module("fc2", nn::Linear(1024, num_classes));
    register_module("dropout", nn::Dropout());
  }
};

class GoogLeNetModule final : public InceptionNetwork {
 public:
  explicit GoogLeNetModule(const Parameters& parameters)
      : InceptionNetwork(Get<bool>(parameters, "transform_input")) {
    const int64_t num_classes = Get<int64_t>(parameters, "num_classes");
    Add("conv1", GoogLeNetConvolution(3, 64, 7, 2));
    Add("maxpool1", MaxPool(3, 2, 0, /*ceil_mode=*/true));
    Add("conv2", GoogLeNetConvolution(64, 64, 1));
    Add("conv3", GoogLeNetConvolution(64, 192, 3));
    Add("maxpool2", MaxPool(3, 2, 0, /*ceil_mode=*/true));
    int64_t channels = 192;
    const auto inception = [&](const std::string& name, const GoogLeNetWidths& widths) {
      Add(name, std::make_shared<GoogLeNetInception>(channels, widths));
      channels = widths.sum();
    };
    inception("inception3a", {64, 96, 128, 16, 32, 32});
    inception("inception3b", {128, 128, 192, 32, 96, 64});
    Add("maxpool3", MaxPool(3, 2, 0, /*ceil_mode=*/true));
    inception("inception4a", {192, 96, 208, 16, 48, 64});
    inception("inception4b", {160, 112, 224, 24, 64, 64});
    inception("inception4c", {128, 128, 256, 24, 64, 64});
    inception("inception4d", {112, 144, 288, 32, 64, 64});
    inception("inception4e", {256, 160, 320, 32, 128, 128});
    Add("maxpool4", MaxPool(2, 2, 0, /*ceil_mode=*/true));
    inception("inception5a", {256, 160, 320, 32, 128, 128});
    inception("inception5b", {384, 192, 384, 48, 128, 128});
    if (Get<bool>(parameters, "aux_logits")) {
      const int64_t aux_classes = AuxiliaryClasses(parameters);
      register_module("aux1", std::make_shared<GoogLeNetAuxiliaryHead>(512, aux_classes));
      register_module("aux2", std::make_shared<GoogLeNetAuxiliaryHead>(528, aux_classes));
    }
    AddHead(channels, num_classes);
  }
};

class GoogLeNetFamily final : public Family {
 public:
  absl::string_view name() const override { return "googlenet"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const std::vector<Variant>& variants() const override { return variants_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& configured) const override {
    if (Find(state, "inception3a.branch1.conv.weight") == nullptr) {
      return absl::NotFoundError("no convolution at inception3a.branch1.conv");
    }
    Inference inference{NumClasses(state, "fc.weight")};
    InferAuxiliaryHeads(state, "aux1.fc2.weight", inference.parameters);
    inference.assumed = TransformInputAssumption(name(), configured);
    return inference;
  }

  absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& parameters) const override {
    return BuildModuleNet<GoogLeNetModule>(name(), "GoogLeNet",
                                           ImageClassifierSignature(parameters), parameters);
  }

 private:
  const std::vector<ParameterSpec> parameters_ =
      WithImageClassifierParameters(15, {AuxiliaryHeads("the auxiliary heads aux1 and aux2"),
                                         AuxiliaryClassesSpec(), TransformInput()});
  const std::vector<Variant> variants_;
};

}  // namespace

const Family& GoogLeNet() {
  static const auto* const family = new GoogLeNetFamily;
  return *family;
}

}  // namespace sconce::models
