"""torchvision's 80 classification networks, for architecture_answers.py: in full size, or the large
ones as small networks of the same family."""

from functools import partial

from architecture_answers import Case, images
from torch import nn
from torchvision import models
from torchvision.models import regnet, resnet, swin_transformer, vgg

TITLE = "torchvision's classifiers"

NAMES = models.list_models(module=models)

# Height and width of the images asked about, where 64 will not do.
IMAGE_SIZES = {"inception_v3": 96, "maxvit_t": 224}


def small_resnet(groups=1, width_per_group=64):
    return models.ResNet(resnet.Bottleneck, [1, 2, 2, 1], num_classes=12, groups=groups,
                         width_per_group=width_per_group)  # fmt: skip


def small_regnet(se_ratio=None):
    block = regnet.BlockParams.from_init_params(
        depth=8, w_0=24, w_a=24.5, w_m=2.5, group_width=8, se_ratio=se_ratio)  # fmt: skip
    return models.RegNet(block, num_classes=12, norm_layer=partial(nn.BatchNorm2d, eps=1e-5),
                         activation=partial(nn.ReLU, inplace=True))  # fmt: skip


def small_convnext(widths, depths):
    setting = [models.convnext.CNBlockConfig(width, following, depth)
               for width, following, depth in zip(widths, [*widths[1:], None], depths)]  # fmt: skip
    return models.ConvNeXt(setting, num_classes=12)


def small_vit(patch_size, layers, heads, width, image_size=64):
    return models.VisionTransformer(image_size, patch_size, layers, heads, width, 2 * width,
                                    num_classes=12)  # fmt: skip


def small_swin(version, embed_dim, depths, heads, window):
    blocks = {
        1: {},
        2: {"block": swin_transformer.SwinTransformerBlockV2,
            "downsample_layer": swin_transformer.PatchMergingV2},
    }  # fmt: skip
    return models.SwinTransformer([4, 4], embed_dim, depths, heads, [window, window],
                                  num_classes=12, **blocks[version])  # fmt: skip


def small_vgg(name, batch_norm):
    """Of full depth; it is the classifier that is large."""
    layers = vgg.make_layers(vgg.cfgs[name], batch_norm)
    network = models.VGG(layers, num_classes=12, init_weights=False)
    for position, sizes in ((0, (512 * 7 * 7, 64)), (3, (64, 64)), (6, (64, 12))):
        network.classifier[position] = nn.Linear(*sizes)
    return network


def small_maxvit():
    return models.MaxVit((96, 96), stem_channels=16, partition_size=3, block_channels=[16, 32, 64],
                         block_layers=[1, 2, 1], head_dim=8, stochastic_depth_prob=0.2,
                         num_classes=12)  # fmt: skip


# name -> (the family that is detected, the network, the size of its images)
SMALL = {
    "resnet101": ("resnet", small_resnet, 64),
    "resnet152": ("resnet", small_resnet, 64),
    "resnext101_32x8d": ("resnet", partial(small_resnet, 32, 8), 64),
    "resnext101_64x4d": ("resnet", partial(small_resnet, 64, 4), 64),
    "wide_resnet50_2": ("resnet", partial(small_resnet, 1, 128), 64),
    "wide_resnet101_2": ("resnet", partial(small_resnet, 1, 128), 64),
    "regnet_x_16gf": ("regnet", small_regnet, 64),
    "regnet_x_32gf": ("regnet", small_regnet, 64),
    "regnet_x_8gf": ("regnet", small_regnet, 64),
    "regnet_y_128gf": ("regnet", partial(small_regnet, 0.25), 64),
    "regnet_y_16gf": ("regnet", partial(small_regnet, 0.25), 64),
    "regnet_y_32gf": ("regnet", partial(small_regnet, 0.25), 64),
    "regnet_y_8gf": ("regnet", partial(small_regnet, 0.25), 64),
    "convnext_small": ("convnext", partial(small_convnext, [24, 48, 96], [2, 1, 3]), 64),
    "convnext_base": ("convnext", partial(small_convnext, [32, 40, 64, 96], [1, 2, 2, 1]), 64),
    "convnext_large": ("convnext", partial(small_convnext, [48, 96, 192, 384], [1, 1, 2, 1]), 64),
    "vit_b_16": ("vit", partial(small_vit, 16, 3, 12, 768), 64),
    "vit_b_32": ("vit", partial(small_vit, 32, 2, 12, 768), 64),
    "vit_l_16": ("vit", partial(small_vit, 16, 2, 16, 1024), 64),
    "vit_l_32": ("vit", partial(small_vit, 32, 2, 16, 1024), 64),
    "vit_h_14": ("vit", partial(small_vit, 14, 2, 16, 1280, 70), 70),
    "swin_s": ("swin", partial(small_swin, 1, 32, [2, 3], [1, 2], 7), 70),
    "swin_b": ("swin", partial(small_swin, 1, 64, [1, 2, 2], [2, 4, 8], 5), 64),
    "swin_v2_s": ("swin_v2", partial(small_swin, 2, 32, [2, 3], [1, 2], 8), 70),
    "swin_v2_b": ("swin_v2", partial(small_swin, 2, 64, [1, 2, 2], [2, 4, 8], 5), 64),
    **{f"vgg{depth}{suffix}": ("vgg", partial(small_vgg, config, bool(suffix)), 64)
       for depth, config in ((11, "A"), (13, "B"), (16, "D"), (19, "E"))
       for suffix in ("", "_bn")},
    "maxvit_t": ("maxvit", small_maxvit, 96),
}

# What no weights tell, where a small network has not the usual.
CONFIGURED = {"vit_h_14": {"heads": "16"}}


def cases(full):
    made = []
    for name in NAMES:
        if not full and name in SMALL:
            family, make, size = SMALL[name]
            configured = CONFIGURED.get(name, {})
            made.append(Case(name, make, images(size), detected=family, parameters=configured,
                             architecture=family if configured else ""))  # fmt: skip
        else:
            made.append(Case(name, getattr(models, name), images(image_size(name, full))))
    return made


def image_size(name, full):
    return 224 if name.startswith("vit_") else IMAGE_SIZES.get(name, 64)
