"""The manifests of `sidecar/`: they parse, hold only keys that their platforms know, and agree with
tailhop's defaults and with each other.

    TAILHOP_BIN=target/debug/tailhop python -m pytest tests/sidecar
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import schemas
import yaml

ROOT = Path(__file__).parents[2]
SIDECAR = ROOT / "sidecar"
TAILSCALE = re.search(r"^ARG TAILSCALE_IMAGE=(.*)$", (ROOT / "Dockerfile").read_text(), re.M)[1]
DATA, ADMIN = 8484, 9484
APP = 8080
# What may be asked of whom: the app's own paths, and those of tailhop's admin listener.
PATHS = {APP: {"/live", "/health"}, ADMIN: {"/live", "/ready", "/metrics"}}

MANIFESTS = {
    "cloud-run/service.yaml": schemas.CLOUD_RUN,
    "cloud-run-multi/service.yaml": schemas.CLOUD_RUN,
    "cloud-run/prometheus.yaml": schemas.PROMETHEUS,
    "compose/mac.compose.yaml": schemas.COMPOSE,
    "compose/laptop.compose.yaml": schemas.COMPOSE,
    "compose/research-paas.compose.yaml": schemas.COMPOSE,
    "ecs-fargate/task-definition.json": schemas.ECS,
    "render/render.yaml": schemas.RENDER,
}


def manifest(name: str) -> Any:
    return yaml.load((SIDECAR / name).read_text(), Loader=Strict)


class Strict(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key stands twice: {keys}, {node.start_mark}"
        return super().construct_mapping(node, deep)


def wrong(value: Any, schema: schemas.Schema, at: str = "") -> list[str]:
    """What does not fit, each with its place: as much of JSON Schema as `schemas.py` uses."""
    found: list[str] = []
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at}: {value!r} is none of {schema['enum']}"]
    if "const" in schema and value != schema["const"]:
        return [f"{at}: {value!r} is not {schema['const']!r}"]
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    if "type" in schema:
        kind = kinds[schema["type"]]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            return [f"{at}: {value!r} is no {schema['type']}"]
    match value:
        case dict():
            known = schema.get("properties", {})
            rest = schema.get("additionalProperties", False)
            for key in schema.get("required", []):
                found += [] if key in value else [f"{at}: {key} is missing"]
            for key, inner in value.items():
                its = known.get(key, rest)
                found += wrong(inner, its, f"{at}/{key}") if its else [f"{at}: unknown key {key}"]
        case list():
            if len(value) < schema.get("minItems", 0):
                found.append(f"{at}: too few")
            for number, inner in enumerate(value):
                found += wrong(inner, schema.get("items", {}), f"{at}/{number}")
        case str():
            if len(value) < schema.get("minLength", 0) or not re.search(schema.get("pattern", ""), value):
                found.append(f"{at}: {value!r} does not fit {schema.get('pattern', 'it')}")
        case int() if "minimum" in schema:
            if not schema["minimum"] <= value <= schema["maximum"]:
                found.append(f"{at}: {value} is not {schema['minimum']} to {schema['maximum']}")
    return found


def test_every_manifest_is_tested() -> None:
    files = [*SIDECAR.rglob("*.yaml"), *SIDECAR.rglob("*.json")]
    assert {str(file.relative_to(SIDECAR)) for file in files} == set(MANIFESTS)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_fits_its_schema(name: str) -> None:
    assert wrong(manifest(name), MANIFESTS[name]) == []


def test_the_schemas_refuse_what_is_wrong() -> None:
    service = manifest("cloud-run/service.yaml")
    container = service["spec"]["template"]["spec"]["containers"][0]
    container["portz"] = []
    container["ports"][0]["containerPort"] = 80800
    service["spec"]["template"]["metadata"]["annotations"]["run.googleapis.com/cpu-throttling"] = False
    assert len(wrong(service, schemas.CLOUD_RUN)) == 3
    task = manifest("ecs-fargate/task-definition.json")
    task["containerDefinitions"][1]["stopTimeout"] = 121
    del task["family"]
    assert len(wrong(task, schemas.ECS)) == 2


def test_the_shape_of_every_folder() -> None:
    for folder in (folder for folder in SIDECAR.iterdir() if folder.is_dir()):
        assert (folder / "README.md").is_file(), f"{folder.name} has no README"
        listed = (SIDECAR / "README.md").read_text()
        assert f"({folder.name}/" in listed, f"sidecar/README.md leaves out {folder.name}"


def test_links_lead_somewhere() -> None:
    files = [*SIDECAR.rglob("*.md"), *(ROOT / "config").rglob("*.md")]
    for file in files:
        for link in re.findall(r"\]\(([^)#]+)\)", file.read_text()):
            assert "://" in link or (file.parent / link).exists(), f"{file}: {link}"


# --- Cloud Run ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cloud-run/service.yaml", "cloud-run-multi/service.yaml"])
def test_cloud_run_agrees_with_the_defaults(name: str) -> None:
    template = manifest(name)["spec"]["template"]
    spec = template["spec"]
    containers = {container["name"]: container for container in spec["containers"]}
    ingress = [name for name, container in containers.items() if "ports" in container]
    assert ingress == ["app"], "one container is the ingress"
    assert containers["app"]["ports"][0]["containerPort"] == APP
    assert spec["timeoutSeconds"] >= 300, "tailhop's total is 290 s on Cloud Run"
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for container in containers.values():
        for kind in ("startupProbe", "livenessProbe"):
            if probe := container.get(kind, {}).get("httpGet"):
                assert probe["path"] in PATHS[probe["port"]], f"{container['name']} {kind}"
        startup = container.get("startupProbe", {})
        assert startup.get("periodSeconds", 1) * startup.get("failureThreshold", 1) <= 240
        for mount in container.get("volumeMounts", []):
            assert mount["name"] in volumes
        for variable in container.get("env", []):
            assert variable["name"] != "PORT", "the platform sets it"
    dependencies = json.loads(
        template["metadata"]["annotations"]["run.googleapis.com/container-dependencies"]
    )
    for one, others in dependencies.items():
        assert one in containers and all("startupProbe" in containers[other] for other in others), (
            "a container without a startup probe orders nothing"
        )


def test_tailscaled_and_tailhop_meet_at_one_socket() -> None:
    spec = manifest("cloud-run-multi/service.yaml")["spec"]["template"]["spec"]
    cloud_run = {c["name"]: {v["name"]: v.get("value") for v in c.get("env", [])} for c in spec["containers"]}
    task = manifest("ecs-fargate/task-definition.json")
    ecs = {
        c["name"]: {v["name"]: v["value"] for v in c.get("environment", [])}
        for c in task["containerDefinitions"]
    }
    for containers in (cloud_run, ecs):
        socket = containers["tailhop"]["TAILSCALED_SOCKET"]
        assert socket == containers["tailscale"]["TS_SOCKET"]
        assert len(socket) <= 107
        assert containers["tailscale"]["TS_EXTRA_ARGS"] == "--shields-up"


def test_prometheus_asks_the_admin_listener() -> None:
    (endpoint,) = manifest("cloud-run/prometheus.yaml")["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == (ADMIN, "/metrics")
    secrets = manifest("cloud-run/service.yaml")["spec"]["template"]["spec"]["volumes"]
    paths = [item["path"] for volume in secrets if "secret" in volume for item in volume["secret"]["items"]]
    assert "config.yaml" in paths, "where the collector looks"


def test_gcloudignore_sends_what_the_build_needs() -> None:
    lines = (SIDECAR / "cloud-run/gcloudignore").read_text().splitlines()
    ignored = {line.strip("/") for line in lines if not line.startswith("#")}
    needed = {"Cargo.lock", "Cargo.toml", "src", "tests", "Dockerfile", "sidecar", "config", "*.md"}
    assert not needed & ignored


# --- the others --------------------------------------------------------------------------------


def test_ecs_stops_in_the_order_that_loses_nothing() -> None:
    containers = {
        c["name"]: c for c in manifest("ecs-fargate/task-definition.json")["containerDefinitions"]
    }
    assert containers["app"]["dependsOn"] == [{"containerName": "tailhop", "condition": "HEALTHY"}]
    assert containers["tailhop"]["healthCheck"]["command"][:2] == ["CMD", "/usr/local/bin/tailhop"]
    stops = [containers[name]["stopTimeout"] for name in ("app", "tailhop", "tailscale")]
    assert stops == sorted(stops) and stops[-1] <= 120
    secret = {secret["name"] for secret in containers["tailhop"]["secrets"]}
    needed = set(re.findall(r'env = "(\w+)"', (ROOT / "config/examples/hera.toml").read_text()))
    assert needed <= secret


def test_the_mac_binds_what_the_tailnet_may_reach() -> None:
    ports = manifest("compose/mac.compose.yaml")["services"]["qdrant"]["ports"]
    assert all(port.startswith("${MAC_IP:?") for port in ports), "not open to the room"
    assert {port.rsplit(":", 1)[1] for port in ports} == {"6333", "6334"}
    policy = (SIDECAR / "tailnet-policy/policy.hujson").read_text()
    value = json.loads(re.sub(r",(\s*[\]}])", r"\1", re.sub(r"(?m)^\s*//.*$", "", policy)))
    (grant,) = value["grants"]
    assert grant["src"] == ["tag:tailhop"]
    assert grant["ip"] == ["tcp:11434", "tcp:6333", "tcp:6334"]
    assert set(value["tagOwners"]) == {"tag:tailhop", "tag:models"}
    accepted = {port.rsplit(":", 1)[1] for port in value["tests"][0]["accept"]}
    assert accepted == {"11434", "6333", "6334"}


def test_compose_names_services_volumes_and_files_that_exist() -> None:
    for name in (name for name in MANIFESTS if "compose" in name):
        file = manifest(name)
        for service in file["services"].values():
            for other in [*service.get("depends_on", {}), *re.findall("service:(.*)", service.get("network_mode", ""))]:
                assert other in file["services"], f"{name}: {other}"
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                if source.startswith("."):
                    assert (SIDECAR / "compose" / source).exists(), f"{name}: {source}"
                else:
                    assert source in file["volumes"], f"{name}: {source}"
            if target := service.get("build", {}).get("target"):
                assert f"AS {target}\n" in (ROOT / "Dockerfile").read_text()


def test_render_and_compose_set_what_research_paas_needs() -> None:
    text = (ROOT / "config/examples/research-paas.toml").read_text()
    needed = set(re.findall(r"\$\{(\w+):\?", text)) | set(re.findall(r'env = "(\w+)"', text))
    render = manifest("render/render.yaml")["services"][0]["envVars"]
    compose = manifest("compose/research-paas.compose.yaml")["services"]["tailhop"]["environment"]
    assert needed <= {variable["key"] for variable in render}
    assert needed <= set(compose)


def test_one_version_of_tailscale_everywhere() -> None:
    module = (ROOT / "tests/rig/control/go.mod").read_text()
    version = re.search(r"tailscale\.com (v[0-9.]+)", module)[1]
    assert TAILSCALE == f"docker.io/tailscale/tailscale:{version}", "the image is what is tested"
    for name in ("cloud-run-multi/service.yaml", "ecs-fargate/task-definition.json"):
        assert TAILSCALE in (SIDECAR / name).read_text(), name


@pytest.mark.skipif("TAILHOP_BIN" not in os.environ, reason="TAILHOP_BIN names no tailhop")
def test_the_laptops_routing_is_valid_without_a_warning() -> None:
    check = [os.environ["TAILHOP_BIN"], "check", "--json", str(SIDECAR / "compose/laptop.toml")]
    told = json.loads(subprocess.run(check, capture_output=True, check=True).stdout)
    assert told["problems"] == []


# --- systemd -----------------------------------------------------------------------------------

UNITS = sorted((SIDECAR / "systemd").glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_valid_and_hardened(unit: Path, tmp_path: Path) -> None:
    if subprocess.run(["which", "systemd-analyze"], capture_output=True).returncode:
        assert os.environ.get("TAILHOP_REQUIRE_RIG") != "1", "systemd-analyze is missing"
        pytest.skip("systemd-analyze is missing")
    # Programs that are not on this machine are no fault of the unit.
    there = re.sub(r"(?m)^(Exec\w+=-?)/\S+", r"\1/bin/true", unit.read_text())
    copy = tmp_path / unit.name
    copy.write_text(there)
    verified = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")
    security = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", copy]
    scored = subprocess.run(security, capture_output=True, text=True)
    assert scored.returncode == 0, scored.stdout[-300:]


def test_the_units_agree_on_socket_and_user() -> None:
    unit = (SIDECAR / "systemd/tailscaled-userspace.service").read_text()
    socket = re.search(r"--socket=(\S+)", unit)[1]
    assert socket.startswith("/run/" + re.search("RuntimeDirectory=(.*)", unit)[1])
    assert socket in (SIDECAR / "systemd/README.md").read_text()
    users = {re.search("(?m)^User=(.*)", file.read_text())[1] for file in UNITS}
    assert users == {"tailhop"}, "tailscaled lets its own user repair"
    hop = (SIDECAR / "systemd/tailhop.service").read_text()
    assert "RestartPreventExitStatus=78" in hop and "--config /etc/tailhop/routing.toml" in hop
