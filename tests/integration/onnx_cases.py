"""Networks for onnx_answers.py: all of the catalog's, the large ones as small networks of the same
family. They are smaller than those of torchvision_cases.py, since exporting takes long."""

import dataclasses
from functools import partial

import text_cases
import torchvision_cases
from architecture_answers import Case, images
from torch import nn
from torchvision import models
from torchvision.models.efficientnet import EfficientNet, _efficientnet_conf

# The older exporter has adaptive pooling only where each window is as large as the others.
LARGE_IMAGES = ("alexnet", "vgg")

# These are RoBERTa under other names.
LIKE_ROBERTA = ("xlm-roberta", "camembert")

V1_WIDTHS = {"efficientnet_b1": 1.0, "efficientnet_b2": 1.1, "efficientnet_b3": 1.2,
              "efficientnet_b4": 1.4, "efficientnet_b5": 1.6,
             "efficientnet_b6": 1.8, "efficientnet_b7": 2.0}  # fmt: skip
# Those whose batch norms add more than usual.
EPS = ("efficientnet_b5", "efficientnet_b6", "efficientnet_b7", "efficientnet_v2_s",
       "efficientnet_v2_m", "efficientnet_v2_l")  # fmt: skip


def small_efficientnet(name):
    """As wide as the variant, with one or two blocks in a stage."""
    if name in V1_WIDTHS:
        setting, last = _efficientnet_conf(name, width_mult=V1_WIDTHS[name], depth_mult=0.4)
    else:
        setting, last = _efficientnet_conf(name)
        for stage in setting:
            stage.num_layers = 2
    eps = 1e-3 if name in EPS else 1e-5
    return EfficientNet(setting, 0.2, num_classes=12, last_channel=last,
                        norm_layer=partial(nn.BatchNorm2d, eps=eps))  # fmt: skip


def small_densenet(growth_rate, stem):
    return models.DenseNet(growth_rate, (3, 2, 4, 2), stem, num_classes=12)


SMALL = {
    **{name: ("efficientnet", partial(small_efficientnet, name),
              {"eps": "0.001"} if name in EPS else {})
       for name in [*V1_WIDTHS, "efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l"]},
    "densenet161": ("densenet", partial(small_densenet, 48, 96), {}),
    "densenet169": ("densenet", partial(small_densenet, 32, 64), {}),
    "densenet201": ("densenet", partial(small_densenet, 32, 64), {}),
}  # fmt: skip


def classifiers() -> list[Case]:
    made = []
    for case in torchvision_cases.cases(full=False):
        if case.name in SMALL:
            family, make, parameters = SMALL[case.name]
            case = Case(case.name, make, images(64), detected=family, parameters=parameters)
        elif case.name.startswith(LARGE_IMAGES):
            case = dataclasses.replace(case, inputs=images(224))
        made.append(case)
    return made


def texts() -> list[Case]:
    """Without what differs in the texts alone."""
    made = []
    for case in text_cases.cases(full=False):
        kind, _, what = case.name.partition(": ")
        if what in ("tokens, no padding", "longest text"):
            continue
        if kind not in LIKE_ROBERTA or what == "tokens":
            made.append(case)
    return made
