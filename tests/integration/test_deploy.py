"""The Dockerfile and the manifests, as far as they can be judged without a cluster."""

import json
import os
import pathlib
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
TOOLS = pathlib.Path(sys.executable).parent
OVERLAYS = sorted(path.name for path in (DEPLOY / "overlays").iterdir())


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


def rendered(overlay):
    """What `kubectl apply -k` would send, by kind; two Services are told apart by name."""
    text = run(TOOLS / "kubectl", "kustomize", DEPLOY / "overlays" / overlay)
    return {f"{item['kind']}/{item['metadata']['name']}": item for item in yaml.safe_load_all(text)}


@pytest.fixture(scope="module", params=OVERLAYS)
def manifests(request):
    return rendered(request.param)


@pytest.fixture
def pod(manifests):
    return manifests["Deployment/sconce"]["spec"]["template"]


@pytest.fixture
def server(pod):
    (container,) = pod["spec"]["containers"]
    return container


def flags_of(server):
    return dict(arg.lstrip("-").split("=", 1) for arg in server["args"][1:])


def test_dockerfile_is_clean():
    run(TOOLS / "hadolint", "Dockerfile")


def test_yaml_is_clean():
    run(TOOLS / "yamllint", "--strict", "-c", DEPLOY / ".yamllint", DEPLOY)


def test_every_object_fits_the_kubernetes_schemas(manifests):
    for item in [*manifests.values(), yaml.safe_load((DEPLOY / "upload" / "pod.yaml").read_text())]:
        kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)


def test_schemas_catch_a_misspelt_field(manifests):
    item = json.loads(json.dumps(manifests["Deployment/sconce"]))
    item["spec"]["template"]["spec"]["terminationGracePeriod"] = 60
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)


def test_what_an_installation_consists_of(manifests):
    assert sorted(manifests) == [
        "Deployment/sconce",
        "PersistentVolumeClaim/sconce-models",
        "PodDisruptionBudget/sconce",
        "Service/sconce",
        "Service/sconce-headless",
        "ServiceAccount/sconce",
    ]
    assert not any("namespace" in item["metadata"] for item in manifests.values())


def test_objects_refer_to_each_other_by_names_that_exist(manifests, pod, server):
    labels = pod["metadata"]["labels"].items()
    for name in ("Deployment/sconce", "PodDisruptionBudget/sconce"):
        selector = manifests[name]["spec"]["selector"]["matchLabels"].items()
        assert selector and selector <= labels
    ports = {port["name"] for port in server["ports"]}
    for name in ("Service/sconce", "Service/sconce-headless"):
        selector = manifests[name]["spec"]["selector"].items()
        assert selector and selector <= labels
        assert {port["targetPort"] for port in manifests[name]["spec"]["ports"]} <= ports
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    for claim in claims.values():
        assert f"PersistentVolumeClaim/{claim}" in manifests
    mounted = {mount["mountPath"]: mount["name"] for mount in server["volumeMounts"]}
    assert mounted[flags_of(server)["model-repository"]] in claims
    assert f"ServiceAccount/{pod['spec']['serviceAccountName']}" in manifests


def test_the_network_policy_keeps_others_from_the_grpc_port_alone(tmp_path):
    parts = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(DEPLOY / "overlays" / "cpu", tmp_path)],
        "components": [os.path.relpath(DEPLOY / "network-policy", tmp_path)],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(parts))
    items = {item["kind"]: item for item in yaml.safe_load_all(
        run(TOOLS / "kubectl", "kustomize", tmp_path))}
    policy = items["NetworkPolicy"]
    kubernetes_validate.validate(policy, kubernetes_validate.latest_version(), strict=True)
    pod = items["Deployment"]["spec"]["template"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    reach = {rule["ports"][0]["port"]: rule.get("from") for rule in policy["spec"]["ingress"]}
    assert set(reach) == ports
    assert reach["grpc"] == [{"podSelector": {"matchLabels": {"sconce-client": "true"}}}]
    assert reach["http"] is None


@pytest.mark.parametrize("where", [*OVERLAYS, "upload"])
def test_pods_run_without_privileges(where):
    if where == "upload":
        spec = yaml.safe_load((DEPLOY / "upload" / "pod.yaml").read_text())["spec"]
    else:
        spec = rendered(where)["Deployment/sconce"]["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_probes_ask_ports_the_pod_has(server):
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert server["startupProbe"]["httpGet"] == {"path": "/v2/health/live", "port": "http"}
    assert server["livenessProbe"]["httpGet"] == {"path": "/v2/health/live", "port": "http"}
    assert server["readinessProbe"]["grpc"]["port"] == ports["grpc"]


def test_metrics_are_scraped_where_they_are_served(pod, server):
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    annotations = pod["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["http"])
    assert annotations["prometheus.io/path"] == "/metrics"


def test_shutdown_fits_in_the_grace_period(pod, server):
    sleep = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = float(flags_of(server)["shutdown-grace"])
    assert sleep + grace + 5 <= pod["spec"]["terminationGracePeriodSeconds"]


def test_cpu_overlay_keeps_to_its_cores():
    spec = rendered("cpu")["Deployment/sconce"]["spec"]["template"]["spec"]
    (server,) = spec["containers"]
    assert flags_of(server)["device"] == "cpu"
    assert flags_of(server)["threads"] == "$(SCONCE_CPU_LIMIT)"
    (limit,) = [entry for entry in server["env"] if entry["name"] == "SCONCE_CPU_LIMIT"]
    assert limit["valueFrom"]["resourceFieldRef"]["resource"] == "limits.cpu"
    assert server["resources"]["limits"]["cpu"].isdigit()  # a fraction would be rounded up
    assert "nvidia.com/gpu" not in server["resources"]["limits"]


def test_gpu_overlay_gets_a_gpu_and_gives_it_up_before_a_roll_out():
    spec = rendered("gpu")["Deployment/sconce"]["spec"]
    pod = spec["template"]["spec"]
    (server,) = pod["containers"]
    assert flags_of(server)["device"] == "cuda"
    assert server["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["runtimeClassName"] == "nvidia"
    assert any(item["key"] == "nvidia.com/gpu" for item in pod["tolerations"])
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
