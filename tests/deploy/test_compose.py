"""docker-compose.yml: it agrees with the settings, the command line, and the configuration of what is around."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.deployment import (
    BOOKING_S,
    DEPLOY,
    HEALTH_PATHS,
    ROOT,
    assert_the_cli_accepts,
    create_secrets,
    image_variables,
    read_compose,
    settings_of,
)
from support.prometheus import find_program
from tollkeeper.api.compat.exchange import MAX_BODY_BYTES as MAX_PICTURES_BYTES
from tollkeeper.api.middleware import BODY_TIMEOUT_S, MAX_BODY_BYTES
from tollkeeper.settings import Settings

COMPOSE = read_compose()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("migrate", "api-1", "api-2", "worker")
NODES = ("api-1", "api-2")
NGINX = {path.name: path.read_text() for path in (DEPLOY / "nginx").iterdir()}
POSTGRES_VARIABLES = {"POSTGRES_USER", "POSTGRES_PASSWORD_FILE", "TOLLKEEPER_PASSWORD_FILE"}
each_service = pytest.mark.parametrize("name", SERVICES)


def default_of(setting: str) -> Any:
    return Settings.model_fields[setting].default


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def directive(name: str, text: str = NGINX["tollkeeper.conf"]) -> list[str]:
    """The values of a directive of nginx, in their order."""
    return re.findall(rf"^ *{name} ([^;{{]+);", text, re.MULTILINE)


@pytest.mark.parametrize("name", OURS)
def test_every_variable_of_a_node_is_a_setting(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_secrets(tmp_path)
    ours = {key: value for key, value in image_variables().items() if key.startswith("TOLLKEEPER_")}
    settings = settings_of(ours | SERVICES[name]["environment"], tmp_path, monkeypatch)
    assert settings.workers == (1 if name == "worker" else 2)
    assert settings.jobs == "on"
    assert settings.database_url.startswith("postgresql://tollkeeper:")
    assert settings.signing_secret is not None
    assert settings.data_key is not None
    assert_the_cli_accepts(SERVICES[name]["command"])


def test_every_variable_of_an_image_is_one_of_its_own() -> None:
    assert SERVICES["postgres"]["environment"].keys() == POSTGRES_VARIABLES
    script = (DEPLOY / "compose" / "create_database.sh").read_text()
    assert "TOLLKEEPER_PASSWORD_FILE" in script
    assert all(re.fullmatch(r"GF_[A-Z]+_[A-Z_]+", name) for name in SERVICES["grafana"]["environment"])


def test_secrets_are_created_once_and_are_different(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    first = create_secrets(folder)
    assert create_secrets(folder) == first
    assert folder.stat().st_mode & 0o777 == 0o700
    files = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    assert files | {"settings.env"} == first.keys()
    assert len(set(first.values())) == len(first)
    (folder / "redis-password").unlink()
    assert create_secrets(folder)["data-key"] == first["data-key"]
    ignored = (ROOT / ".gitignore").read_text().split()
    assert any(Path(path["file"]).is_relative_to(name) for path in COMPOSE["secrets"].values() for name in ignored)


@each_service
def test_a_service_has_each_secret_that_it_reads_and_no_other(name: str) -> None:
    service = SERVICES[name]
    read = set(re.findall(r"/run/secrets/([\w-]+)", str(service)))
    assert read == set(service.get("secrets", ()))
    assert read <= COMPOSE["secrets"].keys()


@each_service
def test_a_service_has_no_rights_and_writes_only_to_its_volumes(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name != "nginx":
        assert "ports" not in service
    assert service["networks"]


@each_service
def test_the_image_of_a_service_has_a_version_and_a_health_check(name: str) -> None:
    service = SERVICES[name]
    _, _, tag = service["image"].partition(":")
    assert tag
    assert tag != "latest"
    assert "build" in service or re.search(r"\d", tag), "built here, or pinned"
    if "build" not in service:
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


@each_service
def test_what_a_service_names_exists(name: str) -> None:
    service = SERVICES[name]
    assert set(service["networks"]) <= COMPOSE["networks"].keys()
    assert set(service.get("depends_on", ())) <= SERVICES.keys()
    for volume in service.get("volumes", ()):
        source, _, _ = volume.partition(":")
        assert source in COMPOSE["volumes"] or (ROOT / source).exists(), volume


def test_addresses_and_ports_agree() -> None:
    port, metrics_port = default_of("port"), SERVICES["api-1"]["environment"]["TOLLKEEPER_METRICS_PORT"]
    addresses = {name: SERVICES[name]["networks"]["edge"]["ipv4_address"] for name in (*NODES, "nginx")}
    assert len(set(addresses.values())) == 3
    (network,) = COMPOSE["networks"]["edge"]["ipam"]["config"]
    assert {address.rpartition(".")[0] for address in addresses.values()} == {network["subnet"].rpartition(".")[0]}
    assert SERVICES["nginx"]["extra_hosts"] == [f"{node}:{addresses[node]}" for node in NODES]
    assert {SERVICES[node]["environment"]["TOLLKEEPER_TRUSTED_PROXIES"] for node in NODES} == {addresses["nginx"]}
    assert [value.split()[0] for value in directive("server", NGINX["nginx.conf"])] == [
        f"{one}:{port}" for one in NODES
    ]

    published = [published.rpartition(":")[2] for published in SERVICES["nginx"]["ports"]]
    listened = directive("listen", NGINX["nginx.conf"]) + directive("listen", NGINX["grafana.conf"])
    assert published == listened
    (path,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\S+)", str(SERVICES["nginx"]["healthcheck"]["test"][-1]))
    assert path == (listened[0], "/health/live")
    assert path[1] in HEALTH_PATHS

    prometheus = yaml.safe_load((DEPLOY / "compose" / "prometheus.yml").read_text())
    (scraped,) = prometheus["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": [f"{node}:{metrics_port}" for node in NODES]}]
    (found,) = scraped["dns_sd_configs"]
    assert (found["names"], found["port"]) == (["worker"], int(metrics_port))
    assert f":{metrics_port}/metrics" in SERVICES["worker"]["healthcheck"]["test"][-1]
    mounted = [volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]]
    assert set(prometheus["rule_files"]) <= set(mounted)
    (source,) = yaml.safe_load((DEPLOY / "compose" / "grafana-datasource.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"


def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    configuration = (DEPLOY / "compose" / "prometheus.yml").read_text()
    for volume in SERVICES["prometheus"]["volumes"]:
        source, target, *_ = volume.split(":")
        configuration = configuration.replace(f"- {target}\n", f"- {(ROOT / source).resolve()}\n")
    (tmp_path / "prometheus.yml").write_text(configuration)
    checked = subprocess.run(
        [find_program("promtool"), "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "1 rule files found" in checked.stdout + checked.stderr


def test_a_node_has_longer_to_stop_than_its_calls() -> None:
    for node in (*NODES, "worker"):
        stopping = float(SERVICES[node]["environment"]["TOLLKEEPER_DRAIN_SECONDS"]) + default_of("grace_seconds")
        assert seconds(SERVICES[node]["stop_grace_period"]) >= stopping + BOOKING_S


def test_limits_of_nginx_are_those_of_the_server() -> None:
    assert directive("client_max_body_size") == [f"{size // 1024**2}m" for size in (MAX_BODY_BYTES, MAX_PICTURES_BYTES)]
    assert directive("client_header_timeout") == [f"{default_of('head_seconds'):.0f}s"]
    assert directive("client_body_timeout") == [f"{BODY_TIMEOUT_S:.0f}s"]
    assert directive("limit_conn") == [f"addresses {default_of('max_connections_per_address')}"]
    (buffers,) = directive("large_client_header_buffers")
    assert int(buffers.split()[1].removesuffix("k")) * 1024 >= default_of("max_head_bytes")


def test_nginx_waits_longer_than_the_server_and_keeps_connections_shorter() -> None:
    (read,) = directive("proxy_read_timeout")
    assert seconds(read) > max(default_of("timeout_seconds"), default_of("stream_total_seconds"))
    assert seconds(directive("keepalive_timeout", NGINX["nginx.conf"])[0]) < default_of("idle_seconds")


def test_nginx_buffers_nothing_and_sends_no_post_twice() -> None:
    assert directive("proxy_buffering") == directive("proxy_request_buffering") == ["off"]
    assert directive("proxy_next_upstream") == ["error timeout"]
    assert "X-Forwarded-For $remote_addr" in directive("proxy_set_header")
