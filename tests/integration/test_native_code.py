"""Machine code from a model's folder: plugins and AOTInductor packages. Only where it is allowed, and
with everything that can go wrong with it."""

import json
import os
import pathlib
import re
import shutil
import zipfile

import checkpoints
import numpy as np
import pytest
import torch
from building import BUILD, cached, run
from checkpoints import place, replace, save
from serving import ROOT, run_sconce, wait_until
from torch import nn
from traffic import Traffic
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.any_device

# Plugins -----------------------------------------------------------------------------------------


class GatedMlp(nn.Module):
    def __init__(self, inputs=4, hidden=8, outputs=3):
        super().__init__()
        self.gate = nn.Linear(inputs, hidden)
        self.up = nn.Linear(inputs, hidden)
        self.down = nn.Linear(hidden, outputs)

    def forward(self, x):
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """The template, built as its README says, outside of the tree."""
    folder = tmp_path_factory.mktemp("plugin")
    run("cmake", "--install", BUILD, "--prefix", folder / "prefix", "--component", "library")
    shutil.copytree(ROOT / "clients" / "plugin-example", folder / "source")
    torch_folder = cached("SCONCE_TORCH_DIR") or pathlib.Path(torch.__file__).parents[1]
    run("cmake", "-S", folder / "source", "-B", folder / "build",
        f"-DCMAKE_PREFIX_PATH={folder / 'prefix'}", f"-DSCONCE_TORCH_DIR={torch_folder}",
        "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror -O1")
    run("cmake", "--build", folder / "build")
    return folder / "build" / "plugin.so"


def compiled(folder, source):
    """A shared library of a few lines of C."""
    (folder / "library.c").write_text(source)
    run("gcc", "-shared", "-fPIC", "-o", folder / "plugin.so", folder / "library.c")
    return folder / "plugin.so"


def refusal(serve, repository, library, *flags):
    shutil.copy(library, place(repository, "m", "plugin.so"))
    save(checkpoints.linear(), place(repository, "m", "model.pth"))
    server = serve(*flags, wait_ready=False)
    wait_until(lambda: server.reason("m"), "the reason", 30)
    return server.reason("m")


def rows(batch):
    return np.random.default_rng(1).random((batch, 4), dtype=np.float32)


def test_a_plugins_weights_are_swapped_like_any(serve, repository, plugin):
    nets = [checkpoints.seeded(GatedMlp, seed) for seed in range(2)]
    shutil.copy(plugin, place(repository, "m", "plugin.so"))
    path = save(nets[0], place(repository, "m", "model.safetensors"))
    server = serve("--allow-native-code")
    expected = [checkpoints.expected(net, rows(3)) for net in nets]
    answer = lambda: server.infer("m", rows(3), input_name="x").array
    assert np.array_equal(answer(), expected[0])
    replace(path, nets[1])
    wait_until(lambda: np.array_equal(answer(), expected[1]), "the new weights", 30)
    assert re.search(r"plugin plugin\.so, weights model\.safetensors", server.log())
    # Written over in place, which would kill a process that has mapped it.
    (repository / "m" / "plugin.so").write_bytes(b"\x7fELF" + bytes(plugin.stat().st_size - 4))
    wait_until(lambda: "refused" in server.log(), "the refusal", 30)
    assert np.array_equal(answer(), expected[1])


def test_a_plugin_is_summarised_by_the_operators_it_calls(plugin, tmp_path):
    shutil.copy(plugin, tmp_path / "plugin.so")
    save(GatedMlp(), tmp_path / "model.safetensors")
    done = run_sconce("summary", tmp_path, "--allow-native-code", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["parameters"] == 2 * (4 * 8 + 8) + 8 * 3 + 3
    assert document["multiply_adds"] == 2 * 4 * 8 + 8 * 3
    assert {"gate", "up", "down"} <= {layer["name"] for layer in document["layers"]}


def test_weights_that_do_not_fit_a_plugin_are_refused(serve, repository, plugin):
    reason = refusal(serve, repository, plugin, "--allow-native-code")
    assert "expected matrices gate.weight and down.weight" in reason


def test_native_code_is_not_run_unless_it_is_allowed(serve, repository, plugin):
    reason = refusal(serve, repository, plugin)
    assert "plugin.so: a plugin is native code" in reason and "--allow-native-code" in reason


@pytest.mark.parametrize("source, expected", [
    ("int nothing;", "it has no function sconce_plugin()"),
    ("extern int missing(void); int call(void) { return missing(); }", "undefined symbol: missing"),
    ("void* sconce_plugin(void) { return 0; }", "gave nothing"),
    ("static unsigned header[8] = {99}; void* sconce_plugin(void) { return header; }",
     "expected plugin interface 2, got 99"),
    ("""static struct { unsigned version; const char* torch; const char* abi; void* more; } header =
          {2, "1.0.0", "", 0};
        void* sconce_plugin(void) { return &header; }""", "expected LibTorch 2.11.0, got 1.0.0"),
    ("""static struct { unsigned version; const char* torch; const char* abi; void* more; } header =
          {2, "2.11.0", "another", 0};
        void* sconce_plugin(void) { return &header; }""", "expected a compiler with"),
], ids=["no-plugin", "unresolved", "nothing", "interface", "torch", "abi"])
def test_what_is_wrong_with_a_plugin_is_said(serve, repository, tmp_path, source, expected):
    assert expected in refusal(
        serve, repository, compiled(tmp_path, source), "--allow-native-code")


# AOTInductor -------------------------------------------------------------------------------------

CONFIG = """
input [{ name: "input" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "output" data_type: TYPE_FP32 dims: [4] }]
instance_group [{ kind: KIND_CPU }]
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """One network compiled twice: with all of its weights in memory, and as the compiler likes it."""
    folder = tmp_path_factory.mktemp("aot")
    dynamic = {"input": {0: torch.export.Dim("batch", min=1, max=64)}}
    program = torch.export.export(
        checkpoints.constant(1), (torch.zeros(2, 4),), dynamic_shapes=dynamic)
    common = {"aot_inductor.check_lowerbound": False}
    for name, options in [("kept", {"always_keep_tensor_constants": True}), ("inlined", {})]:
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(folder / f"{name}.pt2"),
            inductor_configs={**common, **options})
    return folder


def serve_package(serve, repository, package, *flags, config=CONFIG, **options):
    shutil.copy(package, place(repository, "m", "program.pt2"))
    path = save(checkpoints.constant(1), place(repository, "m", "model.pth"))
    (repository / "m" / "config.pbtxt").write_text(config)
    return path, serve(*flags, **options)


def reason_of(serve, repository, package, *flags, **options):
    server = serve_package(serve, repository, package, *flags, wait_ready=False, **options)[1]
    wait_until(lambda: server.reason("m"), "the reason", 30)
    return server.reason("m")


def rewritten(package, folder, metadata=lambda text: text, extra=None):
    """The package with another metadata text, or one member more."""
    path = folder / "changed.pt2"
    with zipfile.ZipFile(package) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.infolist():
            data = old.read(member)
            if member.filename.endswith("wrapper_metadata.json"):
                data = metadata(data.decode()).encode()
                if extra:
                    new.writestr(f"{os.path.dirname(member.filename)}/{extra}", b"{}")
            new.writestr(member.filename, data)
    return path


def test_compiled_code_gets_new_weights_under_load(serve, repository, packages, tmp_path):
    """The library's own swap waits for ever under load; here every version has its own container."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path, server = serve_package(
        serve, repository, packages / "kept.pt2", "--allow-native-code",
        env={"TMPDIR": str(scratch)})
    with Traffic(server, "m", lambda batch: np.ones((batch, 4), np.float32)) as traffic:
        for value in range(2, 8):
            replace(path, checkpoints.constant(value))
            traffic.wait_for_output(value)
    traffic.check_constant_outputs()
    traffic.check_versions_only_rise()
    # Nothing is unpacked, so that nothing is left where the server is killed.
    assert not list(scratch.iterdir())


def test_a_summary_says_what_it_cannot_show_of_compiled_code(packages, tmp_path):
    shutil.copy(packages / "kept.pt2", tmp_path / "program.pt2")
    save(checkpoints.constant(1), tmp_path / "model.pth")
    (tmp_path / "config.pbtxt").write_text(CONFIG)
    refused = run_sconce("summary", tmp_path)
    assert refused.returncode == 2 and "--allow-native-code" in refused.stderr
    shown = run_sconce("summary", tmp_path, "--allow-native-code")
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"total +20 +not known +machine code, whose layers cannot be shown", shown.stdout)
    wrong = run_sconce("summary", tmp_path, "--allow-native-code", "--input-size", "7")
    assert wrong.returncode == 2, wrong.stdout


def test_batches_that_code_was_not_compiled_for_are_refused(serve, repository, packages):
    """It would read out of bounds, and believes whatever it is given."""
    reason = reason_of(
        serve, repository, packages / "kept.pt2", "--allow-native-code",
        config=CONFIG + "max_batch_size: 100")
    assert "may not have been compiled" in reason


def test_inputs_other_than_declared_never_reach_the_code(serve, repository, packages):
    server = serve_package(serve, repository, packages / "kept.pt2", "--allow-native-code")[1]
    for shape in ((1, 7), (65, 4), (4,)):
        with pytest.raises(InferenceServerException):
            server.infer("m", np.zeros(shape, np.float32))
    assert server.infer("m", np.zeros((64, 4), np.float32)).array[0, 0] == 1


def test_compiled_code_is_written_over_in_place(serve, repository, packages):
    path, server = serve_package(
        serve, repository, packages / "kept.pt2", "--allow-native-code",
        config=CONFIG + "swap { mode: IN_PLACE }")
    replace(path, checkpoints.constant(2))
    answer = lambda: server.infer("m", np.zeros((1, 4), np.float32)).array[0, 0]
    wait_until(lambda: answer() == 2, "the new weights", 30)
    assert "written over the weights of version 1" in server.log()


def test_inlined_weights_cannot_be_swapped(serve, repository, packages):
    reason = reason_of(serve, repository, packages / "inlined.pt2", "--allow-native-code")
    assert 'does not read "bias" from memory' in reason
    assert "always_keep_tensor_constants" in reason


def test_compiled_code_is_not_run_unless_it_is_allowed(serve, repository, packages):
    reason = reason_of(serve, repository, packages / "kept.pt2")
    assert "an AOTInductor package is native code" in reason


def test_what_a_package_takes_has_to_be_declared(serve, repository, packages):
    reason = reason_of(
        serve, repository, packages / "kept.pt2", "--allow-native-code", config="")
    assert "does not say what it takes" in reason


@pytest.mark.parametrize("change, expected", [
    (lambda text: text.replace('"AOTI_CPU_ISA": "', '"AOTI_CPU_ISA": "NEVERBUILT '),
     "this one has no neverbuilt"),
    (lambda text: text.replace("x86_64", "riscv64"), "it was compiled for linux on riscv64"),
    (lambda text: text.replace('"cpu"', '"cuda"'), "only packages for the CPU"),
    (lambda text: "[]", "no JSON object"),
], ids=["processor", "machine", "device", "metadata"])
def test_code_for_something_else_is_refused(
        serve, repository, packages, tmp_path, change, expected):
    package = rewritten(packages / "kept.pt2", tmp_path, change)
    assert expected in reason_of(serve, repository, package, "--allow-native-code")


def test_code_that_needs_more_than_itself_is_refused(serve, repository, packages, tmp_path):
    package = rewritten(packages / "kept.pt2", tmp_path, extra="kernels.json")
    reason = reason_of(serve, repository, package, "--allow-native-code")
    assert "kernels.json" in reason and "not supported" in reason


def test_a_package_alone_says_what_it_wants(serve, repository, packages):
    shutil.copy(packages / "kept.pt2", place(repository, "m", "program.pt2"))
    server = serve("--allow-native-code", wait_ready=False)
    wait_until(lambda: server.reason("m"), "the reason", 30)
    assert "put them beside it" in server.reason("m")
