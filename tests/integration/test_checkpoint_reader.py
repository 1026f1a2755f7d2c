"""The checkpoint reader against files that Python's torch and safetensors write: what it lists and
every byte it reads must be what Python holds."""

import collections
import io
import json
import os
import pathlib
import struct
import subprocess
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SCONCE_BUILD_DIR", ROOT / "build" / "release"))
TOOL = BUILD / "tests" / "support" / "checkpoint_dump"


def dump(path, *flags):
    """The listing, with each tensor's bytes under "bytes"."""
    out = f"{path}.bytes"
    run = subprocess.run([TOOL, path, "--bytes-to", out, *flags], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    listing = json.loads(run.stdout)
    data = pathlib.Path(out).read_bytes()
    at = 0
    for tensor in listing["tensors"]:
        tensor["bytes"] = data[at : at + tensor["size_bytes"]]
        at += tensor["size_bytes"]
    assert at == len(data)
    listing["by_name"] = {tensor["name"]: tensor for tensor in listing["tensors"]}
    return listing


def refusal(path):
    run = subprocess.run([TOOL, path], capture_output=True, text=True)
    assert run.returncode == 1, (run.returncode, run.stdout)
    return run.stderr


def save(tmp_path, value, name="model.pth", **options):
    path = tmp_path / name
    torch.save(value, path, **options)
    return path


def bytes_of(tensor):
    """The tensor as contiguous bytes, whatever its dtype."""
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy().tobytes()
    if tensor.dtype in (torch.quint4x2, torch.quint2x4):  # several elements in a byte
        return whole
    start = tensor.storage_offset() * tensor.element_size()
    return whole[start : start + tensor.numel() * tensor.element_size()]


def assert_same(listing, state_dict):
    assert [tensor["name"] for tensor in listing["tensors"]] == list(state_dict)
    for name, expected in state_dict.items():
        got = listing["by_name"][name]
        assert "torch." + got["dtype"] == str(expected.dtype), name
        assert got["shape"] == list(expected.shape), name
        assert got["bytes"] == bytes_of(expected), name


def check_file(path, state_dict, *flags):
    listing = dump(path, *flags)
    assert_same(listing, state_dict)
    return listing


ALL_DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32,
    torch.uint64, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.complex32, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu, torch.float4_e2m1fn_x2,
]  # fmt: skip


def random_of(dtype, *shape):
    size = torch.empty((), dtype=dtype).element_size()
    count = int(np.prod(shape))
    high = 2 if dtype == torch.bool else 256
    return torch.randint(0, high, (count * size,), dtype=torch.uint8).view(dtype).reshape(shape)


@pytest.mark.parametrize("flags", [(), ("--verify-crc",)])
def test_every_dtype(tmp_path, flags):
    state = {str(dtype): random_of(dtype, 3, 5) for dtype in ALL_DTYPES}
    listing = check_file(save(tmp_path, state), state, *flags)
    assert listing["format"] == "torch.save zip"


def test_quantised(tmp_path):
    real = torch.randn(4, 6)
    per_channel = (torch.rand(4) + 0.1, torch.zeros(4), 0)
    state = {
        "qint8": torch.quantize_per_tensor(real, 0.25, -3, torch.qint8),
        "quint8": torch.quantize_per_tensor(real, 0.5, 7, torch.quint8),
        "qint32": torch.quantize_per_tensor(real, 0.125, 0, torch.qint32),
        "channels": torch.quantize_per_channel(
            real, per_channel[0].double(), torch.arange(4), 0, torch.qint8
        ),
        "quint4x2": torch.quantize_per_channel(torch.randn(4, 5), *per_channel, torch.quint4x2),
        "quint2x4": torch.quantize_per_channel(torch.randn(4, 7), *per_channel, torch.quint2x4),
    }
    listing = check_file(save(tmp_path, state), state)
    quantizer = listing["by_name"]["qint8"]["quantizer"]
    assert (quantizer["scale"], quantizer["zero_point"]) == (0.25, -3)
    quantizer = listing["by_name"]["channels"]["quantizer"]
    assert quantizer["axis"] == 0
    assert quantizer["scales"]["shape"] == quantizer["zero_points"]["shape"] == [4]
    assert quantizer["scales"]["dtype"] == "float64"


def test_views_keep_their_values_and_share_their_storage(tmp_path):
    base = torch.randn(7, 9)
    state = {
        "base": base,
        "transposed": base.t(),
        "slice": base[2:5, 1:8:3],
        "column": base[:, 4],
        "expanded": base[:, :1].expand(7, 5),
        "scalar": base[3, 3],
        "windows": base.flatten().unfold(0, 5, 2),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "permuted": torch.randn(3, 4, 5, 6).permute(2, 0, 3, 1),
        "large": torch.randn(700, 900).t(),
        "strided_rows": torch.randn(300, 2000)[::3, ::7],
        "wide_rows": torch.randn(20, 70000)[:, 1000:60000],
        "blown_up": torch.randn(1).expand(30, 40),
    }
    listing = check_file(save(tmp_path, state), state)
    shared = {listing["by_name"][name]["storage"] for name in list(state)[:7]}
    assert len(shared) == 1
    assert listing["by_name"]["channels_last"]["storage"] not in shared


def test_zero_size_and_scalars(tmp_path):
    state = {
        "none": torch.zeros(0),
        "rows": torch.zeros(0, 3),
        "tail": torch.randn(4, 3)[4:],
        "scalar": torch.tensor(3.5),
        "one": torch.tensor([2], dtype=torch.int64),
    }
    check_file(save(tmp_path, state), state)


def test_conjugate_and_negative_views(tmp_path):
    z = torch.randn(4, 3, dtype=torch.complex64)
    state = {
        "conj": z.clone().conj(),
        "conj_half": torch.randn(5, dtype=torch.complex32).conj(),
        "conj_double": torch.randn(5, dtype=torch.complex128).conj().t(),
        "imag": z.clone().conj().imag,
        "neg": torch._neg_view(torch.randn(6)),
        "both": torch._neg_view(z).conj(),
    }
    listing = check_file(save(tmp_path, state), state)
    assert listing["by_name"]["conj"]["conjugate"] and listing["by_name"]["imag"]["negative"]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.embedding.weight


def test_module_with_tied_weights_and_versions(tmp_path):
    net = Tied()
    listing = check_file(save(tmp_path, net.state_dict()), net.state_dict())
    by_name = listing["by_name"]
    assert by_name["embedding.weight"]["storage"] == by_name["head.weight"]["storage"]
    assert listing["storages"] == len(listing["tensors"]) - 1
    assert listing["has_module_versions"]
    assert listing["module_versions"]["norm"] == 2
    assert listing["module_versions"][""] == 1


def test_parameters_are_told_from_tensors(tmp_path):
    net = nn.Linear(3, 2)
    tagged = torch.randn(2)
    tagged.note = "an attribute"
    tagged_parameter = nn.Parameter(torch.randn(2))
    tagged_parameter.note = "an attribute"
    state = dict(net.named_parameters(), plain=torch.zeros(2), tagged=tagged, both=tagged_parameter)
    listing = check_file(save(tmp_path, state), state)
    kinds = {name: tensor["parameter"] for name, tensor in listing["by_name"].items()}
    assert kinds == {"weight": True, "bias": True, "plain": False, "tagged": False, "both": True}


@pytest.mark.parametrize(
    "wrapper",
    [
        "state_dict", "model_state_dict", "model", "model_state", "net", "ema", "state_dict_ema",
        "model_ema", "other",
    ],  # fmt: skip
)
def test_wrapped_beside_an_optimizer(tmp_path, wrapper):
    net = nn.Sequential(nn.Linear(10, 8), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(4, 10)).sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 1 << 40,
        "seed": 1 << 80,
        "loss": 0.125,
        "done": False,
        "note": "line\nbreak",
        wrapper: net.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
    }
    if wrapper == "other":
        del checkpoint["rng"]  # a tensor at the top would make the whole dict a state_dict
    listing = check_file(save(tmp_path, checkpoint), net.state_dict())
    assert listing["wrapper"] == wrapper
    metadata = listing["metadata"]
    assert metadata["epoch"] == str(1 << 40)
    assert metadata["seed"] == hex(1 << 80)
    assert (metadata["loss"], metadata["done"]) == ("0.125", "False")
    assert metadata["note"] == "line\\nbreak"


def test_of_several_state_dicts_the_weights_come_before_their_averages(tmp_path):
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    path = save(tmp_path, {"ema": second.state_dict(), "model": first.state_dict()})
    listing = check_file(path, first.state_dict())
    assert listing["wrapper"] == "model"
    assert listing["metadata"]["state_dicts in the file"] == "'ema', 'model'"


class Foreign:
    """A class that no reader but this process knows."""

    def __init__(self):
        self.items = [1, 2, {"deep": (3, "four")}]
        self.myself = self


class ForeignDict(dict):
    pass


class ForeignList(list):
    pass


def foreign_objects():
    loop = []
    loop.append((loop,))
    return {
        "object": Foreign(),
        "dict": ForeignDict(a=1, b=2),
        "list": ForeignList([1, 2, 3]),
        "default": collections.defaultdict(list, {"x": [1]}),
        "counter": collections.Counter("hello"),
        "path": pathlib.PurePosixPath("/a/b"),
        "scalar": np.float32(1.5),
        "array": np.arange(12).reshape(3, 4),
        "strings": np.array(["a", "bc"]),
        "bytes": b"\x00\xff binary",
        "set": {1, 2, 3},
        "frozen": frozenset({1, 2}),
        "complex": 1 + 2j,
        "loop": loop,
        "none": None,
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "size": torch.Size([1, 2]),
        "generator": torch.get_rng_state(),
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.empty(3, device="meta"),
        "surrogate": "\udc80",
        "many": list(range(5000)),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_foreign_objects_beside_the_weights(tmp_path, protocol):
    net = nn.Linear(4, 3)
    checkpoint = {
        "pytorch-lightning_version": "2.0",
        "epoch": 3,
        "hyper_parameters": foreign_objects(),
        "callbacks": {"ModelCheckpoint{'monitor': None}": foreign_objects()},
        "state_dict": net.state_dict(),
        **foreign_objects(),
    }
    path = save(tmp_path, checkpoint, "last.ckpt", pickle_protocol=protocol)
    listing = check_file(path, net.state_dict())
    assert listing["wrapper"] == "state_dict"
    assert listing["metadata"]["epoch"] == "3"


def test_entries_of_the_state_dict_that_are_no_tensors(tmp_path):
    state = collections.OrderedDict(
        weight=torch.randn(2),
        _extra_state={"amax": torch.zeros(3)},
        count=5,
        nothing=None,
        text="x",
        foreign=Foreign(),
    )
    state["layer._extra_state"] = 7
    listing = dump(save(tmp_path, state))
    assert list(listing["by_name"]) == ["weight"]
    foreign = f"{__name__}.Foreign"
    assert listing["non_tensors"] == {"count": "int", "text": "str", "foreign": foreign}


def test_prefixes_are_left_as_they_are(tmp_path):
    net = nn.Linear(2, 2)
    for prefix in ("module.", "_orig_mod.", "model."):
        state = {prefix + name: tensor for name, tensor in net.state_dict().items()}
        check_file(save(tmp_path, state), state)


def test_many_entries(tmp_path):
    state = {f"layer.{i}.weight": torch.full((3,), float(i)) for i in range(2500)}
    check_file(save(tmp_path, state), state)


def test_from_a_buffer_and_without_checksums(tmp_path):
    state = {"w": torch.randn(1000)}
    path = tmp_path / "model.bin"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        buffer = io.BytesIO()
        torch.save(state, buffer)
    finally:
        torch.serialization.set_crc32_options(before)
    path.write_bytes(buffer.getvalue())
    check_file(path, state)


def test_checksums_are_compared_when_asked(tmp_path):
    state = {"w": torch.zeros(1000), "part": torch.zeros(50)[10:20]}
    path = save(tmp_path, state)
    check_file(path, state, "--verify-crc")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        record = archive.getinfo(f"{path.stem}/data/1")
    local = record.header_offset
    name_size, extra_size = struct.unpack_from("<HH", content, local + 26)
    start = local + 30 + name_size + extra_size
    content[start] ^= 1  # a byte of the storage that "part" itself does not cover
    path.write_bytes(content)
    dump(path)
    run = subprocess.run([TOOL, path, "--verify-crc"], capture_output=True, text=True)
    assert run.returncode == 1
    assert "tensor 'part'" in run.stderr and "checksum" in run.stderr


def test_rewritten_with_pythons_zipfile(tmp_path):
    state = {"w": torch.randn(10)}
    path = save(tmp_path, state)
    for compression, words in ((zipfile.ZIP_STORED, None), (zipfile.ZIP_DEFLATED, "compressed")):
        again = tmp_path / f"again{compression}.pth"
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(again, "w", compression) as target:
            for name in source.namelist():
                target.writestr(name, source.read(name))
        if words is None:
            check_file(again, state)
        else:
            assert words in refusal(again)


def test_what_is_not_a_state_dict_is_named(tmp_path):
    assert "Foreign" in refusal(save(tmp_path, Foreign()))
    assert "Foreign" in refusal(save(tmp_path, {"model": Foreign(), "epoch": 1}))
    assert "single tensor" in refusal(save(tmp_path, torch.zeros(3)))
    assert "a list" in refusal(save(tmp_path, [torch.zeros(3)]))


def test_tensors_that_cannot_be_described_are_named(tmp_path):
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    assert "tensor 'w.nested'" in refusal(save(tmp_path, {"w.nested": nested}))


def test_safetensors(tmp_path):
    state = {
        str(dtype): random_of(dtype, 3, 4)
        for dtype in ALL_DTYPES
        if dtype not in (torch.complex32, torch.complex128)
    }
    state["scalar"] = torch.tensor(1.5)
    state["empty"] = torch.zeros(0, 7)
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(state, path, metadata={"format": "pt", "step": "7"})
    listing = dump(path)
    assert listing["format"] == "safetensors" and not listing["has_module_versions"]
    assert listing["metadata"] == {"format": "pt", "step": "7"}
    loaded = safetensors.torch.load_file(path)
    assert_same(listing, {tensor["name"]: loaded[tensor["name"]] for tensor in listing["tensors"]})
    assert set(loaded) == set(state)
