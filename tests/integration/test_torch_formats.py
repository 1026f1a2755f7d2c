"""All that torch.save and torch.jit.save have ever written, in the forms that Python can still
write: what the reader makes of it must be what Python's torch makes of it, bit for bit."""

import argparse
import collections
import io
import pickle
import struct
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from test_checkpoint_reader import (
    ALL_DTYPES,
    TOOL,
    Tied,
    assert_same,
    check_file,
    dump,
    foreign_objects,
    random_of,
    refusal,
    save,
)

LEGACY = {"_use_new_zipfile_serialization": False}
BOTH = pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
# What is refused even by Python's torch when it reads: dtypes without a storage class of their own.
UNTYPED = {
    torch.uint16, torch.uint32, torch.uint64, torch.complex32, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
    torch.float4_e2m1fn_x2,
}  # fmt: skip


def check_dense(path, expected, max_bytes=1 << 30):
    listing = dump(path, "--dense", str(max_bytes))
    assert_same(listing, expected)
    return listing


# ---- Before 1.6.


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_legacy_dtypes(tmp_path, protocol):
    state = {str(dtype): random_of(dtype, 3, 5) for dtype in ALL_DTYPES}
    path = save(tmp_path, state, pickle_protocol=protocol, **LEGACY)
    listing = check_file(path, state)
    assert listing["format"] == "torch.save before 1.6"
    assert "before 1.6" in listing["producer"]


def test_legacy_is_what_python_reads(tmp_path):
    state = {str(d): random_of(d, 7, 2) for d in ALL_DTYPES if d not in UNTYPED}
    path = save(tmp_path, state, **LEGACY)
    check_file(path, torch.load(path, weights_only=False))


def test_legacy_views(tmp_path):
    base = torch.randn(7, 9)
    z = torch.randn(4, 3, dtype=torch.complex64)
    state = {
        "base": base,
        "transposed": base.t(),
        "slice": base[2:5, 1:8:3],
        "expanded": base[:, :1].expand(7, 5),
        "scalar": base[3, 3],
        "empty": torch.zeros(0, 3),
        "conj": z.conj(),
        "neg": torch._neg_view(torch.randn(6)),
        "imag": z.clone().conj().imag,
        "large": torch.randn(700, 900).t(),
    }
    listing = check_file(save(tmp_path, state, **LEGACY), state)
    assert len({listing["by_name"][name]["storage"] for name in list(state)[:5]}) == 1


def test_legacy_module_with_tied_weights(tmp_path):
    net = Tied()
    listing = check_file(save(tmp_path, net.state_dict(), **LEGACY), net.state_dict())
    by_name = listing["by_name"]
    assert by_name["embedding.weight"]["storage"] == by_name["head.weight"]["storage"]
    assert listing["module_versions"]["norm"] == 2


def test_legacy_beside_an_optimizer(tmp_path):
    net = nn.Sequential(nn.Linear(10, 8), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(4, 10)).sum().backward()
    optimizer.step()
    checkpoint = {"epoch": 3, "optimizer": optimizer.state_dict(), "state_dict": net.state_dict()}
    listing = check_file(save(tmp_path, checkpoint, **LEGACY), net.state_dict())
    assert listing["wrapper"] == "state_dict" and listing["storages"] == 4
    assert listing["metadata"]["epoch"] == "3"
    assert listing["metadata"]["optimizer.param_groups[0].betas"] == "(0.9, 0.999)"


def test_legacy_quantised(tmp_path):
    real = torch.randn(4, 6)
    state = {
        "tensor": torch.quantize_per_tensor(real, 0.25, -3, torch.qint8),
        "channels": torch.quantize_per_channel(
            real, torch.rand(4) + 0.1, torch.arange(4), 0, torch.quint8
        ),
    }
    path = save(tmp_path, state, **LEGACY)
    check_file(path, state)
    check_dense(path, {name: tensor.dequantize() for name, tensor in state.items()})


def test_legacy_cut_anywhere_is_refused(tmp_path):
    content = save(tmp_path, nn.Linear(3, 2).state_dict(), **LEGACY).read_bytes()
    cut = tmp_path / "cut.pth"
    for size in range(20, len(content), 7):
        cut.write_bytes(content[:size])
        assert str(cut) in refusal(cut)


# ---- What no writer is left for, built from the source of torch.load, which still reads it.


def python2_string(text):
    return b"U" + bytes([len(text)]) + text.encode()


def python2_legacy_file(path, tensors, as_parameters):
    """The format before 1.6 as Python 2 pickled it: byte strings, an OrderedDict whose items are
    arguments, version 1 of the rebuild function, Parameters as calls of their class."""

    def integer(value):
        return b"J" + struct.pack("<i", value)

    def tensor_pickle(key, tensor):
        identity = (
            b"(" + python2_string("storage") + b"ctorch\nFloatStorage\n" + python2_string(key)
            + python2_string("cpu") + integer(tensor.numel()) + b"NtQ"
        )  # fmt: skip
        shape = b"(" + b"".join(map(integer, tensor.shape)) + b"t"
        strides = b"(" + b"".join(map(integer, tensor.stride())) + b"t"
        built = (
            b"ctorch._utils\n_rebuild_tensor\n(" + identity + integer(0) + shape + strides + b"tR"
        )
        if as_parameters:
            built = b"ctorch.nn.parameter\nParameter\n" + built + b"\x88\x86R"
        return built

    pairs = b"".join(
        b"](" + python2_string(name) + tensor_pickle(str(9000 + i), tensor) + b"e"
        for i, (name, tensor) in enumerate(tensors.items())
    )
    content = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    content += pickle.dumps({"little_endian": True, "protocol_version": 1001, "type_sizes": {}}, 2)
    content += b"\x80\x02ccollections\nOrderedDict\n](" + pairs + b"e\x85R."
    keys = b"".join(python2_string(str(9000 + i)) for i in range(len(tensors)))
    content += b"\x80\x02](" + keys + b"e."
    for tensor in tensors.values():
        content += struct.pack("<q", tensor.numel()) + tensor.numpy().tobytes()
    path.write_bytes(content)


@pytest.mark.parametrize("as_parameters", [False, True])
def test_python2_legacy(tmp_path, as_parameters):
    tensors = {"0.weight": torch.randn(3, 4), "0.bias": torch.randn(3), "last": torch.randn(2, 1)}
    path = tmp_path / "old.pth"
    python2_legacy_file(path, tensors, as_parameters)
    loaded = torch.load(path, weights_only=False)
    assert list(loaded) == list(tensors)
    listing = check_file(path, loaded)
    assert listing["by_name"]["last"]["parameter"] == as_parameters


class TarPickler(pickle.Pickler):
    """Tensors become ids; what they are goes to the archive's other members."""

    def __init__(self, file):
        super().__init__(file, 2)
        self.tensors, self.storages, self.classes = {}, {}, set()

    def persistent_id(self, value):
        if isinstance(value, type) and issubclass(value, nn.Module):
            if value in self.classes:
                return None
            self.classes.add(value)
            return (value, "file.py", "class ...")
        if not isinstance(value, torch.Tensor):
            return None
        storage = value.untyped_storage()
        self.tensors[id(value)] = (value, storage._cdata)
        self.storages[storage._cdata] = value
        return str(id(value))


def tar_file(path, value, add_view=False):
    body = io.BytesIO()
    pickler = TarPickler(body)
    pickler.dump(value)
    storages = io.BytesIO()
    pickle.dump(len(pickler.storages), storages, 2)
    for key, tensor in pickler.storages.items():
        typed = tensor.storage()
        pickle.dump((key, "cpu", getattr(torch, typed._pickle_storage_type())), storages, 2)
        storages.write(struct.pack("<q", typed._size()))
        storages.write(bytes(tensor.untyped_storage()))
    views = [(key + 1, key, 1, 2) for key in pickler.storages] if add_view else []
    pickle.dump(views, storages, 2)
    tensors = io.BytesIO()
    pickle.dump(len(pickler.tensors), tensors, 2)
    for key, (tensor, storage) in pickler.tensors.items():
        if add_view:
            storage, tensor = storage + 1, tensor.flatten()[1:3]
        pickle.dump((key, storage, torch.FloatTensor), tensors, 2)
        rank = tensor.dim()
        tensors.write(struct.pack("<i4x", rank))
        tensors.write(struct.pack(f"<{rank}q{rank}q", *tensor.shape, *tensor.stride()))
        tensors.write(struct.pack("<q", 0 if add_view else tensor.storage_offset()))
    sys_info = pickle.dumps({"protocol_version": 1000, "little_endian": True}, 2)
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as tar:
        for name, data in [
            ("sys_info", sys_info), ("pickle", body.getvalue()), ("tensors", tensors.getvalue()),
            ("storages", storages.getvalue()),
        ]:  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1480000000.25  # needs an extended header
            tar.addfile(info, io.BytesIO(data))


def test_tar(tmp_path):
    base = torch.randn(4, 3)
    state = collections.OrderedDict(
        weight=base,
        transposed=base.t(),
        row=base[2],
        long=torch.arange(5),
        half=torch.randn(3).half(),
        double=torch.randn(2, 2).double(),
    )
    path = tmp_path / "old.pth"
    tar_file(path, state)
    listing = check_file(path, torch.load(path, weights_only=False))
    assert_same(listing, state)
    assert listing["format"] == "torch.save tar" and listing["producer"] == "PyTorch 0.1"
    by_name = listing["by_name"]
    assert by_name["weight"]["storage"] == by_name["row"]["storage"]
    tar_file(path, {"epoch": 4, "state_dict": state})
    listing = check_file(path, state)
    assert listing["metadata"] == {"epoch": "4"}


def test_tar_of_python2(tmp_path, monkeypatch):
    # Ids of more than 32 bits are decimal text there. Ids are addresses, which may also be smaller,
    # so all of that size are written so.
    state = {"w": torch.randn(3, 2)}
    path = tmp_path / "old.pth"
    def save_long(pickler, value):
        if value < 2**16:
            return pickle._Pickler.save_long(pickler, value)
        pickler.write(b"I%d\n" % value)

    class Python2Pickler(pickle._Pickler):
        dispatch = pickle._Pickler.dispatch | {int: save_long}

    def dump(value, file, protocol):
        Python2Pickler(file, protocol).dump(value)

    monkeypatch.setattr(pickle, "dump", dump)
    tar_file(path, state)
    monkeypatch.undo()
    assert b"I%d\n" % state["w"].untyped_storage()._cdata in path.read_bytes()
    check_file(path, torch.load(path, weights_only=False))


def test_tar_views(tmp_path):
    path = tmp_path / "old.pth"
    tar_file(path, {"a": torch.randn(5), "b": torch.randn(4).double()}, add_view=True)
    check_file(path, torch.load(path, weights_only=False))


def test_tar_whole_model(tmp_path):
    net = nn.Sequential(collections.OrderedDict(first=nn.Linear(3, 2), second=nn.Linear(2, 1)))
    for module in net:  # Parameters were pickled as calls of their class
        for name, parameter in list(module._parameters.items()):
            module._parameters[name] = parameter.data
    path = tmp_path / "old.pth"
    tar_file(path, net)
    listing = check_file(path, torch.load(path, weights_only=False).state_dict())
    assert listing["modules"]["first"]["class"] == "torch.nn.modules.linear.Linear"


# ---- Whole models.


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, (3, 1), padding=(1, 0), bias=False)
        self.norm = nn.BatchNorm2d(4)


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.blocks.append(self.blocks[0])  # shared: listed under both names
        self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.head[2].weight = self.head[0].weight  # tied
        self.register_buffer("mean", torch.randn(3))
        self.register_buffer("cache", torch.randn(3), persistent=False)
        self.register_buffer("nothing", None)
        self.scale = nn.Parameter(torch.randn(2))
        self.parameter_list = nn.ParameterList([torch.randn(2), torch.randn(1)])
        self.parameter_dict = nn.ParameterDict({"a": nn.Parameter(torch.randn(1))})
        self.plain = torch.randn(5)
        self.anchors = [[10, 13], [16, 30]]
        self.missing = None
        self.register_module("absent", None)


def check_whole(path, model, **expected):
    listing = check_file(path, model.state_dict())
    tied = [listing["by_name"][name]["storage"] for name in listing["by_name"] if "head." in name]
    assert tied[0] == tied[2]
    parameters = {name for name, tensor in listing["by_name"].items() if tensor["parameter"]}
    assert parameters == {name for name, _ in model.named_parameters(remove_duplicate=False)}
    paths = [name for name, _ in model.named_modules(remove_duplicate=False)]
    assert list(listing["modules"]) == paths
    for key, value in expected.items():
        assert listing[key] == value
    return listing


@BOTH
def test_whole_model(tmp_path, options):
    model = Whole()
    listing = check_whole(save(tmp_path, model, **options), model, wrapper="")
    assert listing["modules"][""]["class"] == f"{__name__}.Whole"
    assert listing["modules"][""]["attributes"]["anchors"] == "[[10, 13], [16, 30]]"
    assert listing["modules"][""]["attributes"]["plain"] == "float32 tensor of shape [5]"
    conv = listing["modules"]["blocks.1.conv"]
    assert conv["class"] == "torch.nn.modules.conv.Conv2d"
    assert conv["attributes"]["kernel_size"] == "(3, 1)"
    assert conv["attributes"]["padding"] == "(1, 0)"
    assert "training" not in conv["attributes"]


@BOTH
@pytest.mark.parametrize("wrapper", ["model", "ema", "net", "anything"])
def test_whole_model_in_a_dict(tmp_path, options, wrapper):
    model = Whole().half()
    checkpoint = {"epoch": 7, wrapper: model, "updates": 5}
    listing = check_whole(save(tmp_path, checkpoint, **options), model, wrapper=wrapper)
    assert listing["metadata"]["epoch"] == "7"


def test_of_two_whole_models_the_weights_come_before_their_averages(tmp_path):
    model, average = Whole(), Whole()
    path = save(tmp_path, {"ema": average, "model": model})
    listing = check_whole(path, model, wrapper="model")
    assert listing["metadata"]["ema"] == f"model of {__name__}.Whole"


@BOTH
def test_whole_model_in_data_parallel(tmp_path, options):
    model = nn.DataParallel(Whole())
    listing = check_whole(save(tmp_path, model, **options), model)
    assert listing["modules"][""]["class"] == "torch.nn.parallel.data_parallel.DataParallel"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_whole_model_in_other_protocols(tmp_path, protocol):
    model = Whole()
    check_whole(save(tmp_path, model, pickle_protocol=protocol), model)


def test_whole_torchvision_models(tmp_path):
    import torchvision

    for options in ({}, LEGACY):
        model = torchvision.models.resnet18()
        listing = check_file(save(tmp_path, model, **options), model.state_dict())
        assert listing["modules"][""]["class"] == "torchvision.models.resnet.ResNet"


def test_traced_network(tmp_path):
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 2), nn.ReLU()))
    listing = check_file(save(tmp_path, model), model.state_dict())
    assert listing["modules"][""]["class"] == "torch.fx.graph_module.GraphModule"


# ---- TorchScript.


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.BatchNorm1d(2)])
        self.tied = nn.Linear(2, 2)
        self.tied.weight = self.layers[0].weight
        self.register_buffer("mean", torch.randn(2))
        self.factor: float = 0.5
        self.sizes = [1, 2, 3]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.tied(x) * self.mean + self.factor * self.sizes[0]


def check_script(path):
    state = torch.jit.load(path).state_dict()
    listing = dump(path)
    assert set(listing["by_name"]) == set(state)
    assert_same(listing, {tensor["name"]: state[tensor["name"]] for tensor in listing["tensors"]})
    assert listing["format"] == listing["producer"] == "TorchScript"
    return listing


def test_torchscript(tmp_path):
    path = tmp_path / "script.pt"
    torch.jit.script(Scripted()).save(path)
    listing = check_script(path)
    by_name = listing["by_name"]
    assert by_name["layers.0.weight"]["storage"] == by_name["tied.weight"]["storage"]
    assert listing["modules"]["layers.1"]["class"] == "torch.nn.modules.batchnorm.BatchNorm1d"
    assert listing["modules"][""]["attributes"]["factor"] == "0.5"
    assert listing["modules"][""]["attributes"]["sizes"] == "[1, 2, 3]"


def test_torchscript_of_a_trace(tmp_path):
    path = tmp_path / "trace.pt"
    torch.jit.trace(Scripted().eval(), torch.randn(3, 2)).save(path)
    check_script(path)
    import torchvision

    torch.jit.trace(torchvision.models.resnet18().eval(), torch.zeros(1, 3, 32, 32)).save(path)
    check_script(path)


class Buffers(nn.Module):
    def __init__(self, tensors):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, x):
        return x


def test_torchscript_dtypes(tmp_path):
    tensors = {f"t_{str(dtype)[6:]}": random_of(dtype, 3, 4) for dtype in ALL_DTYPES}
    tensors["quantised"] = torch.quantize_per_tensor(torch.randn(3), 0.5, 1, torch.qint8)
    tensors["channels"] = torch.quantize_per_channel(
        torch.randn(3, 2), torch.rand(3) + 0.1, torch.zeros(3), 0, torch.quint8
    )
    tensors["transposed"] = torch.randn(3, 4).t()
    path = tmp_path / "dtypes.pt"
    torch.jit.script(Buffers(tensors)).save(path)
    listing = dump(path)
    assert set(listing["by_name"]) == set(tensors)
    assert_same(listing, {name: tensors[name] for name in listing["by_name"]})


def test_torchscript_frozen(tmp_path):
    path = tmp_path / "frozen.pt"
    model = Scripted().eval()
    torch.jit.freeze(torch.jit.script(model)).save(path)
    listing = dump(path)
    assert all(name.startswith("CONSTANTS.c") for name in listing["by_name"])
    weights = {tensor["bytes"] for tensor in listing["tensors"]}
    assert model.layers[0].weight.detach().numpy().tobytes() in weights
    assert model.mean.numpy().tobytes() in weights


# ---- Sparse.


def sparse_tensors():
    dense = torch.randn(6, 8)
    dense[torch.rand(6, 8) < 0.6] = 0
    dense[0, 0] = 1
    repeated = torch.tensor([[0, 1, 0, 2, 0], [1, 0, 1, 3, 1]])
    hybrid = torch.sparse_coo_tensor(repeated[:, 1:4], torch.randn(3, 2, 2), (3, 4, 2, 2))
    return {
        "coo": dense.to_sparse(),
        "uncoalesced": torch.sparse_coo_tensor(repeated, torch.randn(5), (3, 4)),
        "hybrid": hybrid,
        "double": dense.double().to_sparse(),
        "half": torch.sparse_coo_tensor(repeated, torch.randn(5).half(), (3, 4)),
        "bfloat16": torch.sparse_coo_tensor(repeated, torch.randn(5).bfloat16(), (3, 4)),
        "int": torch.sparse_coo_tensor(repeated, torch.arange(5), (3, 4)),
        "bytes": torch.sparse_coo_tensor(
            repeated, torch.tensor([200, 1, 100, 3, 250], dtype=torch.uint8), (3, 4)
        ),
        "bool": torch.sparse_coo_tensor(repeated, torch.ones(5, dtype=torch.bool), (3, 4)),
        "complex": torch.sparse_coo_tensor(
            repeated, torch.randn(5, dtype=torch.complex64), (3, 4)
        ),
        "minus_zero": torch.sparse_coo_tensor([[0, 2]], torch.tensor([-0.0, -1.0]), (3,)),
        "nothing": torch.sparse_coo_tensor(torch.zeros(2, 0, dtype=torch.int64), [], (3, 4)),
        "csr": dense.to_sparse_csr(),
        "csc": dense.to_sparse_csc(),
        "bsr": dense.to_sparse_bsr((2, 4)),
        "bsc": dense.to_sparse_bsc((3, 2)),
        "csr_int32": torch.sparse_csr_tensor(
            torch.tensor([0, 2, 3], dtype=torch.int32),
            torch.tensor([0, 2, 1], dtype=torch.int32),
            torch.randn(3),
            (2, 3),
        ),
        "csr_batch": torch.sparse_csr_tensor(
            torch.tensor([[0, 1, 2], [0, 0, 2]]),
            torch.tensor([[0, 1], [0, 1]]),
            torch.randn(2, 2),
            (2, 2, 2),
        ),
        "csr_hybrid": torch.sparse_csr_tensor(
            torch.tensor([0, 1, 2]), torch.tensor([0, 1]), torch.randn(2, 3), (2, 2, 3)
        ),
        # With as many blocks in each of the batch.
        "bsr_batch": torch.stack([dense[:, :4], 2 * dense[:, :4]]).to_sparse_bsr((3, 2)),
        "plain": dense,
    }


@BOTH
def test_sparse(tmp_path, options):
    state = sparse_tensors()
    path = save(tmp_path, state, **options)
    check_dense(path, {name: tensor.to_dense() for name, tensor in state.items()})
    listing = dump(path)
    for name, tensor in state.items():
        got = listing["by_name"][name]
        assert got["shape"] == list(tensor.shape)
        if name == "plain":
            assert "sparse" not in got
            continue
        parts = got["sparse"]
        assert got["storage"] == -1
        coo = tensor.layout == torch.sparse_coo
        values = tensor._values() if coo else tensor.values()
        assert parts["values"]["shape"] == list(values.shape)
        assert parts["coalesced"] == (coo and tensor.is_coalesced())


def test_sparse_above_the_cap_is_refused(tmp_path):
    huge = torch.sparse_coo_tensor([[0], [0]], [1.0], (1 << 20, 1 << 20))
    path = save(tmp_path, {"w.huge": huge})
    assert dump(path)["by_name"]["w.huge"]["shape"] == [1 << 20, 1 << 20]
    run = subprocess.run([TOOL, path, "--dense", "1000000"], capture_output=True, text=True)
    assert run.returncode == 1
    assert "tensor 'w.huge'" in run.stderr and "at most 1000000 bytes" in run.stderr


def test_meta_tensors_are_entries_without_data(tmp_path):
    state = {"w": torch.randn(2), "meta": torch.empty(3, device="meta")}
    state["parameter"] = nn.Parameter(torch.empty(3, device="meta"))
    listing = dump(save(tmp_path, state))
    assert list(listing["by_name"]) == ["w"]
    assert set(listing["non_tensors"]) == {"meta", "parameter"}
    assert "meta device" in listing["non_tensors"]["parameter"]
    assert "meta device" in refusal(save(tmp_path, {"w.meta": torch.empty(3, device="meta")}))


# ---- Dequantised.


def quantised_tensors():
    torch.manual_seed(5)
    real = torch.randn(4, 6, 3) * 10
    scales, zeros = torch.rand(6).double() * 0.3 + 1e-3, torch.arange(6)
    state = {}
    for dtype in (torch.qint8, torch.quint8, torch.qint32):
        state[f"{dtype} tensor"] = torch.quantize_per_tensor(real, 0.0371, 7, dtype)
        state[f"{dtype} channel"] = torch.quantize_per_channel(real, scales, zeros, 1, dtype)
    state["transposed"] = torch.quantize_per_tensor(real[0], 0.1, 3, torch.qint8).t()
    state["sliced"] = torch.quantize_per_tensor(real[0], 0.1, 3, torch.qint8)[:, ::2]
    state["saturated"] = torch.quantize_per_tensor(torch.full((100,), 3e9), 0.1, -5, torch.qint32)
    state["empty"] = torch.quantize_per_tensor(torch.zeros(0, 3), 0.1, 0, torch.qint8)
    state["channels_last"] = torch.quantize_per_channel(
        torch.randn(2, 6, 4, 4).to(memory_format=torch.channels_last), scales, zeros, 1, torch.qint8
    )
    float_zeros = torch.rand(4) * 3
    for shape in ((4, 5), (4, 7), (4, 1), (4, 8), (4, 3, 5), (4, 2)):
        for dtype in (torch.quint8, torch.quint4x2, torch.quint2x4):
            state[f"{dtype} {shape}"] = torch.quantize_per_channel(
                torch.randn(shape), torch.rand(4) + 0.1, float_zeros, 0, dtype
            )
    state["quint4x2 tensor"] = torch.quantize_per_tensor(torch.randn(3, 5), 0.3, 2, torch.quint4x2)
    return state


@BOTH
def test_dequantised(tmp_path, options):
    state = quantised_tensors()
    path = save(tmp_path, state, **options)
    check_dense(path, {name: tensor.dequantize() for name, tensor in state.items()})


# ---- What lies beside the weights.


@BOTH
def test_training_state(tmp_path, options):
    net = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.125, momentum=0.5)
    net(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    checkpoint = {
        "pytorch-lightning_version": "2.1.0",
        "epoch": 12,
        "global_step": np.int64(-3400),
        "loss": np.float32(0.1),
        "half": np.float16(-1.5),
        "flag": np.bool_(True),
        "history": np.array([1.5, 2.5]),
        "big": np.arange(12, dtype=">i4").reshape(3, 4),
        "few": np.array([[1, 2]], dtype=">i2"),
        "state_dict": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_schedulers": [scheduler.state_dict()],
        "args": argparse.Namespace(lr=0.1, name="run\n1", dims=(3, 4)),
        "rng": torch.get_rng_state(),
        "tags": {"a", },
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "weird": foreign_objects(),
    }
    listing = check_file(save(tmp_path, checkpoint, **options), net.state_dict())
    metadata = listing["metadata"]
    expected = {
        "epoch": "12",
        "global_step": "-3400",
        "loss": "0.1",
        "half": "-1.5",
        "flag": "True",
        "history": "float64 array of shape [2]: 1.5, 2.5",
        "big": "int32 array of shape [3, 4]",
        "few": "int16 array of shape [1, 2]: 1, 2",
        "optimizer.param_groups[0].lr": "0.125",
        "optimizer.state[0].momentum_buffer": "float32 tensor of shape [3, 4]",
        "lr_schedulers[0].step_size": "3",
        "args": "object of argparse.Namespace",
        "args.lr": "0.1",
        "args.name": "run\\n1",
        "args.dims": "(3, 4)",
        "rng": f"uint8 tensor of shape [{torch.get_rng_state().numel()}]",
        "callbacks['ModelCheckpoint{'monitor': None}'].best_model_score":
            "float32 tensor of shape []",
        "weird.device": "torch.device('cpu')",
        "weird.many": "list of 5000 items, the first 0",
    }  # fmt: skip
    assert {key: metadata.get(key) for key in expected} == expected
    assert listing["producer"].endswith("PyTorch Lightning 2.1.0")
    assert not any(key.startswith("state_dict.") for key in metadata)


# ---- Byte order.


def as_big_endian(path, target, swaps):
    """The archive as a big-endian machine writes it; `swaps`: bytes per number of each storage."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as out:
        for name in source.namelist():
            data = source.read(name)
            key = name.split("/data/")[-1]
            if name.endswith("/byteorder"):
                data = b"big"
            elif "/data/" in name and key in swaps:
                size = swaps[key]
                count = len(data) // size
                data = np.frombuffer(data, f"V{size}", count).tobytes()
                data = b"".join(data[i : i + size][::-1] for i in range(0, len(data), size))
            out.writestr(name, data)


def test_big_endian(tmp_path):
    state = {
        "float": torch.randn(5, 3),
        "transposed": torch.randn(4, 3).t(),
        "double": torch.randn(4).double(),
        "half": torch.randn(7).half(),
        "bytes": torch.arange(9, dtype=torch.uint8),
        "complex": torch.randn(3, dtype=torch.complex64).conj(),
        "int": torch.arange(4),
    }
    path = save(tmp_path, state)
    big = tmp_path / "big.pth"
    as_big_endian(path, big, {"0": 4, "1": 4, "2": 8, "3": 2, "4": 1, "5": 4, "6": 8})
    loaded = torch.load(big)
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    check_file(big, state)
