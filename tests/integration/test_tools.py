"""`sconce inspect|check|diff|convert|merge` on files that Python's torch writes, compared with what
Python's torch says of them."""

import fcntl
import hashlib
import json
import math
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import zipfile

import pytest
import torch
from checkpoints import linear, mlp, resnet18, save
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from serving import BINARY, run_sconce, wait_until
from torch import nn


def sconce(*arguments, status=0):
    """Runs a command that must end with `status`."""
    done = run_sconce(*arguments, patience=120)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done


def inspect(path, *flags):
    return json.loads(sconce("inspect", path, "--json", *flags).stdout)


def by_name(document):
    return {tensor["name"]: tensor for tensor in document["tensors"]}


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(
        a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8))


def assert_same_tensors(written, expected):
    assert written.keys() == expected.keys()
    for name, tensor in expected.items():
        assert same_bits(written[name], tensor), name


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.endswith(".part")]


def write_sparse_file(path, megabytes):
    """A .safetensors file of one float32 tensor of zeros that takes no room on the disk."""
    elements = megabytes << 18
    header = json.dumps({"weight": {
        "dtype": "F32", "shape": [elements], "data_offsets": [0, elements * 4]}}).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + elements * 4)
    return path


def run_in_terminal(*arguments, columns=100, env=None):
    """(exit status, what a terminal of that width is sent)."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", **(env or {})}
    if not env:
        environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [str(BINARY), *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=terminal,
        stderr=terminal, env=environment)
    os.close(terminal)
    seen = b""
    while select.select([controller], [], [], 60)[0]:
        try:
            piece = os.read(controller, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(controller)
    return process.wait(60), seen.decode()


# inspect -----------------------------------------------------------------------------------------


def test_inspect_says_what_a_checkpoint_is(tmp_path):
    net = resnet18()
    state = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    path = tmp_path / "train.ckpt"
    torch.save({"epoch": 12, "state_dict": state}, path)
    document = inspect(path)
    assert document["format"] == "torch.save zip"
    assert "PyTorch" in document["producer"]
    assert document["size_bytes"] == path.stat().st_size
    assert document["files"] == [{"path": str(path), "size_bytes": path.stat().st_size}]
    assert document["parameters"] == sum(p.numel() for p in net.parameters())
    assert document["wrapper"] == "state_dict"
    assert document["prefix"] == "module."
    assert document["architecture"] == "resnet18(num_classes=10)"
    assert {"name": "epoch", "value": "12"} in document["metadata"]
    assert [tensor["name"] for tensor in document["tensors"]] == list(state)
    total = sum(tensor.nbytes for tensor in state.values())
    assert document["tensor_bytes"] == total
    for name, tensor in by_name(document).items():
        expected = state[name]
        assert tensor["dtype"] == str(expected.dtype).removeprefix("torch.")
        assert tensor["shape"] == list(expected.shape)
        assert tensor["size_bytes"] == expected.nbytes
        assert tensor["share"] == pytest.approx(expected.nbytes / total)
        assert tensor["tied_to"] is None and tensor["kind"] == "dense"
        assert "stats" not in tensor

    text = sconce("inspect", path).stdout
    for words in ("torch.save zip", "11,181,642", "'state_dict'", "'module.'", "epoch = 12",
                  "resnet18(num_classes=10)", "[64, 3, 7, 7]", "36.8 KiB"):
        assert words in text
    assert "\x1b" not in text


def test_inspect_says_what_unknown_weights_come_nearest_to(tmp_path):
    state = resnet18().state_dict()
    del state["fc.bias"]
    state["extra"] = torch.ones(2)
    document = inspect(save(state, tmp_path / "model.pth"))
    assert document["architecture"] is None
    assert 'not in the file: "fc.bias"' in document["why"]
    assert 'not in the network: "extra"' in document["why"]
    assert "nothing" in sconce("inspect", tmp_path / "model.pth").stdout


def test_inspect_marks_tied_quantized_and_sparse_tensors(tmp_path):
    weight = torch.randn(4, 3)
    per_channel = torch.quantize_per_channel(
        torch.randn(4, 3), torch.rand(4), torch.zeros(4, dtype=torch.long), 0, torch.qint8)
    torch.save({
        "embed.weight": weight, "head.weight": weight,
        "tensor": torch.quantize_per_tensor(torch.randn(4, 3), 0.5, 3, torch.quint8),
        "channel": per_channel, "coo": torch.eye(4).to_sparse(), "csr": torch.eye(4).to_sparse_csr(),
    }, tmp_path / "model.pth")
    document = inspect(tmp_path / "model.pth")
    tensors = by_name(document)
    assert tensors["head.weight"]["tied_to"] == "embed.weight"
    assert tensors["embed.weight"]["tied_to"] is None
    assert {name: tensor["kind"] for name, tensor in tensors.items()} == {
        "embed.weight": "dense", "head.weight": "dense", "tensor": "quantized",
        "channel": "quantized", "coo": "sparse", "csr": "sparse"}
    # Tied weights count once.
    assert document["tensor_bytes"] == sum(
        tensor["size_bytes"] for tensor in tensors.values()) - weight.nbytes
    text = sconce("inspect", tmp_path / "model.pth").stdout
    assert re.search(r"tied +same memory as embed\.weight", text)
    assert "quantized, scale 0.5, zero point 3" in text
    assert "quantized per channel, axis 0" in text
    assert "sparse COO, 4 values" in text and "sparse CSR, 4 values" in text


def test_inspect_names_the_classes_of_a_whole_model(tmp_path):
    torch.save(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), tmp_path / "model.pth")
    modules = {m["path"]: m for m in inspect(tmp_path / "model.pth")["modules"]}
    assert modules["0"]["class"] == "torch.nn.modules.linear.Linear"
    assert {"name": "in_features", "value": "3"} in modules["0"]["attributes"]
    assert "torch.nn.modules.linear.Linear" in sconce("inspect", tmp_path / "model.pth").stdout


STATS_DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8",
                "uint8", "bool", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2",
                "float8_e4m3fnuz", "float8_e5m2fnuz"]


def test_inspect_stats_are_those_of_torch(tmp_path):
    torch.manual_seed(0)
    values = torch.randn(700, 1000) * 50
    state = {dtype: values.abs().to(getattr(torch, dtype)) if "u" in dtype[:1]
             else values.to(getattr(torch, dtype)) for dtype in STATS_DTYPES}
    state["transposed"] = values.t()
    state["complex64"] = torch.complex(values, values.flip(0))
    state["scalar"] = torch.tensor(2.5)
    state["empty"] = torch.zeros(0, 3)
    state["far"] = 1e6 + torch.randn(300_000, dtype=torch.float64)
    torch.save(state, tmp_path / "model.pth")
    for name, tensor in by_name(inspect(tmp_path / "model.pth", "--stats")).items():
        stats = tensor["stats"]
        expected = state[name]
        expected = expected.abs() if expected.is_complex() else expected
        expected = expected.double()
        assert (stats["nan"], stats["inf"]) == (0, 0), name
        assert stats["zeros"] == int((expected == 0).sum()), name
        if name == "empty":
            assert [stats[key] for key in ("min", "max", "mean", "std")] == [None] * 4
            continue
        assert stats["min"] == pytest.approx(expected.min().item(), rel=1e-6), name
        assert stats["max"] == pytest.approx(expected.max().item(), rel=1e-6), name
        assert stats["mean"] == pytest.approx(expected.mean().item(), rel=1e-9, abs=1e-9), name
        if name == "scalar":
            assert stats["std"] is None
        else:
            assert stats["std"] == pytest.approx(expected.std().item(), rel=1e-9), name


def test_inspect_stats_count_what_is_no_number_and_leave_it_out(tmp_path):
    values = torch.tensor([1.0, math.nan, 3.0, math.inf, -math.inf, math.nan, 0.0])
    torch.save({"w": values, "nothing": torch.tensor([math.nan])}, tmp_path / "model.pth")
    tensors = by_name(inspect(tmp_path / "model.pth", "--stats"))
    finite = torch.tensor([1.0, 3.0, 0.0]).double()
    assert tensors["w"]["stats"] == {
        "min": 0.0, "max": 3.0, "mean": pytest.approx(finite.mean().item()),
        "std": pytest.approx(finite.std().item()), "zeros": 1, "nan": 2, "inf": 2}
    assert tensors["nothing"]["stats"]["mean"] is None
    assert re.search(r"NaN +Inf", sconce("inspect", tmp_path / "model.pth", "--stats").stdout)


def test_inspect_never_prints_a_name_raw(tmp_path):
    torch.save({"a\x1b[31mb\u202ec": torch.ones(1)}, tmp_path / "model.pth")
    for flags in ([], ["--json"]):
        text = sconce("inspect", tmp_path / "model.pth", *flags).stdout
        assert "\x1b" not in text and "\u202e" not in text
    assert "a\\x1b[31mb\\u{202e}c" in sconce("inspect", tmp_path / "model.pth").stdout


def test_inspect_refuses_what_is_no_checkpoint(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for path in (tmp_path / "notes.txt", tmp_path / "none.pth"):
        done = sconce("inspect", path, status=2)
        assert done.stderr.startswith("sconce inspect: ") and str(path) in done.stderr
        assert done.stdout == ""


def test_colour_and_progress_are_for_terminals(tmp_path):
    save(resnet18(), tmp_path / "model.pth")
    status, seen = run_in_terminal("inspect", tmp_path / "model.pth")
    assert status == 0 and "\x1b[1m" in seen
    rows = [line for line in re.sub(r"\x1b\[\d*[mK]", "", seen).splitlines()]
    assert max(map(len, rows)) <= 100
    status, seen = run_in_terminal("inspect", tmp_path / "model.pth", env={"NO_COLOR": "1"})
    assert status == 0 and "\x1b" not in seen
    big = write_sparse_file(tmp_path / "big.safetensors", 1024)
    status, seen = run_in_terminal("inspect", big, "--stats")
    assert status == 0 and "reading [" in seen
    # The bar is gone before the answer comes.
    assert seen.rindex("reading [") < seen.rindex("\r\x1b[K") < seen.index("format")


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    torch.save({f"t{i}": torch.zeros(1) for i in range(20_000)}, tmp_path / "model.pth")
    done = subprocess.run(
        f"'{BINARY}' inspect '{tmp_path}/model.pth' | head -n 1; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[1:] == ["0"]
    assert done.stderr == ""


def test_output_that_cannot_be_written_is_said(tmp_path):
    save(linear(), tmp_path / "model.pth")
    with open("/dev/full", "w") as full:
        done = subprocess.run([str(BINARY), "inspect", str(tmp_path / "model.pth")], stdout=full,
                              stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2 and "No space left on device" in done.stderr


# check -------------------------------------------------------------------------------------------


def test_check_says_yes(tmp_path):
    done = sconce("check", save(resnet18(), tmp_path / "model.pth"))
    assert "would load as resnet18(num_classes=10)" in done.stdout


def test_check_speaks_as_torch_does(tmp_path):
    net, state = resnet18(), resnet18().state_dict()
    del state["fc.bias"], state["layer1.0.bn1.weight"]
    state["extra"] = torch.ones(2)
    state["layer4.1.conv2.weight"] = torch.ones(3, 4)
    save(state, tmp_path / "model.pth")
    with pytest.raises(RuntimeError) as error:
        net.load_state_dict(state)
    for flags in (["--model", "resnet18(num_classes=10)"], []):
        done = sconce("check", tmp_path / "model.pth", *flags, status=1)
        for line in str(error.value).splitlines():
            assert line.strip() in done.stdout


def test_check_takes_the_architecture_it_is_told(tmp_path):
    path = save(mlp(), tmp_path / "model.pth")
    done = sconce("check", path, "--model", "mlp(activation=gelu)")
    assert 'activation="gelu"' in done.stdout
    shown = re.search(r"would load as (mlp\(.*?\)),", done.stdout)[1]
    sconce("check", path, "--model", shown)  # as it is printed
    for model in ("nope", "mlp(", "mlp(activation)", "mlp(activation=tanh, activation=relu)",
                  "mlp(nope=1)"):
        assert "--model" in sconce("check", path, "--model", model, status=2).stderr


def test_check_refuses_a_sparse_parameter(tmp_path):
    state = linear().state_dict()
    state["weight"] = state["weight"].to_sparse()
    torch.save(state, tmp_path / "model.pth")
    done = sconce("check", tmp_path / "model.pth", status=1)
    assert 'While copying the parameter named "weight"' in done.stdout


def test_check_warns_of_what_is_no_number(tmp_path):
    state = linear().state_dict()
    state["weight"][0, 0], state["bias"][1] = math.nan, math.inf
    done = sconce("check", save(state, tmp_path / "model.pth"))
    assert "warning: tensor 'weight': 1 NaN and 0 infinite among 12 values" in done.stdout
    assert "warning: tensor 'bias': 0 NaN and 1 infinite among 3 values" in done.stdout


def test_check_finds_damage_that_loading_does_not(tmp_path):
    path = save(resnet18(), tmp_path / "model.pth")
    with zipfile.ZipFile(path) as archive:
        record = archive.getinfo(next(n for n in archive.namelist() if n.endswith("/data/0")))
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x03\x04", record.header_offset) + 4096
    data[at] ^= 0x10
    path.write_bytes(data)
    done = sconce("check", path, status=1)
    assert "'conv1.weight': expected bytes with checksum" in done.stdout


def test_check_compares_the_manifest_beside_the_file(tmp_path):
    path = save(linear(), tmp_path / "model.safetensors")
    manifest = tmp_path / "model.safetensors.sha256"
    manifest.write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  model.safetensors\n")
    sconce("check", path)
    manifest.write_text(f"{'0' * 64}  model.safetensors\n")
    assert "SHA-256" in sconce("check", path, status=1).stdout


def test_check_says_no_to_what_cannot_be_read(tmp_path):
    path = save(linear(), tmp_path / "model.pth")
    path.write_bytes(path.read_bytes()[:-30])
    done = sconce("check", path, status=1)
    assert "would not load" in done.stdout and "error:" in done.stdout
    assert "usage" not in done.stderr.lower()


# diff --------------------------------------------------------------------------------------------


def test_diff_says_that_weights_are_the_same_whatever_the_container(tmp_path):
    net = resnet18()
    save(net, tmp_path / "a.pth")
    save({f"module.{k}": v for k, v in net.state_dict().items()}, tmp_path / "b.safetensors")
    assert sconce("diff", tmp_path / "a.pth", tmp_path / "b.safetensors").stdout.startswith(
        "identical: 122 tensors")


def test_diff_measures_what_changed(tmp_path):
    torch.manual_seed(0)
    old = {"same": torch.randn(300_000), "moved": torch.randn(500, 700), "gone": torch.ones(3),
           "shape": torch.ones(4), "type": torch.randn(1000), "zero": torch.zeros(3),
           "c": torch.randn(5, dtype=torch.complex64), "counter": torch.tensor(3)}
    new = {**old, "moved": old["moved"] + 0.1 * torch.randn(500, 700), "new": torch.ones(7),
           "shape": torch.ones(2, 2), "type": old["type"].bfloat16(), "zero": torch.ones(3),
           "c": old["c"] * 2, "counter": torch.tensor(4)}
    del new["gone"]
    save(old, tmp_path / "old.pth")
    save(new, tmp_path / "new.safetensors")
    done = sconce("diff", tmp_path / "old.pth", tmp_path / "new.safetensors", "--json", status=1)
    document = json.loads(done.stdout)
    changes = {d["name"]: d for d in document["differences"]}
    assert {name: d["change"] for name, d in changes.items()} == {
        "moved": "changed", "gone": "removed", "shape": "reshaped", "type": "dtype changed",
        "new": "added", "zero": "changed", "c": "changed", "counter": "changed"}

    def relative(a, b):
        kind = torch.complex128 if a.is_complex() else torch.float64
        return ((b.to(kind) - a.to(kind)).norm() / a.to(kind).norm()).item()

    for name in ("moved", "type", "c", "counter"):
        assert changes[name]["relative_l2"] == pytest.approx(relative(old[name], new[name]))
    assert changes["zero"]["relative_l2"] is None  # infinitely much
    assert changes["shape"]["old"] == {"dtype": "float32", "shape": [4]}
    moved = sum(new[name].nbytes for name in changes if name in new)
    assert document["transfer_bytes"] == moved
    assert document["transfer_share"] == pytest.approx(
        moved / sum(tensor.nbytes for tensor in new.values()))
    assert document["same_tensors"] == 1 and document["identical"] is False
    text = sconce("diff", tmp_path / "old.pth", tmp_path / "new.safetensors", status=1).stdout
    for words in ("removed ", "added ", "[4] -> [2, 2]", "float32 -> bfloat16", "from zero",
                  "a hot swap transfers"):
        assert words in text


def test_diff_compares_quantized_and_sparse_tensors(tmp_path):
    values = torch.randn(4, 4)
    def state(scale=0.1, edge=1.0):
        sparse = torch.eye(4)
        sparse[0, 0] = edge
        return {"q": torch.quantize_per_tensor(values, scale, 0, torch.qint8),
                "s": sparse.to_sparse()}
    torch.save(state(), tmp_path / "a.pth")
    torch.save(state(), tmp_path / "b.pth")
    sconce("diff", tmp_path / "a.pth", tmp_path / "b.pth")
    torch.save(state(scale=0.2), tmp_path / "b.pth")
    assert "changed       q" in sconce("diff", tmp_path / "a.pth", tmp_path / "b.pth",
                                       status=1).stdout
    torch.save(state(edge=2.0), tmp_path / "b.pth")
    assert "changed       s" in sconce("diff", tmp_path / "a.pth", tmp_path / "b.pth",
                                       status=1).stdout


def test_diff_of_what_cannot_be_read_is_neither_yes_nor_no(tmp_path):
    path = save(linear(), tmp_path / "a.pth")
    assert sconce("diff", path, tmp_path / "none.pth", status=2).stderr.startswith("sconce diff: ")


# convert -----------------------------------------------------------------------------------------


CONVERT_DTYPES = [
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16",
    "bfloat16", "float32", "float64", "complex64", "float8_e4m3fn", "float8_e5m2",
    "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]


def every_dtype():
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name in CONVERT_DTYPES:
        dtype = getattr(torch, name)
        raw = torch.randint(0, 2 if name == "bool" else 256, (6 * 5 * dtype.itemsize,),
                            dtype=torch.uint8, generator=generator)
        state[f"net.{name}"] = raw.view(dtype).reshape(6, 5)
    return state


def test_convert_keeps_every_bit(tmp_path):
    state = every_dtype()
    state["strided"] = torch.randn(40, 30).t()[::2]
    state["scalar"] = torch.tensor(1.5)
    state["empty"] = torch.zeros(2, 0)
    state["conj"] = torch.randn(4, dtype=torch.complex64).conj()
    state["tied"] = state["net.float32"]
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "in.ckpt")
    out = tmp_path / "out.safetensors"
    done = sconce("convert", tmp_path / "in.ckpt", out)
    assert done.stdout.startswith(f"wrote {out}: {len(state)} tensors")
    expected = {name: tensor.resolve_conj() for name, tensor in state.items()}
    assert_same_tensors(load_file(out), expected)
    with safe_open(out, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert leftovers(tmp_path) == []
    # Byte for byte the file that the format's own library writes.
    save_file({k: v.contiguous().clone() for k, v in expected.items()}, tmp_path / "python.safetensors",
              metadata={"format": "pt"})
    assert out.read_bytes() == (tmp_path / "python.safetensors").read_bytes()
    sconce("diff", tmp_path / "in.ckpt", out)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "float8_e4m3fn"])
def test_convert_casts_as_torch_does(tmp_path, dtype):
    torch.manual_seed(0)
    state = {"w": torch.randn(700, 300), "h": torch.randn(50).half(), "t": torch.randn(9, 5).t(),
             "counter": torch.tensor(7), "c": torch.randn(5, dtype=torch.complex128)}
    torch.save(state, tmp_path / "in.pth")
    sconce("convert", tmp_path / "in.pth", tmp_path / "out.safetensors", "--dtype", dtype)
    expected = {name: tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
                for name, tensor in state.items()}
    expected["c"] = state["c"].to(torch.complex64)
    assert_same_tensors(load_file(tmp_path / "out.safetensors"), expected)


def test_convert_changes_prefixes(tmp_path):
    save({"module.a": torch.ones(1), "module.b": torch.zeros(1)}, tmp_path / "in.pth")
    out = tmp_path / "out.safetensors"
    for prefix, names in (("module.=", {"a", "b"}), ("=x.", {"x.module.a", "x.module.b"}),
                          ("module.=model.", {"model.a", "model.b"})):
        sconce("convert", tmp_path / "in.pth", out, "--prefix", prefix)
        assert set(load_file(out)) == names
    for prefix, words in (("module.", "FROM=TO"), ("net.=", "begin with 'net.'")):
        done = sconce("convert", tmp_path / "in.pth", out, "--prefix", prefix, status=2)
        assert words in done.stderr
    save({"m.a": torch.ones(1), "a": torch.zeros(1)}, tmp_path / "in.pth")
    assert "'a'" in sconce("convert", tmp_path / "in.pth", out, "--prefix", "m.=", status=2).stderr


def test_convert_refuses_what_the_format_lacks_all_at_once(tmp_path):
    state = {"q": torch.quantize_per_tensor(torch.randn(4, 3), 0.5, 3, torch.quint8),
             "s": torch.eye(4).to_sparse(), "c": torch.randn(2, dtype=torch.complex128),
             "fine": torch.ones(2)}
    torch.save(state, tmp_path / "in.pth")
    out = tmp_path / "out.safetensors"
    stderr = sconce("convert", tmp_path / "in.pth", out, status=2).stderr
    for words in ("tensor 'q': is quantized", "tensor 's': is sparse", "--dense",
                  "tensor 'c': is complex128"):
        assert words in stderr
    assert "fine" not in stderr and not out.exists()

    stderr = sconce("convert", tmp_path / "in.pth", out, "--dense", "--dtype", "float32",
                    "--max-dense-bytes", 50, status=2).stderr
    assert "tensor 's': expected at most 50 bytes" in stderr and "'q'" not in stderr

    sconce("convert", tmp_path / "in.pth", out, "--dense", "--dtype", "float32")
    assert_same_tensors(load_file(out), {
        "q": state["q"].dequantize(), "s": state["s"].to_dense(),
        "c": state["c"].to(torch.complex64), "fine": state["fine"]})
    for dtype in ("int8", "nope", "complex64", "quint8"):
        assert "--dtype" in sconce(
            "convert", tmp_path / "in.pth", out, "--dtype", dtype, status=2).stderr


def test_convert_takes_the_output_for_no_input(tmp_path):
    path = save(linear(), tmp_path / "a.safetensors")
    before = path.read_bytes()
    os.link(path, tmp_path / "b.safetensors")
    for out in ("a.safetensors", "b.safetensors"):
        assert "another file" in sconce("convert", path, tmp_path / out, status=2).stderr
    assert "ends in .safetensors" in sconce("convert", path, tmp_path / "c.pth", status=2).stderr
    assert "No such file" in sconce(
        "convert", path, tmp_path / "none" / "c.safetensors", status=2).stderr
    assert path.read_bytes() == before


def test_convert_reads_a_folder(tmp_path):
    folder = tmp_path / "sharded"
    folder.mkdir()
    state = resnet18().state_dict()
    weight_map = {}
    for number, names in enumerate((list(state)[:60], list(state)[60:]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: state[name] for name in names}, folder / file)
        weight_map |= {name: file for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    sconce("convert", folder, tmp_path / "out.safetensors")
    assert_same_tensors(load_file(tmp_path / "out.safetensors"), dict(state))
    assert inspect(folder)["architecture"] == "resnet18(num_classes=10)"
    assert len(inspect(folder)["files"]) == 3
    sconce("check", folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_convert_leaves_nothing(tmp_path, number):
    big = write_sparse_file(tmp_path / "big.safetensors", 4096)
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"before")
    process = subprocess.Popen([str(BINARY), "convert", str(big), str(out), "--dtype", "float16"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: leftovers(tmp_path), "the conversion to begin")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "interrupted" in stderr
    assert out.read_bytes() == b"before" and leftovers(tmp_path) == []


def test_a_full_disk_is_said_before_the_work(tmp_path):
    big = write_sparse_file(tmp_path / "big.safetensors", 64)
    done = subprocess.run(
        f"ulimit -f 1000; exec '{BINARY}' convert '{big}' '{tmp_path}/out.safetensors'",
        shell=True, executable="/bin/bash", capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "cannot make room for" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.safetensors"]


# merge -------------------------------------------------------------------------------------------


def three_models():
    states = [resnet18(seed=seed).state_dict() for seed in range(3)]
    for state in states:
        state["half"] = state["fc.weight"].half()
    return states


def blended(states, weights, base=None):
    """The same arithmetic with Python's torch: float64, one input after the other."""
    total = sum(weights)
    result = {}
    for name, first in (base or states[0]).items():
        if not first.is_floating_point():
            result[name] = first
            continue
        terms = [state[name].double() for state in states]
        if base is None:
            value = terms[0] * (weights[0] / total)
            for term, weight in zip(terms[1:], weights[1:]):
                value.add_(term, alpha=weight / total)
        else:
            value = first.double() * 1.0
            for term, weight in zip(terms, weights):
                value.add_(term - first.double(), alpha=weight)
        result[name] = value.to(first.dtype)
    return result


def test_merge_averages(tmp_path):
    states = three_models()
    paths = [save(state, tmp_path / f"{i}.pth") for i, state in enumerate(states)]
    out = tmp_path / "out.safetensors"
    sconce("merge", *paths, "-o", out)
    assert_same_tensors(load_file(out), blended(states, [1, 1, 1]))
    sconce("merge", *paths, "-o", out, "--weights", "0.3,0.6,0.9")
    assert_same_tensors(load_file(out), blended(states, [0.3, 0.6, 0.9]))


def test_merge_adds_task_vectors_to_a_base(tmp_path):
    base, *tuned = three_models()
    paths = [save(state, tmp_path / f"{i}.pth") for i, state in enumerate(tuned)]
    save(base, tmp_path / "base.safetensors")
    out = tmp_path / "out.safetensors"
    flags = ["-o", out, "--base", tmp_path / "base.safetensors"]
    sconce("merge", *paths, *flags, "--weights", "0.5,-0.25")
    assert_same_tensors(load_file(out), blended(tuned, [0.5, -0.25], base))
    sconce("merge", *paths, *flags)
    assert_same_tensors(load_file(out), blended(tuned, [1, 1], base))


def test_merge_meets_names_from_within_a_wrapper(tmp_path):
    one, two = linear(seed=1).state_dict(), linear(seed=2).state_dict()
    save(one, tmp_path / "a.pth")
    save({f"module.{name}": tensor for name, tensor in two.items()}, tmp_path / "b.pth")
    sconce("merge", tmp_path / "a.pth", tmp_path / "b.pth", "-o", tmp_path / "out.safetensors")
    assert_same_tensors(load_file(tmp_path / "out.safetensors"), blended([one, two], [1, 1]))


def test_merge_takes_integers_from_the_first_and_says_so(tmp_path):
    for i in range(2):
        save({"w": torch.ones(2) * i, "steps": torch.tensor(5 + i), "same": torch.tensor(1)},
             tmp_path / f"{i}.pth")
    out = tmp_path / "out.safetensors"
    done = sconce("merge", tmp_path / "0.pth", tmp_path / "1.pth", "-o", out)
    assert load_file(out)["steps"].item() == 5
    assert "1 integer tensor differs" in done.stderr and "steps" in done.stderr
    assert "same" not in done.stderr


def test_merge_refuses_what_does_not_go_together_all_at_once(tmp_path):
    save({"w": torch.ones(2), "v": torch.ones(2), "gone": torch.ones(1),
          "q": torch.quantize_per_tensor(torch.randn(4), 0.5, 3, torch.quint8)}
         , tmp_path / "a.pth")
    torch.save({"w": torch.ones(3), "v": torch.ones(2).half(), "more": torch.ones(1),
                "q": torch.quantize_per_tensor(torch.randn(4), 0.5, 3, torch.quint8)},
               tmp_path / "b.pth")
    out = tmp_path / "out.safetensors"
    stderr = sconce("merge", tmp_path / "a.pth", tmp_path / "b.pth", "-o", out, status=2).stderr
    for words in ("tensor 'w': expected float32 [2]", "got float32 [3]",
                  "tensor 'v': expected float32 [2]", "got float16 [2]", "tensor 'gone': is not in",
                  "tensor 'more': is in", "tensor 'q': is quantized"):
        assert words in stderr
    assert not out.exists() and leftovers(tmp_path) == []


def test_merge_refuses_weights_that_do_not_fit(tmp_path):
    path = save(linear(), tmp_path / "a.pth")
    out = tmp_path / "out.safetensors"
    for weights, words in (("0.5", "one for each"), ("1,-1", "other than 0"), ("nan,1", "finite"),
                           ("a,b", "--weights")):
        done = sconce("merge", path, path, "-o", out, "--weights", weights, status=2)
        assert words in done.stderr
    assert not out.exists()


# Size --------------------------------------------------------------------------------------------


def peak_megabytes(*arguments, status=(0,)):
    process = subprocess.Popen([str(BINARY), *map(str, arguments)], stdout=subprocess.DEVNULL)
    _, wait_status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(wait_status)
    assert process.returncode in status
    return usage.ru_maxrss / 1024


def test_memory_does_not_grow_with_the_file(tmp_path):
    small = write_sparse_file(tmp_path / "small.safetensors", 8)
    big = write_sparse_file(tmp_path / "big.safetensors", 2048)
    half = write_sparse_file(tmp_path / "half.safetensors", 512)
    out = tmp_path / "out.safetensors"
    commands = [lambda p: ["inspect", p, "--stats"], lambda p: ["check", p],
                lambda p: ["diff", p, p]]
    for command in commands:
        grown = (peak_megabytes(*command(big), status=(0, 1))
                 - peak_megabytes(*command(small), status=(0, 1)))
        assert grown < 48, command(big)
    for command in (lambda p: ["convert", p, out, "--dtype", "float16"],
                    lambda p: ["merge", p, p, "-o", out]):
        grown = peak_megabytes(*command(half)) - peak_megabytes(*command(small))
        assert grown < 48, command(half)
        out.unlink()


# The command line --------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [
    ["inspect"], ["check"], ["diff", "a"], ["convert", "a"], ["merge", "a"], ["merge", "-o", "a"],
    ["inspect", "a", "--nope"], ["inspect", "a", "b"], ["convert", "a", "b", "--max-dense-bytes", 0],
])
def test_a_wrong_command_line_is_status_2(arguments):
    done = sconce(*arguments, status=2)
    assert f"Try 'sconce {arguments[0]} --help'" in done.stderr


def test_commands_load_no_cuda(tmp_path):
    save(linear(), tmp_path / "model.pth")
    done = subprocess.run(
        [str(BINARY), "inspect", str(tmp_path / "model.pth")], capture_output=True, text=True,
        timeout=60, env={**os.environ, "LD_DEBUG": "files"})
    assert done.returncode == 0
    assert "libtorch_cuda" not in done.stderr and "libsconce_cuda" not in done.stderr


def test_architectures_lists_the_catalog():
    from torchvision import models

    listed = {entry["name"]: entry for entry in json.loads(sconce("architectures", "--json").stdout)}
    assert listed.keys() >= set(models.list_models(module=models))
    assert listed["vgg16"]["family"] == "vgg"
    of_mlp = {parameter["name"]: parameter for parameter in listed["mlp"]["parameters"]}
    assert of_mlp["activation"]["default"] == "relu" and "gelu" in of_mlp["activation"]["choices"]

    text = sconce("architectures").stdout.splitlines()
    assert len(text) == len(listed) + 1  # and a line of titles
    assert any(line.startswith("resnet50 ") and "num_classes=1000" in line for line in text)

    one = sconce("architectures", "swin").stdout
    assert "window" in one and "height and width of a window in patches" in one
    assert json.loads(sconce("architectures", "resnet50", "--json").stdout) == listed["resnet50"]
    missing = sconce("architectures", "resnet5", status=2)
    assert "no architecture is called 'resnet5'" in missing.stderr


def test_names_of_older_libraries_are_known(tmp_path):
    from torchvision.models import DenseNet

    net = DenseNet(growth_rate=4, block_config=(1, 2), num_init_features=8, num_classes=3)
    state = net.state_dict()
    old = {
        name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): tensor
        for name, tensor in state.items()
    }
    assert old.keys() != state.keys()
    save(old, tmp_path / "old.pth")
    checked = sconce("check", tmp_path / "old.pth")
    assert "densenet(" in checked.stdout
    save(old | state, tmp_path / "both.pth")
    both = sconce("check", tmp_path / "both.pth", status=1)
    assert "norm.1.weight" in both.stdout and "norm1.weight" in both.stdout
