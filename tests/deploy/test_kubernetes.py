"""The manifests for Kubernetes: valid, without rights, and in agreement with each other and with the server."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from support.deployment import (
    BOOKING_S,
    HEALTH_PATHS,
    KUBERNETES,
    assert_the_cli_accepts,
    create_secrets,
    dockerfile_steps,
    image_variables,
    read_manifests,
    settings_of,
)
from tollkeeper import __version__
from tollkeeper.settings import Settings

VERSION = "1.33"
"""Of Kubernetes, whose schemas the objects satisfy."""
KUSTOMIZE, OF_AN_OPERATOR = "kustomize.config.k8s.io/", "monitoring.coreos.com/"
BASE, EXAMPLE = KUBERNETES / "base", KUBERNETES / "overlays" / "example"
MANIFESTS = read_manifests(KUBERNETES)
OBJECTS = [one for one in MANIFESTS if not one["apiVersion"].startswith(KUSTOMIZE)]
SETTINGS = dict(line.split("=", 1) for line in (BASE / "settings.env").read_text().splitlines())
each_object = pytest.mark.parametrize("one", OBJECTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")


def find(kind: str, name: str = "tollkeeper") -> dict[str, Any]:
    (found,) = [one for one in OBJECTS if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


DEPLOYMENT = find("Deployment")
POD = DEPLOYMENT["spec"]["template"]["spec"]
(API,) = POD["containers"]
JOB_POD = find("Job", "tollkeeper-migrate")["spec"]["template"]["spec"]
WORKER_POD = find("Deployment", "tollkeeper-worker")["spec"]["template"]["spec"]
PODS = {"api": POD, "migrate": JOB_POD, "worker": WORKER_POD}
each_pod = pytest.mark.parametrize("pod", PODS.values(), ids=PODS)


def kustomizations() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in KUBERNETES.rglob("kustomization.yaml"):
        yield path.parent, yaml.safe_load(path.read_text())


@each_object
def test_an_object_is_valid(one: dict[str, Any]) -> None:
    if not one["apiVersion"].startswith(OF_AN_OPERATOR):  # whose schema is not Kubernetes' own
        kubernetes_validate.validate(one, VERSION, strict=True)


def test_kustomizations_name_every_file_and_only_what_exists() -> None:
    named: set[Path] = set()
    for folder, one in kustomizations():
        files = [name for generator in one.get("configMapGenerator", ()) for name in generator.get("envs", ())]
        for name in [*one.get("resources", ()), *one.get("components", ()), *files]:
            assert (folder / name).exists(), (folder, name)
            named.add((folder / name).resolve())
        for patch in one.get("patches", ()):
            assert find(patch["target"]["kind"], patch["target"]["name"])
    files_here = {path for path in KUBERNETES.rglob("*") if path.is_file() and path.name != "kustomization.yaml"}
    assert {path for path in named if path.is_file()} == files_here


@pytest.mark.exhaustive
@pytest.mark.parametrize("folder", [BASE, EXAMPLE], ids=["base", "example"])
def test_kustomize_accepts_them(folder: Path) -> None:
    programs = {"kustomize": ["kustomize", "build"], "kubectl": ["kubectl", "kustomize"]}
    found = next((command for name, command in programs.items() if shutil.which(name)), None)
    if found is None:
        pytest.skip("neither kustomize nor kubectl is installed")
    built = subprocess.run([*found, str(folder)], capture_output=True, text=True, timeout=60, check=False)
    assert built.returncode == 0, built.stderr
    objects = list(yaml.safe_load_all(built.stdout))
    for one in objects:
        kubernetes_validate.validate(one, VERSION, strict=True)
    (settings,) = [one for one in objects if one["kind"] == "ConfigMap"]
    (deployment,) = [one for one in objects if one["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"configMapRef": {"name": settings["metadata"]["name"]}}]
    assert container["image"].endswith(f"tollkeeper:{__version__}")


@pytest.mark.parametrize("overlay", [False, True], ids=["base", "example"])
def test_the_configuration_is_of_settings_that_the_server_accepts(
    overlay: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_secrets(tmp_path)
    variables = {name: value for name, value in image_variables().items() if name.startswith("TOLLKEEPER_")} | SETTINGS
    if overlay:
        (generator,) = yaml.safe_load((EXAMPLE / "kustomization.yaml").read_text())["configMapGenerator"]
        variables |= dict(literal.split("=", 1) for literal in generator["literals"])
    settings = settings_of(variables, tmp_path, monkeypatch)
    assert settings.workers == int(SETTINGS["TOLLKEEPER_WORKERS"])
    assert settings.signing_secret is not None
    if overlay:
        assert settings.public_base_url.startswith("https://")


def test_the_example_secret_has_the_files_that_the_settings_name() -> None:
    files = {Path(value).name for name, value in SETTINGS.items() if name.endswith("_FILE")}
    assert find("Secret")["stringData"].keys() == files


@each_pod
def test_a_pod_has_no_rights(pod: dict[str, Any]) -> None:
    """What the restricted security standard of pods asks for, and a root filesystem that is read-only."""
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    (user,) = [arguments for name, arguments in dockerfile_steps() if name == "USER"]
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == user
    assert container["resources"]["limits"].keys() == {"memory"}
    assert_the_cli_accepts(container["command"])


@each_pod
def test_a_pod_mounts_what_its_settings_and_the_image_need(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounted.keys() == {"/data", "/tmp", "/run/secrets/tollkeeper"}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(mounted.values()) == volumes.keys()
    assert volumes["secrets"]["secret"]["secretName"] == find("Secret")["metadata"]["name"]
    assert all(Path(value).parent.as_posix() in mounted for name, value in SETTINGS.items() if name.endswith("_FILE"))
    assert container["envFrom"] == [{"configMapRef": {"name": "tollkeeper"}}]
    assert pod["serviceAccountName"] == find("ServiceAccount")["metadata"]["name"]


def test_probes_are_routes_on_the_port_of_the_server() -> None:
    ports = {port["name"]: port["containerPort"] for port in API["ports"]}
    assert ports == {
        "http": Settings.model_fields["port"].default,
        "metrics": int(SETTINGS["TOLLKEEPER_METRICS_PORT"]),
    }
    probes = {name: API[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["path"] for probe in probes.values()} <= HEALTH_PATHS
    assert {probe["port"] for probe in probes.values()} == {"http"}
    assert probes["livenessProbe"]["path"] == "/health/live"  # a database that is away is no reason to restart
    assert probes["readinessProbe"]["path"] == "/health/ready"


def test_a_pod_has_longer_to_stop_than_its_calls() -> None:
    stopping = sum(float(SETTINGS[f"TOLLKEEPER_{name}_SECONDS"]) for name in ("DRAIN", "GRACE"))
    assert POD["terminationGracePeriodSeconds"] >= stopping + BOOKING_S
    not_ready_s = API["readinessProbe"]["periodSeconds"] * API["readinessProbe"]["failureThreshold"]
    assert float(SETTINGS["TOLLKEEPER_DRAIN_SECONDS"]) >= not_ready_s


def test_a_worker_is_a_pod_that_receives_no_requests() -> None:
    deployment, (container,) = find("Deployment", "tollkeeper-worker"), WORKER_POD["containers"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert not labels.items() >= find("Service")["spec"]["selector"].items()
    assert container["command"] == ["tollkeeper", "worker"]
    assert [port["containerPort"] for port in container["ports"]] == [int(SETTINGS["TOLLKEEPER_METRICS_PORT"])]
    assert container["livenessProbe"]["httpGet"] == {"path": "/metrics", "port": container["ports"][0]["name"]}
    stopping = float(SETTINGS["TOLLKEEPER_GRACE_SECONDS"])
    assert WORKER_POD["terminationGracePeriodSeconds"] >= stopping + BOOKING_S


def test_services_ingress_and_budgets_find_the_pods() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in API["ports"]}
    service, metrics = find("Service"), find("Service", "tollkeeper-metrics")
    selectors = [
        DEPLOYMENT["spec"]["selector"]["matchLabels"],
        find("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        metrics["spec"]["selector"],
    ]
    assert all(selector == labels for selector in selectors)
    assert labels["app.kubernetes.io/component"] != "migrate"  # else the job's pods would receive calls
    assert {port["targetPort"] for one in (service, metrics) for port in one["spec"]["ports"]} == ports
    (rule,) = find("Ingress")["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"]["name"] == service["metadata"]["name"]
    assert path["backend"]["service"]["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
    assert find("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == DEPLOYMENT["metadata"]["name"]
    monitor = find("ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() >= metrics["metadata"]["labels"].items()
    assert {endpoint["port"] for endpoint in monitor["endpoints"]} == {
        port["name"] for port in metrics["spec"]["ports"]
    }
