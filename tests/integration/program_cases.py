"""Programs to export and ask, for program_answers.py: torchvision's 80 classifiers, and what else
people have: text encoders, recurrent networks, detection, shapes that depend on data, control flow,
and the odd things that export leaves in a graph."""

import torch
import torchvision_cases
from program_answers import ProgramCase
from torch import nn
from torch.export import Dim


def batch(name="x", **others):
    return {name: {0: Dim("batch")}, **others}


def normal(*shape):
    return lambda generator, rows: [torch.randn(rows, *shape, generator=generator)]


# Python runs nn.MultiheadAttention and nn.TransformerEncoderLayer as one operator in eager mode, and
# exports them as many.
FUSED = {"otherwise": "in eager mode one operator does the attention or layer", "tolerance": 1e-4}


def classifiers(full):
    """The cases of the catalog's table, exported; dynamic in the batch."""
    made = []
    for case in torchvision_cases.cases(full):
        size = case.inputs(torch.Generator())[0].shape[-1]
        made.append(ProgramCase(case.name, case.make, normal(3, size, size),
                                dynamic=({0: Dim("batch")},), rows=(2, 1),
                                nativert=not case.name.startswith(("swin_", "maxvit_")),
                                **(FUSED if case.name.startswith("vit_") else {})))  # fmt: skip
    return made


class TextLayer(nn.Module):
    def __init__(self, width, heads=4):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.wide = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1),
                                  nn.Linear(2 * width, width))  # fmt: skip
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, x, mask):
        rows, length, width = x.shape
        q, k, v = (part.view(rows, length, self.heads, -1).transpose(1, 2)
                   for part in self.qkv(x).chunk(3, dim=-1))  # fmt: skip
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norms[0](x + self.out(attended.transpose(1, 2).reshape(rows, length, width)))
        return self.norms[1](x + self.wide(x))


class TextEncoder(nn.Module):
    """A text of any length, padded, as BERT has it."""

    def __init__(self, vocabulary=50, width=32):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.places = nn.Embedding(64, width)
        self.register_buffer("position_ids", torch.arange(64).unsqueeze(0), persistent=False)
        self.layers = nn.ModuleList(TextLayer(width) for _ in range(2))

    def forward(self, input_ids, attention_mask):
        x = self.tokens(input_ids) + self.places(self.position_ids[:, : input_ids.shape[1]])
        mask = attention_mask[:, None, None, :].bool()
        for layer in self.layers:
            x = layer(x, mask)
        weights = attention_mask.unsqueeze(-1).to(x.dtype)
        return {"last_hidden_state": x,
                "pooled": (x * weights).sum(1) / weights.sum(1).clamp(min=1)}  # fmt: skip


def text(generator, rows):
    ids = torch.randint(0, 50, (rows, 5 + rows), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    return [ids, mask]


class Transformer(nn.Module):
    """PyTorch's own encoder, for texts of one length."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x, mask):
        return self.encoder(x, src_key_padding_mask=mask)


def padded(generator, rows):
    mask = torch.zeros(rows, 6, dtype=torch.bool)
    mask[0, -2:] = True
    return [torch.randn(rows, 6, 32, generator=generator), mask]


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cells = kind(8, 16, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        sequence, _ = self.cells(x)
        return self.head(sequence[:, -1]), sequence


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x):
        mask = torch.triu(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool), diagonal=1)
        return self.attention(x, x, x, attn_mask=mask)


class Sizes(nn.Module):
    """Arithmetic on sizes, factories, constants, and what is written in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.full((1,), 3.0), persistent=False)
        self.table = torch.arange(12.0).view(3, 4).t()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        rows, length = x.shape[0], x.shape[1]
        y = self.linear(x)
        y = y.reshape(rows, length * 2, 4) * self.scale
        y[:, 0] += 1
        padded = torch.zeros(rows, length * 2 + 1, 4)
        padded[:, : length * 2] = y
        positions = torch.arange(length * 2 + 1, dtype=torch.float32).view(1, -1, 1)
        halves = padded.split([length, length + 1], dim=1)
        with torch.no_grad():
            total = torch.cat([half.sum(1) for half in halves], dim=-1)
        return padded + positions, total, self.table * rows


class Branch(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))


class Loop(nn.Module):
    def forward(self, x):
        from torch._higher_order_ops.while_loop import while_loop

        return while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 2),
                          (torch.tensor(0), x))  # fmt: skip


class Selected(nn.Module):
    """Shapes that depend on data."""

    def forward(self, x):
        kept = x[x[:, 0] > 0]
        return kept, torch.nonzero(x[:, 0] > 0)


class Counted(nn.Module):
    def forward(self, x, count):
        n = count.item()
        torch._check(n >= 1)
        torch._check(n <= 4)
        return torch.zeros(n, 3) + x.sum()


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls.add_(1)
        return x + self.calls


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.embedding(ids))


class Detection(nn.Module):
    """torchvision's detectors take a list of images of any sizes: here, a batch of one size."""

    def __init__(self, make):
        super().__init__()
        self.model = make()

    def forward(self, images):
        found = self.model([images[0]])[0]
        return found["boxes"], found["scores"], found["labels"]


def ssdlite():
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    return Detection(lambda: ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4))  # fmt: skip


def fasterrcnn():
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    return Detection(lambda: fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=4))  # fmt: skip


class Suppressed(nn.Module):
    """An operator that is not LibTorch's own."""

    def forward(self, boxes, scores):
        from torchvision.ops import nms

        return nms(boxes, scores, 0.5)


def segmentation():
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    return lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)


def others():
    length = Dim("length", min=2, max=60)
    ids = {0: Dim("batch"), 1: length}
    return [
        ProgramCase("linear", lambda: nn.Linear(10, 1), normal(10), batch("input"), (2, 1, 5)),
        ProgramCase("text encoder", TextEncoder, text, {"input_ids": ids, "attention_mask": ids},
                    rows=(2, 3, 4)),
        ProgramCase("transformer", Transformer, padded,
                    {"x": {0: Dim("batch")}, "mask": {0: Dim("batch")}}, **FUSED),
        ProgramCase("LSTM", lambda: Recurrent(nn.LSTM), normal(7, 8), batch()),
        ProgramCase("GRU", lambda: Recurrent(nn.GRU), normal(7, 8), batch()),
        ProgramCase("RNN", lambda: Recurrent(nn.RNN), normal(7, 8), batch()),
        ProgramCase("attention", Attention, normal(6, 32), batch(), **FUSED),
        ProgramCase("sizes", Sizes, normal(5, 8), {"x": {0: Dim("batch"), 1: length}},
                    nativert=False),
        ProgramCase("tied weights", Tied,
                    lambda g, rows: [torch.randint(0, 20, (rows, 4), generator=g)], batch("ids")),
        ProgramCase("segmentation", segmentation, normal(3, 64, 64), batch("input"), rows=(2, 1),
                    nativert=False),
        ProgramCase("selected by data", Selected, normal(4), batch()),
        ProgramCase("counted by data", Counted,
                    lambda g, rows: [torch.randn(2, generator=g), torch.tensor(rows)]),
        ProgramCase("detection, ssdlite", ssdlite, normal(3, 320, 320), rows=(1,)),
        ProgramCase("detection, faster r-cnn", fasterrcnn, normal(3, 320, 320), rows=(1,)),
        ProgramCase("operator of torchvision", Suppressed,
                    lambda g, rows: [torch.rand(5, 4, generator=g), torch.rand(5, generator=g)],
                    refused="torchvision::nms"),
        ProgramCase("torch.cond", Branch, normal(4), refused="torch.ops.higher_order.cond"),
        ProgramCase("while_loop", Loop, normal(4), refused="torch.ops.higher_order.while_loop"),
        ProgramCase("changes a buffer", Counter, normal(1), refused='the buffer "calls" in place'),
    ]  # fmt: skip


# One of each family.
QUICK = ["resnet18", "alexnet", "vgg11_bn", "densenet121", "efficientnet_b0", "googlenet",
         "inception_v3", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_8gf",
         "shufflenet_v2_x0_5", "squeezenet1_1", "convnext_base", "swin_b", "swin_v2_b", "vit_b_32",
         "maxvit_t"]  # fmt: skip


def quick_cases():
    return [case for case in classifiers(full=False) if case.name in QUICK] + others()


def all_cases(full):
    return classifiers(full) + others()
