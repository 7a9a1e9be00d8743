"""Other gateways, as their wheels are in some environment: found by name, and started as their documents say.

Neither has a database, so neither stores what was spent. TensorZero: the gateway that its Python client embeds, without
observability. LiteLLM: the settings of its documents for production, with a master key and one worker.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.processes import KEEP_ALIVE_S, SCRIPTS, Child, free_port, listens
from bench.targets import LITELLM, PEERS, TENSORZERO, TOKEN, Target, Testbed
from bench.workload import MODEL, ChatApi

REQUIREMENTS = {TENSORZERO: "tensorzero", LITELLM: "litellm[proxy]"}
START_TIMEOUT_S = 180.0
"""LiteLLM's first start compiles its sources."""
QUERY_TIMEOUT_S = 60.0

_TENSORZERO_SERVER = SCRIPTS / "bench" / "tensorzero_server.py"
_TENSORZERO_CONFIG = """\
[gateway]
observability.enabled = false

[models."{model}"]
routing = ["upstream"]

[models."{model}".providers.upstream]
type = "openai"
api_base = "{url}"
model_name = "{model}"
api_key_location = "none"
"""
_LITELLM_ENVIRONMENT = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise it downloads its price list at the start
}


@dataclass(frozen=True, slots=True)
class Peer:
    """An installed peer: the folder of its environment's programs, and its version."""

    kind: str
    programs: Path
    version: str


def find_peers(environments: Sequence[Path]) -> tuple[list[Peer], list[str]]:
    """Returns the peers that the environments have, and a sentence for each peer that none has.

    Without an environment, this process's own and those in PATH are searched.
    """
    folders = [folder / "bin" for folder in environments] or _default_folders()
    found, missing = [], []
    for kind in PEERS:
        peer = next((peer for folder in folders if (peer := _find(kind, folder)) is not None), None)
        if peer is not None:
            found.append(peer)
        else:
            missing.append(
                f"{kind} is not measured: no environment has it. Install it in one of its own:"
                f" uv venv ENV && uv pip install --python ENV/bin/python '{REQUIREMENTS[kind]}'; then --peers ENV"
            )
    return found, missing


async def start_peer(testbed: Testbed, peer: Peer) -> Target:
    """Returns a peer that listens. Raises BenchError if it does not start."""
    return _start_tensorzero(testbed, peer) if peer.kind == TENSORZERO else _start_litellm(testbed, peer)


def _default_folders() -> list[Path]:
    in_path = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    return [Path(sys.executable).parent, *(folder for folder in in_path if (folder / "python").exists())]


def _find(kind: str, programs: Path) -> Peer | None:
    python = programs / "python"
    if not python.exists() or (kind == LITELLM and not (programs / "litellm").exists()):
        return None
    code = f"from importlib.metadata import version; print(version({kind!r}))"
    ran = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, cwd=programs, check=False
    )
    return Peer(kind, programs, ran.stdout.strip()) if ran.returncode == 0 else None


def _start_tensorzero(testbed: Testbed, peer: Peer) -> Target:
    config, url_file = testbed.folder / "tensorzero.toml", testbed.folder / "tensorzero.url"
    config.write_text(_TENSORZERO_CONFIG.format(model=MODEL, url=testbed.upstream_url))
    command = [str(peer.programs / "python"), str(_TENSORZERO_SERVER), str(config), str(url_file)]
    child = _start(testbed, peer, command, {}, url_file.exists)
    url = urlsplit(url_file.read_text())
    assert url.port is not None
    api = ChatApi(f"{url.path}/chat/completions", f"tensorzero::model_name::{MODEL}", is_transparent=False)
    return Target(peer.kind, child, url.port, api=api)


def _start_litellm(testbed: Testbed, peer: Peer) -> Target:
    port = free_port()
    parameters = {"model": f"openai/{MODEL}", "api_key": "bench", "api_base": testbed.upstream_url}
    config = testbed.folder / "litellm.yaml"
    settings = {
        "model_list": [{"model_name": MODEL, "litellm_params": parameters}],
        "general_settings": {"master_key": TOKEN},
        "litellm_settings": {"request_timeout": 600, "set_verbose": False, "json_logs": True},
    }
    config.write_text(json.dumps(settings))  # JSON is YAML
    options = f"--config {config} --host 127.0.0.1 --port {port} --keepalive_timeout {KEEP_ALIVE_S}"
    command = [str(peer.programs / "litellm"), *options.split()]
    child = _start(testbed, peer, command, _LITELLM_ENVIRONMENT, lambda: listens(port))
    return Target(peer.kind, child, port, api=ChatApi(is_transparent=False))


def _start(
    testbed: Testbed, peer: Peer, command: Sequence[str], environment: Mapping[str, str], is_ready: Callable[[], bool]
) -> Child:
    return testbed.start_child(peer.kind, command, dict(environment), is_ready, timeout_s=START_TIMEOUT_S)
