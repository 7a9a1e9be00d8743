"""The bench finds peers by the name of their package, and calls them as they are configured."""

import json
from pathlib import Path
from typing import cast

import pytest

from bench import targets, upstream
from bench.peers import Peer, find_peers, start_peer
from bench.processes import Child
from bench.targets import LITELLM, TENSORZERO, TOKEN, Target
from bench.workload import ChatApi, Workload

pytestmark = pytest.mark.exhaustive

PAGE_STREAM = "".join(f'data: {{"content": "{text}"}}\n\n' for text in upstream.STREAMED_TEXTS) + "data: [DONE]\n\n"


def environment(folder: Path, package: str, version: str) -> Path:
    """An environment that has one package, whose version its interpreter prints."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    python = programs / "python"
    python.write_text(f'#!/bin/sh\ncase "$2" in *"\'{package}\'"*) echo {version};; *) exit 1;; esac\n')
    python.chmod(0o755)
    if package == LITELLM:
        (programs / "litellm").touch()
    return folder


def test_a_peer_is_found_with_its_version_in_the_first_environment_that_has_it(tmp_path: Path) -> None:
    one = environment(tmp_path / "one", "tensorzero", "1.2")
    two = environment(tmp_path / "two", "litellm", "3.4")
    three = environment(tmp_path / "three", "litellm", "5.6")
    found, missing = find_peers([one, two, three])
    assert found == [Peer(TENSORZERO, one / "bin", "1.2"), Peer(LITELLM, two / "bin", "3.4")]
    assert missing == []


def test_a_peer_that_is_not_there_is_named_with_what_to_install(tmp_path: Path) -> None:
    found, missing = find_peers([environment(tmp_path / "one", "tensorzero", "1.2"), tmp_path / "absent"])
    assert [peer.kind for peer in found] == [TENSORZERO]
    (sentence,) = missing
    assert sentence.startswith("litellm is not measured: ")
    assert "'litellm[proxy]'" in sentence


def test_litellm_without_its_program_is_not_there(tmp_path: Path) -> None:
    folder = environment(tmp_path / "one", "litellm", "3.4")
    (folder / "bin" / "litellm").unlink()
    assert [peer.kind for peer in find_peers([folder])[0]] == []


class RecordingTestbed:
    """Starts nothing, and keeps what would be started."""

    upstream_url = "http://127.0.0.1:1/v1"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command: list[str] = []
        self.environment: dict[str, str] = {}

    def start_child(
        self, _name: str, command: list[str], environment: dict[str, str], *_: object, **_options: object
    ) -> None:
        self.command, self.environment = command, environment


async def test_litellm_is_started_for_production_without_a_database(tmp_path: Path) -> None:
    testbed = RecordingTestbed(tmp_path)
    target = await start_peer(cast(targets.Testbed, testbed), Peer(LITELLM, tmp_path / "bin", "1"))
    assert testbed.command[0] == str(tmp_path / "bin" / "litellm")
    assert testbed.command[testbed.command.index("--port") + 1] == str(target.port)
    assert testbed.environment["LITELLM_MODE"] == "PRODUCTION"
    settings = json.loads((tmp_path / "litellm.yaml").read_text())
    assert settings["general_settings"] == {"master_key": TOKEN}
    assert settings["model_list"][0]["litellm_params"]["api_base"] == testbed.upstream_url


async def test_the_port_of_tensorzero_is_the_one_that_it_chose(tmp_path: Path) -> None:
    (tmp_path / "tensorzero.url").write_text("http://127.0.0.1:12345/openai/v1")
    testbed = RecordingTestbed(tmp_path)
    target = await start_peer(cast(targets.Testbed, testbed), Peer(TENSORZERO, tmp_path / "bin", "1"))
    assert (target.port, target.api.path) == (12345, "/openai/v1/chat/completions")
    assert testbed.command[0] == str(tmp_path / "bin" / "python")
    assert 'api_base = "http://127.0.0.1:1/v1"' in (tmp_path / "tensorzero.toml").read_text()


def test_a_peer_has_no_native_workloads_and_its_text_is_checked_instead_of_its_bytes() -> None:
    peer = Target(LITELLM, cast(Child, None), 0, api=ChatApi(is_transparent=False))
    assert [workload for workload in Workload if peer.has(workload)] == ["chat", "streams", "bursts"]
    (request,) = peer.make_requests(Workload.STREAMS)
    assert request.accepts(PAGE_STREAM.encode())
    assert not request.accepts(PAGE_STREAM.replace(" toll07", "").encode())
    assert f"Bearer {TOKEN}".encode() in request.request
