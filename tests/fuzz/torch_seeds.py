"""Adds what Python's torch writes to the corpora that fuzzing starts from: torch_seeds.py FOLDER.
The bytes may differ from run to run; what they hold does not."""

import collections
import io
import json
import pathlib
import re
import struct
import sys
import tempfile
import zipfile

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save as save_safetensors

# As in bundle.h.
HEADER = pathlib.Path(__file__).with_name("bundle.h").read_text()
NAMES = re.findall(r'"([^"]+)"', HEADER[HEADER.index("kBundleNames"):HEADER.index("};")])
OPENS_FOLDER = 255


def bundle(files, opens=None):
    """The first file should be the one that says what is in the others."""
    encoded = bytes([OPENS_FOLDER if opens is None else NAMES.index(opens)])
    for name, data in files.items():
        encoded += struct.pack("<BI", NAMES.index(name), len(data)) + data
    return encoded


def saved(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def exported(model, *inputs):
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(model, inputs), buffer)
    return buffer.getvalue()


def with_saved_weight(program):
    """The same program with its first weight as torch.save writes it, which the format allows."""
    config_name, weight_name = "_weights_config.json", "data/weights/weight_0"
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(program)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith(config_name):
                data = data.replace(b'"use_pickle": false', b'"use_pickle": true', 1)
            elif name.endswith(weight_name):
                data = saved(torch.ones(3, 2))
            new.writestr(name, data)
    return buffer.getvalue()


class Exportable(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 3)
        self.register_buffer("constant", torch.ones(3), persistent=False)

    def forward(self, x):
        return self.linear(x) + self.constant


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 3)
        self.norm = torch.nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.linear(x))


def objects():
    torch.manual_seed(1)
    model = Block()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    tied = torch.ones(3)
    quantised = torch.quantize_per_channel(
        torch.ones(2, 3), torch.tensor([0.5, 0.25]), torch.tensor([0, 1]), 0, torch.qint8)
    return {
        "state_dict": model.state_dict(),
        "training": {
            "state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3,
            "best": np.float64(0.5), "rng": np.arange(3), "random": torch.get_rng_state()[:16],
        },
        "tensors": {
            "tied": tied, "view": tied[1:], "transposed": torch.ones(2, 3).T,
            "expanded": torch.ones(1).expand(5), "conjugate": torch.ones(2, dtype=torch.cfloat).conj(),
            "scalar": torch.tensor(1), "empty": torch.empty(0, 3), "half": torch.ones(2).half(),
            "small": torch.ones(2).to(torch.float8_e4m3fn), "word": torch.ones(2).to(torch.uint16),
            "parameter": torch.nn.Parameter(torch.ones(2)), "quantised": quantised,
        },
        "sparse": {
            "coo": torch.eye(3).to_sparse(), "csr": torch.eye(3).to_sparse_csr(),
            "bsr": torch.eye(4).to_sparse_bsr((2, 2)), "dense": torch.ones(1),
        },
        "module": model,
    }


def write(folder, seeds):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in seeds.items():
        (folder / f"torch_{name}").write_bytes(data)


def distributed(state):
    with tempfile.TemporaryDirectory() as folder:
        dcp.save(state, checkpoint_id=folder, no_dist=True)
        files = {path.name: path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())}
    return bundle({name: files[name] for name in sorted(files, key=lambda n: n != ".metadata")})


def main(target):
    root = pathlib.Path(target)
    made = objects()
    write(root / "zip", {name: saved(value) for name, value in made.items()})
    write(root / "legacy", {
        name: saved(value, _use_new_zipfile_serialization=False) for name, value in made.items()})
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(Block()), script)
    program = exported(Exportable(), torch.ones(1, 2))
    write(root / "zip", {"script": script.getvalue(), "exported": program,
                         "exported_saved": with_saved_weight(program)})
    state = collections.OrderedDict(a=torch.ones(2), b=torch.ones(2, 2).half())
    write(root / "safetensors", {"two": save_safetensors(state, {"format": "pt"})})

    shards = {"model-00001-of-00002.safetensors": {"a": state["a"]},
              "model-00002-of-00002.safetensors": {"b": state["b"]}}
    index = {"metadata": {"total_size": 16},
             "weight_map": {"a": "model-00001-of-00002.safetensors",
                            "b": "model-00002-of-00002.safetensors"}}
    files = {"model.safetensors.index.json": json.dumps(index).encode()}
    files |= {name: save_safetensors(tensors) for name, tensors in shards.items()}
    write(root / "index", {
        "safetensors": bundle(files),
        "safetensors_file": bundle(files, "model.safetensors.index.json"),
        "bin": bundle({
            "pytorch_model.bin.index.json": json.dumps({
                "metadata": {}, "weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}).encode(),
            "pytorch_model-00001-of-00002.bin": saved({"a": state["a"]}),
        }),
    })
    write(root / "dcp", {"two": distributed(dict(state)),
                         "nested": distributed({"model": dict(state), "epoch": 3})})


if __name__ == "__main__":
    main(*sys.argv[1:])
