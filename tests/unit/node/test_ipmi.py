"""IPMI through ipmitool: recorded outputs of each shape, odd bytes, a stand-in program, OpenIPMI's simulator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.cli.base import DONE, FAILED, USAGE
from agents.cli.main import main
from agents.node.errors import SettingsError, SourceError
from agents.node.sources import ipmi_text, sound
from agents.node.sources.base import Reading
from agents.node.sources.ipmi import IpmiSource
from agents.node.sources.rows import of_domains, of_sensors
from tests.fakes import ipmi as fake
from tests.peers import require_peer

DATA = Path(__file__).parents[2] / "data" / "ipmi"


def rows(reading: Reading) -> dict[str, dict[str, Any]]:
    assert sound.problem(reading) is None
    return {row["name"]: row for row in of_domains(reading.domains)}


def values(reading: Reading) -> dict[str, tuple[float | None, str]]:
    return {row["name"]: (row["value"], row["unit"]) for row in of_sensors(reading.sensors)}


# --- recordings ------------------------------------------------------------------------------------------------------


def test_a_dcmi_power_reading(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", "ipmi", "--file", str(DATA / "dcmi.txt"), "--json"]) == DONE
    out = json.loads(capsys.readouterr().out)
    got = [(row["name"], row["kind"], row["power_w"], row["source"], row["parent"]) for row in out["domains"]]
    assert got == [("dcmi", "chassis", 344.0, "ipmi", None)]
    assert "sensors" not in out["missing"]


def test_a_sensor_list_as_commas() -> None:
    reading = IpmiSource(file=DATA / "sdr.csv").read(1)
    assert {name: (row["kind"], row["power_w"], row["parent"]) for name, row in rows(reading).items()} == {
        "Sys Power": ("chassis", 410.0, None),
        "PSU1 Power In": ("supply", 212.0, "Sys Power"),
        "PSU2 Power In": ("supply", 204.0, "Sys Power"),
        "CPU Power": ("cpu_package", 118.0, "Sys Power"),
        "Memory Power": ("dram", 22.0, "Sys Power"),
    }
    assert values(reading) == {
        "Inlet Temp": (23.0, "c"),
        "CPU1 Temp": (48.0, "c"),
        "FAN1": (5600.0, "rpm"),
        "P12V": (12.12, "v"),
    }


def test_a_sensor_list_with_bars() -> None:
    reading = IpmiSource(file=DATA / "sdr.txt").read(1)
    assert {name: (row["kind"], row["power_w"]) for name, row in rows(reading).items()} == {
        "Pwr Consumption": ("chassis", 182.0)
    }
    assert values(reading)["Fan1 RPM"] == (4200.0, "rpm")
    assert values(reading)["Current 1"] == (0.8, "a")


def test_a_sensor_table_with_thresholds() -> None:
    reading = IpmiSource(file=DATA / "sensor.txt").read(1)
    assert rows(reading)["PW Consumption"]["power_w"] == 296.0
    assert values(reading) == {"CPU Temp": (52.0, "c"), "FANA": (None, "rpm"), "12V": (11.937, "v")}


def test_reading_and_list_in_one_file(tmp_path: Path) -> None:
    both = tmp_path / "both.txt"
    both.write_text(
        (DATA / "dcmi.txt").read_text() + (DATA / "dcmi_limit.txt").read_text() + (DATA / "sdr.csv").read_text()
    )
    got = rows(IpmiSource(file=both).read(1))
    assert (got["dcmi"]["power_w"], got["dcmi"]["limit_w"], got["dcmi"]["parent"]) == (344.0, 450.0, None)
    assert got["Sys Power"]["parent"] == "dcmi"  # the same watts: told, not counted twice


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("activated", "deactivated"), "DCMI's power measurement is deactivated"),
        (("344", "0"), None),
    ],
)
def test_a_measurement_that_is_off_is_unknown(tmp_path: Path, change: tuple[str, str], why: str | None) -> None:
    path = tmp_path / "dcmi.txt"
    path.write_text((DATA / "dcmi.txt").read_text().replace(*change))
    reading = IpmiSource(file=path).read(1)
    assert rows(reading)["dcmi"]["power_w"] == (None if why else 0.0)
    if why:
        assert dict(reading.missing)["domains[dcmi].power_w"] == why


def test_a_bmc_that_answers_noughts_does_not_measure() -> None:
    text = (DATA / "dcmi.txt").read_text().replace("344", "0").replace("338", "0")
    assert ipmi_text.dcmi(text) == ipmi_text.Dcmi(None, "DCMI reads 0 W now and on average: this BMC does not measure")


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ((DATA / "dcmi_limit.txt").read_text(), 450.0),
        ((DATA / "dcmi_limit.txt").read_text().replace("Power Limit Active", "No Active Limit"), None),
        ("Power Limit: 450 Watts", None),
        ("", None),
    ],
)
def test_a_limit_counts_only_while_it_is_active(text: str, limit: float | None) -> None:
    assert ipmi_text.limit_w(text) == limit


# --- bad input -------------------------------------------------------------------------------------------------------


def test_odd_bytes_and_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    lines = [b"Fan\xff1,4000,RPM,ok", b"\x00\x01\x02", b"no comma here", b"Sys Power,1e999,Watts,ok", b",5,Watts,ok"]
    path.write_bytes(b"\n".join(lines))
    reading = IpmiSource(file=path).read(1)
    assert values(reading) == {"Fan1": (4000.0, "rpm")}
    assert rows(reading)["Sys Power"]["power_w"] is None
    assert dict(reading.missing)["sensors"] == "3 lines of ipmitool's output are no sensors and were left out"


@pytest.mark.parametrize(("watts", "known"), [("-3", False), ("5000000", False), ("410.5", True), ("NaN", False)])
def test_powers_that_cannot_be_are_unknown(tmp_path: Path, watts: str, known: bool) -> None:
    path = tmp_path / "one.csv"
    path.write_text(f"Sys Power,{watts},Watts,ok\n")
    row = rows(IpmiSource(file=path).read(1))["Sys Power"]
    assert (row["power_w"] is not None) is known


@pytest.mark.parametrize("raw", [b"", b"\xff" * 100, b"<html></html>", b"a" * 1_000_001])
def test_a_file_that_is_none_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], raw: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(raw)
    assert main(["read", "ipmi", "--file", str(path)]) == FAILED
    error = capsys.readouterr().err
    assert "is neither ipmitool's power reading nor a sensor list" in error or "is longer than 1000000 bytes" in error


def test_no_file_and_no_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", "ipmi", "--file", "/nowhere"]) == FAILED
    assert "/nowhere is no file; record one by `ipmitool -c sdr list > FILE`" in capsys.readouterr().err
    for url in ("ftp://x", "lan://u:p@x", "lanplus://[", "lan://"):
        assert main(["read", "ipmi", "--url", url]) == USAGE
        assert "is no address of a BMC; give lanplus://HOST, without credentials" in capsys.readouterr().err
    with pytest.raises(SettingsError, match="ipmi_password_file /nowhere is no file"):
        IpmiSource("lan://x", password_file="/nowhere")


# --- a program in its place ------------------------------------------------------------------------------------------


def program(folder: Path, body: str) -> str:
    path = folder / "ipmitool"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_dcmi_comes_first_with_its_limit_and_the_sensors_below_it(tmp_path: Path) -> None:
    body = f"""case "$*" in
      "dcmi power reading") cat {DATA}/dcmi.txt;;
      "dcmi power get_limit") cat {DATA}/dcmi_limit.txt;;
      "-c sdr list") cat {DATA}/sdr.csv;;
    esac"""
    got = rows(IpmiSource(tool=program(tmp_path, body)).read(1))
    assert (got["dcmi"]["power_w"], got["dcmi"]["limit_w"]) == (344.0, 450.0)
    assert got["Sys Power"]["parent"] == "dcmi"


def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    source = IpmiSource(tool=program(tmp_path, "sleep 60"), deadline_s=0.2)
    with pytest.raises(SourceError, match=r"took longer than 0\.2 s and was ended; is the device stuck\?"):
        source.read(1)


def test_a_program_that_only_fails_says_why(tmp_path: Path) -> None:
    source = IpmiSource(tool=program(tmp_path, "echo 'Could not open device at /dev/ipmi0' >&2; exit 1"))
    with pytest.raises(SourceError) as caught:
        source.read(1)
    assert str(caught.value) == (
        "ipmitool gives neither power nor sensors: Could not open device at /dev/ipmi0; "
        f"try `{tmp_path}/ipmitool sdr list`"
    )


def test_no_program_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not installed here"):
        IpmiSource(tool=str(tmp_path / "none")).read(1)


# --- the simulator ---------------------------------------------------------------------------------------------------


def test_openipmis_simulator_answers_c1_and_its_sensors_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = require_peer("ipmitool")
    with fake.simulated(require_peer("ipmi_sim"), tool, tmp_path) as (url, secret):
        monkeypatch.setenv("EO_NODE_IPMI_USER", fake.USER)
        monkeypatch.setenv("EO_NODE_IPMI_PASSWORD_FILE", str(secret))
        assert main(["read", "ipmi", "--url", url, "--json"]) == DONE
        out = json.loads(capsys.readouterr().out)
        source = IpmiSource(url, user=fake.USER, password_file=str(secret))
        twice = [rows(source.read(n))["Pwr Consumption"]["power_w"] for n in range(2)]
    assert [(row["name"], row["kind"], row["power_w"]) for row in out["domains"]] == [
        ("Pwr Consumption", "chassis", 210.0)
    ]
    assert [(row["name"], row["value"], row["unit"]) for row in out["sensors"]] == [
        ("Inlet Temp", 24.0, "c"),
        ("Fan1", 6000.0, "rpm"),
    ]
    assert out["missing"]["domains[dcmi]"] == (
        "this BMC has no DCMI power reading (DCMI request failed because: Invalid command (c1)); "
        "its sensors are read instead"
    )
    assert twice == [210.0, 210.0]
