"""What an operator asks of a running server: by the admin service, by `sconce ctl`, and by Triton's
load and unload."""

import json
import re

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from checkpoints import constant, constant_mlp, place, replace, save
from serving import holds_for, infer, request, run_sconce, wait_until
from traffic import Traffic
from tritonclient.grpc import service_pb2

ONE = np.zeros((1, 4), np.float32)
STATUS = grpc.StatusCode


def zeros(rows):
    return np.zeros((rows, 4), np.float32)


def refused(call, code):
    """The message with which `call` is refused with `code`."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() == code, caught.value
    return caught.value.details()


def configure(path, text):
    path.with_name("config.pbtxt").write_text(text)


def stop(server):
    server.signal()
    assert server.wait_exit() == 0


def status(server, model):
    found = server.admin("Status", model=model).models
    assert [entry.name for entry in found] == [model]
    return found[0]


def states(server, model):
    """{number: state} of a model's versions."""
    return {version.number: version.state for version in status(server, model).versions}


def wait_state(server, model, number, state):
    wait_until(
        lambda: states(server, model).get(number) == state, f"version {number} to be {state}")


def answers(server, model, value):
    answer = server.infer(model, ONE)
    assert np.all(answer.array == value), answer.array
    return answer


def wait_answer(server, model, value):
    wait_until(lambda: np.all(server.infer(model, ONE).array == value), f"an answer of {value}")
    return answers(server, model, value)


def ctl(server, *arguments, expected=0):
    done = run_sconce("ctl", "--server", server.grpc_address, *arguments)
    assert done.returncode == expected, done.stderr + done.stdout
    return done.stdout if expected == 0 else done.stderr


@pytest.fixture
def path(repository):
    """The weights file of model "m", whose every answer is 1."""
    return save(constant(1), place(repository, "m"))


# Rollback ----------------------------------------------------------------------------------------


def test_rollback_under_load_brings_back_number_and_weights(serve, path):
    server = serve()
    before = answers(server, "m", 1)
    with Traffic(server, "m", zeros) as traffic:
        traffic.wait_for_output(1)
        replace(path, constant(2))
        traffic.wait_for_output(2)
        wait_state(server, "m", before.version, "retained")
        back = server.admin("Rollback", model="m")
        assert back.version == before.version
        traffic.wait_for_output(1)
    values = traffic.check_constant_outputs()
    assert sorted(values.values()) == [1, 2]
    after = answers(server, "m", 1)
    assert (after.version, after.weights_id) == (before.version, before.weights_id)
    assert [version.number for version in back.model.answering] == [before.version]

    # What was rolled back is in the folder still, and stays there until somebody changes it.
    holds_for(1, lambda: np.all(server.infer("m", ONE).array == 1), "the rollback did not last")
    replace(path, constant(3))
    assert wait_answer(server, "m", 3).version > before.version + 1


def test_a_rollback_can_be_rolled_back(serve, path):
    server = serve()
    replace(path, constant(2))
    second = wait_answer(server, "m", 2)
    wait_state(server, "m", 1, "retained")
    assert server.admin("Rollback", model="m").version == 1
    answers(server, "m", 1)
    assert server.admin("Rollback", model="m", version=second.version).version == second.version
    assert answers(server, "m", 2).weights_id == second.weights_id


def test_what_cannot_be_rolled_back_says_why(serve, path):
    server = serve()
    assert refused(lambda: server.admin("Rollback", model="m"), STATUS.FAILED_PRECONDITION)
    assert "7" in refused(
        lambda: server.admin("Rollback", model="m", version=7), STATUS.NOT_FOUND)
    assert "lunar" in refused(lambda: server.admin("Rollback", model="lunar"), STATUS.NOT_FOUND)
    refused(lambda: server.admin("Rollback", model="m", version=-1), STATUS.INVALID_ARGUMENT)
    refused(lambda: server.admin("Rollback"), STATUS.INVALID_ARGUMENT)
    answers(server, "m", 1)


def test_no_more_versions_are_retained_than_configured(serve, path):
    configure(path, "swap { retain_versions: 2 }")
    server = serve()
    for value in (2, 3, 4):
        replace(path, constant(value))
        wait_answer(server, "m", value)
    wait_until(lambda: states(server, "m").get(1) in (None, "retired"), "version 1 to be gone")
    assert [states(server, "m")[number] for number in (2, 3, 4)] == [
        "retained", "retained", "published"]
    assert server.admin("Rollback", model="m", version=2).version == 2
    answers(server, "m", 2)


# Promotion ---------------------------------------------------------------------------------------


def test_a_held_version_answers_once_it_is_promoted(serve, path):
    configure(path, "swap { promotion: MANUAL }")
    server = serve()
    answers(server, "m", 1)  # the first version needs nobody's consent
    refused(lambda: server.admin("Promote", model="m"), STATUS.FAILED_PRECONDITION)
    with Traffic(server, "m", zeros) as traffic:
        replace(path, constant(2))
        wait_state(server, "m", 2, "held")
        holds_for(0.5, lambda: np.all(server.infer("m", ONE).array == 1), "it answered unasked")
        refused(lambda: server.admin("Promote", model="m", version=7), STATUS.NOT_FOUND)
        held = [entry for entry in server.stub.RepositoryIndex(
            service_pb2.RepositoryIndexRequest(), timeout=10).models if entry.version == "2"]
        assert [entry.state for entry in held] == ["UNAVAILABLE"]
        assert "promoted" in held[0].reason
        assert server.index()["m"].state == "READY"
        assert "held" in ctl(server, "status", "m")
        assert server.admin("Promote", model="m").version == 2
        traffic.wait_for_output(2)
    assert traffic.check_constant_outputs() == {1: 1, 2: 2}
    traffic.check_versions_only_rise()
    assert states(server, "m") == {1: "retained", 2: "published"}


def test_a_canary_answers_its_share_and_says_so(serve, path):
    configure(path, "swap { canary { share: 0.5 seconds: 3600 } }")
    server = serve()
    first = answers(server, "m", 1)
    replace(path, constant(2))
    wait_state(server, "m", 2, "canary")
    given = [server.infer("m", ONE) for _ in range(20)]
    assert {answer.version for answer in given} == {1, 2}
    for answer in given:
        assert np.all(answer.array == answer.version)
        assert (answer.weights_id == first.weights_id) == (answer.version == 1)
    live, canary = status(server, "m").answering
    assert (live.number, canary.number) == (1, 2)
    assert (live.share, canary.share) == (0.5, 0.5)
    assert canary.trial.requests >= 10 and canary.trial.failed == 0
    with server.client() as client:
        assert sorted(client.get_model_metadata("m").versions) == ["1", "2"]
    assert "canary 50.0%" in ctl(server, "status", "m")
    # By its number it can be asked alone.
    assert np.all(server.infer("m", ONE, model_version="2").array == 2)

    assert server.admin("Promote", model="m", version=2).version == 2
    for _ in range(10):
        answers(server, "m", 2)


def test_a_rollback_withdraws_a_canary(serve, path):
    configure(path, "swap { canary { share: 0.5 seconds: 3600 } }")
    server = serve()
    replace(path, constant(2))
    wait_state(server, "m", 2, "canary")
    assert server.admin("Rollback", model="m").version == 1
    for _ in range(10):
        answers(server, "m", 1)


# Pins and reloads --------------------------------------------------------------------------------


def test_a_pinned_model_does_not_follow_its_folder(serve, path):
    server = serve()
    assert "pinned" in ctl(server, "pin", "m")
    assert status(server, "m").pinned
    replace(path, constant(2))
    holds_for(1, lambda: np.all(server.infer("m", ONE).array == 1), "a pinned model changed")
    assert "pinned" not in ctl(server, "unpin", "m")
    wait_answer(server, "m", 2)
    assert not status(server, "m").pinned
    refused(lambda: server.admin("Pin", model="lunar"), STATUS.NOT_FOUND)


def test_reload_loads_an_unchanged_file_again(serve, path):
    server = serve()
    first = answers(server, "m", 1)
    loads = server.metric("sconce_loads_total", model="m", outcome="published")
    with Traffic(server, "m", zeros):
        model = server.admin("Reload", model="m").model
    assert server.metric("sconce_loads_total", model="m", outcome="published") == loads + 1
    assert model.answering[0].weights_id == first.weights_id
    assert answers(server, "m", 1).weights_id == first.weights_id


def test_reload_tries_a_refused_file_again_and_says_why_it_fails(serve, path):
    server = serve()
    path.write_bytes(b"these are no weights")
    wait_until(lambda: server.reason("m"), "the refusal")
    message = refused(lambda: server.admin("Reload", model="m"), STATUS.INVALID_ARGUMENT)
    assert "model.pth" in message
    answers(server, "m", 1)
    assert "model.pth" in status(server, "m").last_error
    assert "model.pth" in ctl(server, "reload", "m", expected=2)


# Load and unload ---------------------------------------------------------------------------------


def test_ctl_takes_a_model_out_of_service_and_back(serve, path):
    server = serve()
    assert ctl(server, "unload", "m").startswith("m: out of service; unloaded")
    assert not server.model_ready("m")
    assert status(server, "m").unloaded
    assert re.match(r"m: version \d+ answers", ctl(server, "load", "m"))
    answers(server, "m", 1)


INLINE = ("--inline-weights-max-bytes", "2000000")


def safetensors(net, tmp_path):
    return save(net, tmp_path / "sent.safetensors").read_bytes()


def test_weights_that_come_with_a_load_answer_until_the_next_load(serve, path, tmp_path):
    server = serve(*INLINE)
    with server.client() as client:
        # As tritonclient's documentation says: files by their path, with the configuration.
        client.load_model("m", config='{"max_batch_size": 3}',
                          files={"file:1/model.safetensors": safetensors(constant(2), tmp_path)})
        answer = answers(server, "m", 2)
        assert client.get_model_config("m").config.max_batch_size == 3
        assert status(server, "m").inline_weights
        # The folder is not followed meanwhile.
        replace(path, constant(3))
        holds_for(1, lambda: np.all(infer(client, "m", ONE).array == 2), "the folder was followed")
        client.load_model("m")
        assert answers(server, "m", 3).version > answer.version
        assert not status(server, "m").inline_weights
        replace(path, constant(4))
        wait_answer(server, "m", 4)


def test_a_model_without_a_folder_can_be_sent(serve, path, tmp_path):
    server = serve(*INLINE)
    sent = save(constant(5), tmp_path / "model.safetensors")
    assert "version 1 answers" in ctl(
        server, "load", "sent", "--weights", sent, "--config", '{"max_batch_size": 2}')
    answers(server, "sent", 5)
    assert {model.name for model in server.admin("Status").models} == {"m", "sent"}
    holds_for(1, lambda: server.model_ready("sent"), "a model without a folder went away")


def test_a_configuration_comes_with_a_load_without_a_flag(serve, path, tmp_path):
    server = serve()
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"max_batch_size": 2}))
    ctl(server, "load", "m", "--config", config)
    with server.client() as client:
        assert client.get_model_config("m").config.max_batch_size == 2
        with pytest.raises(triton.InferenceServerException) as caught:
            client.load_model("m", config='{"max_batchsize": 2}')
        assert "max_batchsize" in caught.value.message()
        assert client.get_model_config("m").config.max_batch_size == 2


def load(server, **parameters):
    message = service_pb2.RepositoryModelLoadRequest(model_name="m")
    for name, value in parameters.items():
        kind = "bytes_param" if isinstance(value, bytes) else "string_param"
        setattr(message.parameters[name], kind, value)
    server.stub.RepositoryModelLoad(message, timeout=60)


def test_what_a_load_may_not_bring_is_refused_clearly(serve, path, tmp_path):
    server = serve()
    weights = safetensors(constant(2), tmp_path)
    message = refused(
        lambda: load(server, **{"file:model.safetensors": weights}), STATUS.FAILED_PRECONDITION)
    assert "--inline-weights-max-bytes" in message
    assert "--inline-weights-max-bytes" in ctl(
        server, "load", "m", "--weights", tmp_path / "sent.safetensors", expected=2)

    other = serve("--inline-weights-max-bytes", str(len(weights)))
    too_large = {"file:model.safetensors": weights + b" "}
    assert str(len(weights)) in refused(lambda: load(other, **too_large), STATUS.RESOURCE_EXHAUSTED)
    for parameters, word in (
        ({"file:../model.safetensors": weights}, "within the model's folder"),
        ({"file:/etc/model.safetensors": weights}, "within the model's folder"),
        ({"file:a.safetensors": weights, "file:b.safetensors": weights}, "one weights file"),
        ({"file:model.safetensors": "text"}, "bytes"),
        ({"config": b"{}"}, "string"),
        ({"file:model.safetensors": b"these are no weights"}, "model.safetensors"),
    ):
        assert word in refused(lambda: load(other, **parameters), STATUS.INVALID_ARGUMENT)
    assert "verbose" in refused(lambda: load(other, verbose="yes"), STATUS.UNIMPLEMENTED)
    answers(server, "m", 1)
    answers(other, "m", 1)


def test_large_weights_can_be_sent_and_requests_stay_as_they_are(serve, path, tmp_path):
    server = serve("--inline-weights-max-bytes", "100000000")
    weights = safetensors(constant_mlp(2, width=2500), tmp_path)
    assert len(weights) > 64 << 20
    with server.client() as client:
        client.load_model("large", config="{}", files={"file:model.safetensors": weights})
        assert np.all(infer(client, "large", np.zeros((1, 2500))).array == 2)
    message = refused(
        lambda: server.stub.ModelInfer(
            request("m", np.zeros((4 << 20, 4), np.float32)), timeout=60),
        STATUS.RESOURCE_EXHAUSTED)
    assert str(64 << 20) in message
    answers(server, "m", 1)


# Modes and the state file ------------------------------------------------------------------------


def test_on_command_nothing_is_loaded_until_it_is_asked_for(serve, repository, path, tmp_path):
    save(constant(5), place(repository, "n"))
    flags = ("--control", "command", "--state-file", str(tmp_path / "state.json"))
    server = serve(*flags)  # it is ready without a model
    assert server.admin("Status").control == "command"
    holds_for(0.5, lambda: not server.model_ready("m"), "a model was loaded unasked")
    with server.client() as client:
        client.load_model("m")
        answers(server, "m", 1)
        replace(path, constant(2))
        holds_for(1, lambda: np.all(infer(client, "m", ONE).array == 1), "the folder was followed")
        client.load_model("m")
        before = answers(server, "m", 2)
    stop(server)

    again = serve(*flags)
    again.wait_model("m")
    after = answers(again, "m", 2)
    assert (after.version, after.weights_id) == (before.version, before.weights_id)
    assert not again.model_ready("n")


def test_a_fixed_server_never_changes(serve, path):
    server = serve("--control", "fixed")
    assert server.admin("Status").control == "fixed"
    replace(path, constant(2))
    holds_for(1, lambda: np.all(server.infer("m", ONE).array == 1), "the folder was followed")
    for method in ("Reload", "Rollback", "Pin"):
        message = refused(lambda: server.admin(method, model="m"), STATUS.FAILED_PRECONDITION)
        assert "--control fixed" in message
    refused(lambda: load(server), STATUS.FAILED_PRECONDITION)
    assert "--control fixed" in ctl(server, "unload", "m", expected=2)
    answers(server, "m", 1)


def test_a_restart_goes_on_where_the_state_file_says(serve, path, tmp_path):
    flags = ("--state-file", str(tmp_path / "state.json"))
    server = serve(*flags)
    replace(path, constant(2))
    before = wait_answer(server, "m", 2)
    server.admin("Pin", model="m")
    stop(server)

    server = serve(*flags)
    after = answers(server, "m", 2)
    assert (after.version, after.weights_id) == (before.version, before.weights_id)
    assert status(server, "m").pinned
    replace(path, constant(3))
    holds_for(1, lambda: np.all(server.infer("m", ONE).array == 2), "a pinned model changed")
    stop(server)

    # The weights that it is pinned to are gone: it says so rather than serve others.
    server = serve(*flags, wait_ready=False)
    wait_until(lambda: "pin" in server.reason("m"), "the reason")
    assert not server.model_ready("m")
    server.admin("Unpin", model="m")
    server.wait_model("m")
    assert answers(server, "m", 3).version > before.version


# Numbered folders --------------------------------------------------------------------------------


def test_several_numbered_folders_answer_by_their_numbers(serve, repository):
    for number in (3, 5, 7):
        folder = repository / "m" / str(number)
        folder.mkdir(parents=True)
        save(constant(number), folder / "model.pth")
    (repository / "m" / "config.pbtxt").write_text(
        "version_policy { specific { versions: [3, 7] } }")
    server = serve()
    assert answers(server, "m", 7).version == 7
    with server.client() as client:
        wait_until(lambda: client.is_model_ready("m", "3"), "version 3 to answer too")
        third = infer(client, "m", ONE, model_version="3")
        assert np.all(third.array == 3) and third.version == 3
        with pytest.raises(triton.InferenceServerException) as caught:
            infer(client, "m", ONE, model_version="5")
        assert "NOT_FOUND" in caught.value.status() and "3, 7" in caught.value.message()
        metadata = client.get_model_metadata("m", "3")
        assert list(metadata.versions) == ["3", "7"]
        assert client.is_model_ready("m", "3") and not client.is_model_ready("m", "5")
        policy = client.get_model_config("m", "7").config.version_policy
        assert list(policy.specific.versions) == [3, 7]
        assert client.get_inference_statistics("m", "3").model_stats[0].version == "3"
        index = client.get_model_repository_index().models
        assert [(entry.version, entry.state) for entry in index] == [("7", "READY"), ("3", "READY")]
    assert "version 7 answers, version 3 by number" in ctl(server, "status", "m")


# The command -------------------------------------------------------------------------------------


def test_ctl_status_shows_every_model(serve, repository, path):
    save(constant(5), place(repository, "n"))
    server = serve()
    replace(path, constant(2))
    wait_answer(server, "m", 2)
    wait_state(server, "m", 1, "retained")
    text = ctl(server, "status")
    assert text.index("m: version 2 answers") < text.index("n: version 1 answers")
    rows = [line.split() for line in text.partition("\n\n")[0].splitlines()[1:]]
    assert rows[0][:3] == ["version", "state", "since"]
    assert [row[:2] for row in rows[1:]] == [["2", "published"], ["1", "retained"]]
    assert rows[1][-1] == "model.pth"
    assert server.infer("m", ONE).weights_id in text
    assert "n:" not in ctl(server, "status", "m")

    report = json.loads(ctl(server, "status", "--json"))
    assert report["control"] == "follow"
    assert [model["name"] for model in report["models"]] == ["m", "n"]
    model = report["models"][0]
    assert model["answering"][0]["weights_id"] == server.infer("m", ONE).weights_id
    assert [version["state"] for version in model["versions"]] == ["retained", "published"]
    assert model["settings"]["swap_mode"] == "BESIDE"


def test_ctl_says_what_it_did_and_what_to_do(serve, path):
    server = serve()
    replace(path, constant(2))
    wait_answer(server, "m", 2)
    wait_state(server, "m", 1, "retained")
    assert ctl(server, "rollback", "m").startswith("m: version 1 answers")
    assert ctl(server, "rollback", "m", "2").startswith("m: version 2 answers")
    assert ctl(server, "reload", "m").startswith("m: version 3 answers")
    assert "lunar" in ctl(server, "status", "lunar", expected=2)
    assert ctl(server, "promote", "m", expected=2).startswith("sconce ctl: ")


@pytest.mark.any_device
def test_ctl_without_a_server_says_where_it_looked():
    done = run_sconce("ctl", "--server", "127.0.0.1:1", "status")
    assert done.returncode == 2 and done.stdout == ""
    assert "127.0.0.1:1" in done.stderr and "--server" in done.stderr


@pytest.mark.any_device
def test_a_wrong_ctl_command_line_is_refused():
    for arguments in (
        [], ["nonsense"], ["rollback"], ["rollback", "m", "0"], ["rollback", "m", "x"],
        ["--server", "nowhere", "status"], ["load", "m", "--weights", "not-there.pth"],
        ["status", "m", "n"],
    ):
        done = run_sconce("ctl", *arguments)
        assert done.returncode == 2, arguments
        assert done.stderr.startswith("sconce: ") and "--help" in done.stderr
