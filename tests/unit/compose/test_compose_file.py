"""compose.yaml and the Containerfile keep their promises: loopback, read-only, no root but the capper, no secret."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.cli.known_names import known_names
from agents.cli.main import VERBS
from streams.jobs.registry import JOBS

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "compose"
FILE: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"].startswith("energy-orchestrator/"))
CONTAINERFILE = (COMPOSE / "Containerfile").read_text()


def env(service: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in service.get("environment", {}).items()}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_read_only_without_rights_and_published_on_loopback_only(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "pid", "ipc", "devices"} & service.keys()
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert service["restart"] in ("unless-stopped", "no")
    mounts = [str(volume).split(":") for volume in service.get("volumes", [])]
    assert not [m for m in mounts if m[0] in ("/", "/var/run/docker.sock")]
    assert all(m[-1] == "ro" for m in mounts if m[0].startswith(("/", "./", "../", "${")))


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_nobody_is_root_but_the_capper_and_it_has_two_capabilities_and_no_network(name: str) -> None:
    service = SERVICES[name]
    user = service["user"].split(":")[0]
    if name == "capper":
        assert (user, service["cap_add"], service["network_mode"]) == ("0", ["SYS_ADMIN", "CHOWN"], "none")
        assert env(service)["EO_CAPPER_OPT_IN"] == "${EO_CAPPER_OPT_IN:-0}"
    else:
        assert int(user) > 0 and "cap_add" not in service and "network_mode" not in service


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_images_are_pinned_by_a_version(name: str) -> None:
    tag = SERVICES[name]["image"].rsplit(":", 1)[-1]
    assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), tag


def test_kafkas_image_is_the_version_that_the_tests_run_on() -> None:
    pom = (COMPOSE / "broker" / "pom.xml").read_text()
    version = re.search(r"<artifactId>kafka_2.13</artifactId>\s*<version>([^<]+)", pom)
    assert version is not None and SERVICES["kafka"]["image"].endswith(f":{version[1]}")


def test_every_job_has_a_service_and_is_scraped_where_it_listens() -> None:
    jobs = {
        service["command"][2]: name
        for name, service in SERVICES.items()
        if service.get("command", [])[:2] == ["eo", "worker"]
    }
    assert set(jobs) == set(JOBS), "a job needs a service of its own in compose.yaml and a target in prometheus.yml"
    config = yaml.safe_load((COMPOSE / "prometheus" / "prometheus.yml").read_text())
    targets = {
        target: block["labels"]["eo_role"]
        for job in config["scrape_configs"]
        for block in job.get("static_configs", [])
        for target in block["targets"]
    }
    port = env(SERVICES["worker-features"])["EO_METRICS_PORT"]
    expected = {f"{name}:{port}": f"worker:{job}" for job, name in jobs.items()}
    expected |= {f"fleet:{env(SERVICES['fleet'])['EO_METRICS_PORT']}": "fleet", f"gateway:{port}": "gateway"}
    assert targets == expected
    assert "EO_GATEWAY_OPEN_DEMO" not in env(SERVICES["gateway"])  # a key is needed


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_verbs_that_exist_with_settings_that_exist(name: str) -> None:
    command = SERVICES[name].get("command", [])
    verbs = re.findall(r"\beo ([a-z]+)", " ".join(command))
    assert set(verbs) <= set(VERBS)
    names = {key for key in env(SERVICES[name]) if key.startswith("EO_")}
    assert names <= known_names(), names - known_names()


def test_nothing_acts_on_a_device_by_default_and_nothing_secret_is_written_down() -> None:
    assert env(SERVICES["worker-actuation"])["EO_MODE"] == "${EO_MODE:-observe}"
    assert env(SERVICES["capper"])["EO_CAPPER_MAX_MODE"] == "${EO_CAPPER_MAX_MODE:-observe}"
    for service in SERVICES.values():
        secret = {k: v for k, v in env(service).items() if re.search("PASSWORD|SECRET|TOKEN|API_KEY", k)}
        assert all(k.endswith("__FILE") and v.startswith("/run/secrets/") for k, v in secret.items()), secret
    assert all(str(value["file"]).startswith("../secrets/") for value in FILE["secrets"].values())
    assert "secrets/" in (ROOT / ".gitignore").read_text().split()


def test_what_is_mounted_and_depended_on_exists() -> None:
    for service in SERVICES.values():
        for volume in map(str, service.get("volumes", [])):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (COMPOSE / source).exists(), volume
            elif re.fullmatch(r"[a-z]+", source):
                assert source in FILE["volumes"]
        assert set(service.get("depends_on", {})) <= set(SERVICES)


# --- the Containerfile ---


def stages() -> dict[str, list[str]]:
    """stage -> its lines."""
    found: dict[str, list[str]] = {}
    for line in CONTAINERFILE.splitlines():
        if line.startswith("FROM "):
            current = found[line.split(" AS ")[1]] = [line]
        elif found:
            current.append(line)
    return found


def test_there_is_a_target_for_every_process_of_ours() -> None:
    targets = {SERVICES[name]["build"]["target"] for name in OURS if "build" in SERVICES[name]}
    assert targets <= set(stages()) and {"agent", "capper", "worker", "fleet"} <= targets
    assert "gateway" in stages()


def test_final_stages_name_their_user_and_only_the_cappers_is_root() -> None:
    for name in ("agent", "capper", "worker", "fleet", "gateway"):
        users = [line.split()[1] for line in stages()[name] if line.startswith("USER ")]
        assert users and (users[-1].split(":")[0] == "0") == (name == "capper")


def test_the_base_is_pinned_installs_are_hashed_and_nothing_is_fetched_by_hand() -> None:
    bases = {line.split()[1] for lines in stages().values() for line in lines if line.startswith("FROM ")}
    assert {base for base in bases if "/" in base} == {"docker.io/library/python:3.11.13-slim-bookworm"}
    installs = re.findall(r"pip install[^\\&]*", CONTAINERFILE)
    assert installs and all("--require-hashes" in one or "/wheel/" in one for one in installs)
    assert not re.search(r"\b(curl|wget|ADD|sudo|:latest|chmod 777|apt-get upgrade)\b", CONTAINERFILE)
    assert not re.search(r"(?i)(password|secret|token|api_key)\s*=", CONTAINERFILE)


def test_what_is_copied_exists_and_the_context_is_an_allow_list() -> None:
    ignore = (COMPOSE / "Containerfile.dockerignore").read_text().splitlines()
    assert "*" in ignore
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    for line in CONTAINERFILE.splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists() and source.split("/")[0] in allowed, source


# --- the six libraries of agent and capper ---


def light(*names: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(COMPOSE / "light_lock.py"), str(ROOT / "requirements.lock"), *names]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def test_the_light_lock_is_a_part_of_the_whole_one_with_its_hashes() -> None:
    done = light()
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    lock = (ROOT / "requirements.lock").read_text()
    assert all(line.rstrip(" \\") in lock for line in lines)
    names = [line.split("==")[0] for line in lines if "==" in line]
    assert names == ["msgspec", "confluent-kafka", "nvidia-ml-py", "pynacl", "cffi", "pycparser", "prometheus-client"]
    assert done.stdout.count("--hash=sha256:") > len(names)
    assert not [line for line in lines if line.endswith("\\") and line is lines[-1]]


def test_a_name_that_is_not_pinned_is_refused() -> None:
    done = light("numpy", "no-such-package")
    assert done.returncode == 1 and "does not pin no-such-package" in done.stderr


def test_agent_and_capper_run_with_nothing_but_the_light_lock(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "light = {'msgspec', 'confluent_kafka', 'pynvml', 'nacl', 'cffi', 'pycparser', 'prometheus_client'}\n"
        "ours = {'agents', 'streams', 'models'}\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        top = name.split('.')[0]\n"
        "        if top not in sys.stdlib_module_names | light | ours and not top.startswith('_'):\n"
        "            raise ImportError(f'{name} is not in the light image')\n"
        "sys.meta_path.insert(0, Block())\n"
        "from agents.cli.main import main\n"
        "import agents.capper.run, agents.capper.actuators.make\n"
        "sys.exit(main(['agent', '--once', '--source', 'procfs', '--json']))\n"
    )
    environment = {"EO_DATA_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", "EO_NODE_METRICS_PORT": "-1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert '"source": [' in done.stdout
