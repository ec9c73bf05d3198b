"""The Redfish source against a fake BMC with named faults: sessions, ETags, TLS, deadlines, the circuit breaker."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.cli.base import DONE, FAILED, USAGE
from agents.cli.main import main
from agents.node.bmc.poller import Access, BmcPoller, Breaker
from agents.node.bmc.session import Credentials
from agents.node.errors import SettingsError, SourceError
from agents.node.sources.redfish import RedfishSource
from agents.node.sources.rows import of_domains, of_sensors
from tests.fakes.bmc.logic import PASSWORD, USER, FakeBmc
from tests.fakes.bmc.model import Machine, Recorded
from tests.fakes.bmc.server import BmcServers, certificate

DATA = Path(__file__).parents[2] / "data" / "redfish"


@pytest.fixture
def servers() -> Iterator[BmcServers]:
    with BmcServers(delay_s=0.2) as made:
        yield made


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    return path


@pytest.fixture
def bmc() -> FakeBmc:
    return FakeBmc()


class Reader:
    """A source with its BMC, closed at the end."""

    def __init__(self, url: str, secret: Path, **options: Any) -> None:
        self.source = RedfishSource(url, user=USER, password_file=str(secret), **options)

    def __enter__(self) -> RedfishSource:
        return self.source

    def __exit__(self, *_: object) -> None:
        self.source.close()


def test_a_bmc_reads_and_its_session_is_closed(servers: BmcServers, bmc: FakeBmc, secret: Path) -> None:
    with Reader(servers.add(bmc), secret) as source:
        reading = source.read(7)
        assert [(r["name"], r["kind"], r["power_w"], r["limit_w"]) for r in of_domains(reading.domains)] == [
            ("1", "chassis", 900.0, 3000.0),
            ("GPU_1", "gpu", 250.0, 700.0),
            ("GPU_2", "gpu", 250.0, 700.0),
            ("1/PSU0", "supply", 450.0, None),
            ("1/PSU1", "supply", 450.0, None),
        ]
        assert (source.state, reading.ts_ns, len(bmc.sessions)) == ({"1": "On"}, 7, 1)
    assert (len(bmc.sessions), bmc.sessions_opened) == (0, 1)


def test_eo_read_from_a_url(
    servers: BmcServers,
    bmc: FakeBmc,
    secret: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EO_NODE_REDFISH_USER", USER)
    monkeypatch.setenv("EO_NODE_REDFISH_PASSWORD_FILE", str(secret))
    assert main(["read", "redfish", "--url", servers.add(bmc), "--json"]) == DONE
    out = json.loads(capsys.readouterr().out)
    assert out["domains"][0]["power_w"] == 900.0
    assert len(bmc.sessions) == 0


@pytest.mark.parametrize("fault", ["", "rewritten"])
@pytest.mark.parametrize("below", ["", "/", "/redfish/v1", "/redfish/v1/"])
def test_a_path_in_the_url_is_a_gateways_and_is_kept(
    servers: BmcServers, bmc: FakeBmc, secret: Path, fault: str, below: str
) -> None:
    bmc.prefix, bmc.faults = "/bmc/node-17", {fault} - {""}
    with Reader(f"{servers.add(bmc)}/bmc/node-17{below}", secret) as source:
        for ts_ns in (1, 2):
            rows = {row["name"]: row for row in of_domains(source.read(ts_ns).domains)}
            assert (rows["1"]["power_w"], rows["GPU_1"]["power_w"]) == (900.0, 250.0)
    assert len(bmc.sessions) == 0


def test_the_services_own_path_in_the_url_is_no_gateway(servers: BmcServers, bmc: FakeBmc, secret: Path) -> None:
    with Reader(f"{servers.add(bmc)}/redfish/v1/", secret) as source:
        assert source.read(1).domains is not None


@pytest.mark.parametrize(
    "tail", ["/redfish/v1/Chassis/1", "/redfish/v2", "/a/../b", "/x?y=1", "/a b", "/redfish/v1#/x", "//evil/redfish"]
)
def test_a_url_of_something_in_a_bmc_is_refused(tail: str) -> None:
    with pytest.raises(SettingsError, match="names more than a BMC; give https://HOST, or https://GATEWAY/PATH"):
        RedfishSource(f"https://bmc-17{tail}")


def test_the_second_poll_asks_only_for_what_gave_something_and_by_etag(
    servers: BmcServers, bmc: FakeBmc, secret: Path
) -> None:
    with Reader(servers.add(bmc), secret) as source:
        source.read(1)
        first = len(bmc.requests)
        bmc.machine.gpu_w = 333.0
        reading = source.read(2)
        rows = {row["name"]: row for row in of_domains(reading.domains)}
        assert (rows["GPU_1"]["power_w"], rows["1"]["power_w"]) == (333.0, 900.0)
        assert len(bmc.requests) - first < first / 2
        assert bmc.not_modified > 0


def test_power_state_changes_are_told(
    servers: BmcServers, bmc: FakeBmc, secret: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = servers.add(bmc)
    with Reader(url, secret) as source:
        source.read(1)
        bmc.machine.power_state = "Off"
        with caplog.at_level(logging.WARNING):
            source.read(2)
        assert source.events == (("1", None, "On"), ("1", "On", "Off"))
    assert f"BMC {url}: system 1 went from On to Off" in caplog.text


def test_an_expired_session_is_renewed(servers: BmcServers, bmc: FakeBmc, secret: Path) -> None:
    with Reader(servers.add(bmc), secret) as source:
        source.read(1)
        bmc.faults.add("expire_once")
        assert source.read(2).domains is not None
    assert (bmc.sessions_opened, len(bmc.sessions)) == (2, 0)


@pytest.mark.parametrize("fault", ["no_sessions", "full"])
def test_without_a_session_it_goes_on_by_basic_authentication(servers: BmcServers, secret: Path, fault: str) -> None:
    bmc = FakeBmc(session_limit=0 if fault == "full" else 4, faults={fault})
    with Reader(servers.add(bmc), secret) as source:
        assert source.read(1).domains is not None
    assert bmc.sessions_opened == 0


def test_a_wrong_password_is_one_sentence_without_the_password(
    servers: BmcServers, bmc: FakeBmc, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("hunter-2-canary")
    with Reader(servers.add(bmc), wrong) as source, pytest.raises(SourceError) as caught:
        source.read(1)
    text = str(caught.value)
    assert text.endswith(f"does not log user '{USER}' in (401); check redfish_user and redfish_password_file")
    assert "canary" not in text + repr(source.__dict__)


def test_no_credentials_where_they_are_needed(servers: BmcServers, bmc: FakeBmc) -> None:
    source = RedfishSource(servers.add(bmc))
    with pytest.raises(SourceError, match=r"refuses a reading without credentials \(401 for .*\); give redfish_user"):
        source.read(1)
    source.close()


def test_a_recorded_dgx_reads_the_same_over_the_network(servers: BmcServers) -> None:
    folder = DATA / "nvidia_dgx_h100"
    bmc = FakeBmc(machine=Recorded(folder=folder / "redfish/v1"), auth=False)
    bmc.machine.documents()["/redfish/v1"]["ProtocolFeaturesSupported"] = {}  # a recording cannot expand
    source, tree = RedfishSource(servers.add(bmc), deadline_s=60.0), RedfishSource(root=folder)
    first, again, recorded = source.read(1), source.read(2), tree.read(3)
    assert first.domains == again.domains == recorded.domains
    assert first.sensors == again.sensors == recorded.sensors
    assert source.state == {"DGX": "On", "HGX_Baseboard_0": "On"}
    source.close()


# --- odd answers -----------------------------------------------------------------------------------------------------

ODD = {
    "error_5xx": r"/redfish/v1 answered 500",
    "no_json": r"/redfish/v1 is not JSON",
    "huge": r"/redfish/v1 is \d+ bytes long, above 8388608, and is not read",
    "deep": r"/redfish/v1 is (nested too deeply|not JSON)",
    "redirect": r"/redfish/v1 redirects away \(link to another host, '203.0.113.7', is not followed\)",
    "not_http": r"the answer is no HTTP \('SSH-2.0-OpenSSH_9.2'\)",
    "close": r"broke off the answer to /redfish/v1 \(closed after \d+ bytes\)",
    "hang": r"/redfish/v1 gave no whole answer in 0.3 s",
    "drip": r"/redfish/v1 gave no whole answer in 0.3 s",
}


NEVER_ENDS = {"hang", "drip"}


@pytest.mark.parametrize("fault", ODD)
def test_each_odd_answer_has_its_sentence(servers: BmcServers, secret: Path, fault: str) -> None:
    with (
        # Only what never ends runs into the deadline; the others have as long as a busy machine may need.
        Reader(servers.add(FakeBmc(faults={fault})), secret, deadline_s=0.3 if fault in NEVER_ENDS else 30) as source,
        pytest.raises(SourceError, match=ODD[fault]),
    ):
        source.read(1)


def test_half_of_each_document_is_no_document(servers: BmcServers, secret: Path) -> None:
    bmc = FakeBmc(faults={"half_json"})
    with Reader(servers.add(bmc), secret) as source:
        reading = source.read(1)
        assert reading.domains is None
        assert "is not JSON" in str(reading.missing)
    assert len(bmc.sessions) == 0


def test_a_bmc_that_turns_bad_is_no_reading_and_comes_back(servers: BmcServers, bmc: FakeBmc, secret: Path) -> None:
    with Reader(servers.add(bmc), secret, deadline_s=2.0) as source:
        source.read(1)
        bmc.faults.add("hang")
        with pytest.raises(SourceError):
            source.read(2)
        bmc.faults.clear()
        assert source.read(3).domains is not None
    assert len(bmc.sessions) == 0


def test_one_document_that_fails_loses_its_values_only(servers: BmcServers, bmc: FakeBmc, secret: Path) -> None:
    with Reader(servers.add(bmc), secret) as source:
        source.read(1)
        at = "/redfish/v1/Systems/1/Processors/GPU_1/EnvironmentMetrics"
        bmc.overrides[at] = {"PowerWatts": {"Reading": None}}
        rows = {row["name"]: row["power_w"] for row in of_domains(source.read(2).domains)}
        assert (rows["GPU_1"], rows["GPU_2"]) == (None, 250.0)


def test_expanded_collections_are_asked_once(servers: BmcServers, bmc: FakeBmc, secret: Path) -> None:
    """A BMC that says it can expand but does not still reads, link by link."""
    bmc.overrides["/redfish/v1"] = {"ProtocolFeaturesSupported": {"ExpandQuery": {"NoLinks": True}}}
    inlet = bmc.documents()["/redfish/v1/Chassis/1/Sensors/Inlet"]
    bmc.overrides["/redfish/v1/Chassis/1/Sensors"] = {"Members": [inlet]}
    with Reader(servers.add(bmc), secret) as source:
        reading = source.read(1)
        assert reading.sensors is not None and "1/Inlet" in reading.sensors.name
        assert reading.domains is not None and "GPU_2" in reading.domains.name
        paths = [path for _, path in bmc.requests]
        assert "/redfish/v1/Chassis/1/Sensors/Inlet" not in paths
        assert "/redfish/v1/Chassis/1/Sensors?$expand=." in paths
        bmc.overrides["/redfish/v1/Chassis/1/Sensors"] = {"Members": [{**inlet, "Reading": 31.5}]}
        again = source.read(2)
        assert again.sensors is not None
        assert dict(zip(again.sensors.name, again.sensors.value, strict=True))["1/Inlet"] == 31.5


# --- TLS -------------------------------------------------------------------------------------------------------------


def test_a_certificate_is_checked_unless_told_otherwise(tmp_path: Path, secret: Path) -> None:
    context, ca = certificate(tmp_path)
    with BmcServers(tls=context) as servers:
        bmc = FakeBmc()
        url = servers.add(bmc)
        with Reader(url, secret) as source, pytest.raises(SourceError, match="is not trusted"):
            source.read(1)
        assert bmc.requests == []  # no password to a stranger
        for options in ({"ca_file": str(ca)}, {"insecure": True}):
            with Reader(url, secret, **options) as source:
                assert source.read(1).domains is not None
        assert len(bmc.sessions) == 0


def test_no_password_in_the_clear(secret: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        RedfishSource("http://bmc-17.example", user=USER, password_file=str(secret))
    assert str(caught.value) == (
        "a password would go to bmc-17.example in the clear; use https, or redfish_insecure = true"
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"url": "ftp://x"}, "'ftp://x' is no address of a BMC; give https://HOST"),
        ({"url": "https://[::1"}, "'https://[::1' is no address of a BMC (Invalid IPv6 URL); give https://HOST"),
        ({"url": "https://u:p@x"}, "credentials do not belong into the URL; give redfish_user "
         "and redfish_password_file"),
        ({"url": "https://x", "user": "a"}, "a login at the BMC takes redfish_user and redfish_password_file; "
         "redfish_password_file is missing"),
        ({"url": "https://x", "user": "a", "password_file": "/nowhere"}, "redfish_password_file /nowhere cannot be "
         "read (No such file or directory)"),
        ({"url": "https://x", "user": "a", "password_file": "/dev/null"}, "redfish_password_file /dev/null is empty; "
         "its first line is the password"),
        ({"url": "https://x", "ca_file": "/nowhere"}, "redfish_ca_file /nowhere is no file; give the CA's certificate "
         "as PEM"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(options: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        RedfishSource(**options)
    assert str(caught.value) == text


def test_no_bmc_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", "redfish"]) == USAGE
    assert "source redfish needs a BMC or a recorded tree" in capsys.readouterr().err
    assert main(["read", "redfish", "--url", "https://127.0.0.1:1"]) == FAILED
    told = "eo read: BMC https://127.0.0.1:1: 127.0.0.1:1 takes no connection (connection refused)\n"
    assert capsys.readouterr().err == told


def test_a_bmc_that_is_none_gives_one_sentence_that_names_it() -> None:
    done = subprocess.run(  # a process of its own: the log lines of this one are kept by pytest
        [sys.executable, "-m", "agents", "read", "redfish", "--url", "https://127.0.0.1:1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == FAILED
    assert done.stderr.splitlines() == [
        "eo read: BMC https://127.0.0.1:1: 127.0.0.1:1 takes no connection (connection refused)"
    ]


# --- the breaker -----------------------------------------------------------------------------------------------------


def test_the_breaker_opens_after_three_failures_and_waits_longer_each_time() -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0], jitter=lambda: 0.5)
    waits = []
    for _ in range(12):
        breaker.failed()
        waits.append(breaker.wait_s())
    assert waits == [0.0, 0.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0, 300.0, 300.0]
    now[0] = 299.0
    assert breaker.wait_s() == 1.0
    breaker.succeeded()
    assert (breaker.wait_s(), breaker.failures) == (0.0, 0)


def test_an_open_breaker_asks_nothing_and_says_when_it_will(servers: BmcServers, secret: Path) -> None:
    bmc, now = FakeBmc(faults={"error_5xx"}), [100.0]
    with Reader(servers.add(bmc), secret, monotonic=lambda: now[0]) as source:
        for _ in range(3):
            with pytest.raises(SourceError, match="answered 500"):
                source.read(1)
        asked = len(bmc.requests)
        with pytest.raises(SourceError, match=r"answered 500 \(3 failures in a row; next try in \d+ s\)"):
            source.read(2)
        assert len(bmc.requests) == asked
        bmc.faults.clear()
        now[0] += 400
        assert source.read(3).domains is not None


# --- many BMCs -------------------------------------------------------------------------------------------------------


async def _poll_all(pollers: list[BmcPoller], rounds: int) -> dict[str, float]:
    """Polls all at once, `rounds` times; returns each one's time."""
    took = dict.fromkeys((poller.access.url for poller in pollers), 0.0)
    loop = asyncio.get_running_loop()

    async def many(poller: BmcPoller) -> None:
        for _ in range(rounds):
            began = loop.time()
            await poller.poll()
            took[poller.access.url] += loop.time() - began

    await asyncio.gather(*(many(poller) for poller in pollers))
    await asyncio.gather(*(poller.close() for poller in pollers))
    return took


def test_bad_ones_among_many_leave_the_others_their_readings_and_no_session(servers: BmcServers) -> None:
    """Forty here; two hundred for ten seconds, with the times compared, is `tests/bench/bench_bmc.py`."""
    faults = [{"hang"}, {"error_5xx"}, {"half_json"}]
    bmcs = [FakeBmc(machine=Machine(gpus=1), faults=faults[n] if n < 3 else set()) for n in range(40)]
    pollers = [
        BmcPoller(Access(url=servers.add(bmc), credentials=Credentials(USER, PASSWORD), deadline_s=3.0)) for bmc in bmcs
    ]
    asyncio.run(_poll_all(pollers, 2))
    good = [poller.last for poller in pollers[3:]]
    assert all(found is not None and found.domains[0].power_w == 900.0 for found in good)
    assert [poller.problem is None for poller in pollers[:2]] == [False, False]
    assert sum(len(bmc.sessions) for bmc in bmcs) == 0


def test_the_power_state_is_a_reading_of_every_poll(servers: BmcServers, bmc: FakeBmc, secret: Path) -> None:
    found = []
    with Reader(servers.add(bmc), secret) as source:
        for ts_ns, state in enumerate(("On", "Off", "PoweringOn")):
            bmc.machine.power_state = state
            reading = source.read(ts_ns)
            assert reading.sensors is not None
            rows = {row["name"]: row for row in of_sensors(reading.sensors)}
            assert (rows["1/power-state"]["kind"], rows["1/power-state"]["unit"]) == ("power_state", "on")
            found.append(rows["1/power-state"]["value"])
        assert found == [1.0, 0.0, None]
        assert dict(reading.missing)["sensors[1/power-state].value"] == (
            "the BMC says 'PoweringOn': neither on nor off"
        )
