"""The Redfish actuator under the real capper core: a fake BMC over HTTP, virtual time, slow and lying BMCs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.capper import offline, savefile
from agents.capper.actuators.base import Bounds
from agents.capper.actuators.errors import ActuatorError
from agents.capper.actuators.make import make
from agents.capper.actuators.redfish import RedfishPowerActuator
from agents.capper.actuators.redfish_http import BmcClient
from agents.capper.core import Capper
from agents.capper.errors import CapperError, SettingsError
from agents.capper.settings import CapperSettings
from streams.contract.records import PowerApplied
from tests.fakes.bmc.logic import PASSWORD, USER, FakeBmc
from tests.fakes.bmc.model import Machine, Recorded
from tests.fakes.bmc.server import BmcServers, certificate
from tests.fakes.capper_rig import ALLOWED, KEYRING, Rig, columns

LATENCY_S = 40.0
GPU1 = f"GPU-{Machine().uuid(1)}"
GPU2 = f"GPU-{Machine().uuid(2)}"


@pytest.fixture(scope="module")
def servers() -> Iterator[BmcServers]:
    with BmcServers() as made:
        yield made


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every connection to a BMC ends with its test."""
    made: list[BmcClient] = []
    init = BmcClient.__init__

    def kept(self: BmcClient, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(BmcClient, "__init__", kept)
    yield
    for client in made:
        client.close()


class RedfishRig(Rig):
    """A capper on the Redfish actuator of one fake BMC; both live on the rig's clock."""

    def __init__(self, folder: Path, servers: BmcServers, *, bmc: FakeBmc, **options: Any) -> None:
        self.bmc, self.options = bmc, options
        bmc.clock = lambda: self.now_s
        secret = folder / "password"
        folder.mkdir(parents=True, exist_ok=True)
        secret.write_text(PASSWORD)
        self.client = BmcClient(servers.add(bmc), user=USER, password_file=str(secret))
        super().__init__(folder, settings=replace(ALLOWED, restore_retry_s=1.0), power=False, clock=False)

    def _capper(self) -> Capper:
        self.actuator = RedfishPowerActuator(
            self.client, latency_s=LATENCY_S, monotonic=lambda: self.now_s, threaded=False, **self.options
        )
        return Capper(
            node="n1",
            cluster="c1",
            settings=self.settings,
            power=self.actuator,
            clock=None,
            folder=self.folder,
            keyring=KEYRING,
            monotonic=lambda: self.now_s,
            wall_ns=lambda: self.wall_ns,
            sleep=self.nap,
        )

    def nap(self, seconds: float) -> None:
        self.advance(seconds)
        self.actuator.step()

    def run(self, seconds: float, step_s: float = 1.0) -> None:
        """Worker and capper go on for so long."""
        for _ in range(round(seconds / step_s)):
            self.advance(step_s)
            self.actuator.step()
            self.capper.tick()

    def limit(self, gpu: int = 1) -> float | None:
        return self.bmc.machine.limits[f"gpu{gpu}"].value

    def events(self) -> list[tuple[str, str, str]]:
        return [(e.event, s, r) for e in self.capper.events() for s, r in zip(e.gpu.status, e.gpu.reason, strict=True)]

    def cap(self, seq: int, watts: float | None = 500.0, **changes: Any) -> PowerApplied:
        gpu = columns((GPU1,), watts=watts, low=None, high=None)
        return self.grant(seq, gpu, ttl_ms=30_000, **changes)


@pytest.fixture
def bmc() -> FakeBmc:
    return FakeBmc()


@pytest.fixture
def rig(tmp_path: Path, servers: BmcServers, bmc: FakeBmc) -> RedfishRig:
    return RedfishRig(tmp_path / "capper", servers, bmc=bmc)


def saved(rig: RedfishRig) -> dict[str, float | None]:
    found = savefile.load(rig.folder)
    return {} if found is None else {uuid: knob.previous for uuid, knob in found.power.items()}


# --- a grant's life --------------------------------------------------------------------------------------------------


def test_a_grant_is_told_saved_first_and_confirmed_when_it_shows(rig: RedfishRig, bmc: FakeBmc) -> None:
    bmc.latency_s = 20.0
    answer = rig.cap(1)
    assert (answer.gpu.status, answer.gpu.effective_limit_w) == (("applied",), (None,))
    assert answer.gpu.reason == ("the device was told 500 W and shows it within 40 s; not confirmed yet",)
    assert saved(rig) == {GPU1: 700.0}
    assert bmc.sets == []  # the caller did not wait for the BMC
    rig.run(10)
    assert (bmc.sets, rig.limit()) == ([("gpu1", 500.0)], 700.0)
    assert rig.capper.status()["gpus"][GPU1]["pending"] == {"power_limit_w": 500.0}  # type: ignore[index]
    rig.cap(2)
    rig.run(12)
    assert rig.limit() == 500.0
    assert rig.capper.status()["gpus"][GPU1]["held"] == {"power_limit_w": 500.0}  # type: ignore[index]
    assert bmc.sets == [("gpu1", 500.0)]  # renewed, not set again
    assert rig.cap(3).gpu.effective_limit_w == (500.0,)


def test_an_ended_lease_puts_back_and_keeps_the_save_until_it_shows(rig: RedfishRig, bmc: FakeBmc) -> None:
    bmc.latency_s = 5.0
    rig.cap(1)
    rig.run(10)
    assert rig.limit() == 500.0
    rig.run(21)  # the lease of 30 s ends
    assert bmc.sets[-1] == ("gpu1", 700.0)
    told = rig.events()
    assert told[0][:2] == ("expiry", "expired")
    assert told[0][2] == (
        "the lease ended: put back: the device was told and shows it within 40 s; the saved value is kept until then"
    )
    assert saved(rig) == {GPU1: 700.0}
    rig.run(45)
    assert (rig.limit(), saved(rig)) == (700.0, {})
    assert rig.events() == [("restore", "restored", "put back at last")]


def test_a_lease_that_ends_before_its_limit_shows_still_ends_at_the_old_value(rig: RedfishRig, bmc: FakeBmc) -> None:
    """The dangerous case: the old value reads back at once, and the limit told before comes into force after that."""
    bmc.latency_s = 35.0
    rig.cap(1)
    rig.run(31)
    assert bmc.sets == [("gpu1", 500.0), ("gpu1", 700.0)]
    assert saved(rig) == {GPU1: 700.0}
    rig.run(5)
    assert rig.limit() == 500.0  # the first one comes late
    assert saved(rig) == {GPU1: 700.0}
    rig.run(40)
    assert (rig.limit(), saved(rig)) == (700.0, {})


def test_a_slow_gpu_does_not_delay_the_other(rig: RedfishRig, bmc: FakeBmc) -> None:
    bmc.latency_s = 30.0
    rig.grant(1, columns((GPU1, GPU2), watts=500.0, low=None, high=None), ttl_ms=30_000)
    began = rig.now_s
    rig.capper.restore_all("an operator asks")
    assert rig.now_s == began  # nobody slept
    rig.run(80)
    assert (rig.limit(1), rig.limit(2), saved(rig)) == (700.0, 700.0, {})


def test_a_restart_puts_back_what_it_finds_saved(rig: RedfishRig, bmc: FakeBmc) -> None:
    rig.cap(1)
    rig.run(3)
    assert rig.limit() == 500.0
    rig.crash()
    rig.restart()
    rig.run(2)
    assert rig.limit() == 700.0
    assert saved(rig) == {GPU1: 700.0}  # what the earlier run told may still come into force
    rig.run(45)
    assert saved(rig) == {}


def test_a_restart_before_the_limit_showed_is_safe_too(rig: RedfishRig, bmc: FakeBmc) -> None:
    bmc.latency_s = 25.0
    rig.cap(1)
    rig.run(2)
    assert bmc.sets == [("gpu1", 500.0)]
    rig.crash()
    rig.restart()
    rig.run(80)
    assert (rig.limit(), saved(rig)) == (700.0, {})


def test_stopping_waits_until_the_old_value_shows(rig: RedfishRig, bmc: FakeBmc) -> None:
    bmc.latency_s = 10.0
    rig.cap(1)
    rig.run(12)
    assert rig.limit() == 500.0
    rig.capper.close()
    assert (rig.limit(), saved(rig)) == (700.0, {})


def test_offline_restore_waits_for_all_at_once(rig: RedfishRig, bmc: FakeBmc) -> None:
    bmc.latency_s = 10.0
    rig.grant(1, columns((GPU1, GPU2), watts=500.0, low=None, high=None), ttl_ms=30_000)
    rig.run(12)
    rig.crash()
    began = rig.now_s
    done = offline.restore(rig.folder, rig.actuator, None, sleep=rig.nap)
    assert [(row.state, row.after) for row in done] == [("restored", 700.0), ("restored", 700.0)]
    assert (rig.limit(1), rig.limit(2)) == (700.0, 700.0)
    assert rig.now_s - began < 60


# --- BMCs that do not do what they say -------------------------------------------------------------------------------


def test_a_lying_set_is_found_out_told_and_left_alone(rig: RedfishRig, bmc: FakeBmc) -> None:
    bmc.faults.add("lying_set")
    rig.cap(1)
    for seq in range(2, 16):
        rig.run(9)
        rig.cap(seq)
    told = [event for event in rig.events() if event[0] == "not_actuatable"]
    assert "the device says 700 after it took 500" in told[0][2]
    assert [value for _, value in bmc.sets].count(500.0) == 3  # three tries, then no more
    assert "not_actuatable" in rig.cap(99).gpu.reason[0]


def test_a_foreign_change_between_reading_and_setting_is_respected(rig: RedfishRig, bmc: FakeBmc) -> None:
    bmc.faults.add("race")
    rig.cap(1)
    rig.run(3)
    assert (rig.limit(), bmc.sets, saved(rig)) == (650.0, [], {})
    told = rig.events()
    assert told[0][0] == "foreign_change"
    assert f"{GPU1}: others set the BMC's limit to 650 W meanwhile" in told[0][2]
    assert "foreign" in rig.cap(2).gpu.reason[0]


def test_a_foreign_change_of_a_held_limit_is_respected(rig: RedfishRig, bmc: FakeBmc) -> None:
    rig.cap(1)
    rig.run(3)
    bmc.machine.limits["gpu1"].value = 600.0
    rig.run(3)
    assert (rig.limit(), saved(rig)) == (600.0, {})
    assert rig.events()[-1][0] == "foreign_change"


def test_tags_that_change_with_every_reading_do_not_stop_a_set(rig: RedfishRig, bmc: FakeBmc) -> None:
    real = bmc.answer

    def noisy(method: str, target: str, headers: dict[str, str], body: bytes) -> Any:
        reply = real(method, target, headers, body)
        bmc.machine.gpu_w += 0.5
        return reply

    bmc.answer = noisy  # type: ignore[method-assign]
    bmc_etag_any(bmc)
    rig.cap(1)
    rig.run(3)
    assert rig.limit() == 500.0


def bmc_etag_any(bmc: FakeBmc) -> None:
    """The fake takes `If-Match: *` as the standard says."""
    real = bmc._set

    def take(path: str, headers: dict[str, str], body: bytes) -> Any:
        if headers.get("if-match") == "*":
            from tests.fakes.bmc.logic import etag

            headers = {**headers, "if-match": etag(bmc.documents()[path])}
        return real(path, headers, body)

    bmc._set = take  # type: ignore[method-assign]


def test_401_ends_the_grant_with_its_next_step(rig: RedfishRig, bmc: FakeBmc) -> None:
    bmc.faults.add("unauthorized")
    rig.cap(1)
    rig.run(3)
    told = [event for event in rig.events() if event[0] == "not_actuatable"]
    assert "the BMC answered 401" in told[0][2]
    assert "check redfish_user, redfish_password_file and the user's role" in told[0][2]


def test_a_bmc_that_goes_away_keeps_the_save_and_gets_its_value_when_it_is_back(rig: RedfishRig, bmc: FakeBmc) -> None:
    rig.cap(1)
    rig.run(3)
    bmc.faults.add("error_5xx")
    rig.run(60)
    assert (rig.limit(), saved(rig)) == (500.0, {GPU1: 700.0})
    bmc.faults.clear()
    rig.run(90)
    assert (rig.limit(), saved(rig)) == (700.0, {})


def test_values_outside_the_bounds_never_reach_the_bmc(rig: RedfishRig, bmc: FakeBmc) -> None:
    bmc.faults.add("no_bounds")
    for seq, watts in enumerate((-5.0, 0.0, 100.0, 500_000.0), 1):
        assert rig.cap(seq, watts).gpu.status == ("refused",)
    for value in (-5.0, 199.0, 701.0, None):
        with pytest.raises(ActuatorError):
            rig.actuator.set(GPU1, value)
    rig.run(3)
    assert bmc.sets == []


# --- HardPowerOff ----------------------------------------------------------------------------------------------------


def test_a_bmc_that_cuts_the_power_is_refused_unless_configured(tmp_path: Path, servers: BmcServers) -> None:
    bmc = FakeBmc(machine=Machine(exception="HardPowerOff"))
    rig = RedfishRig(tmp_path / "capper", servers, bmc=bmc)
    answer = rig.cap(1)
    assert answer.gpu.status == ("refused",)
    assert (
        f"{GPU1}: the BMC cuts the power above a limit (LimitException HardPowerOff in /redfish/v1/Chassis/1/Power), "
        "so no limit is lowered; set it to LogEventOnly at the BMC, or redfish_allow_hard_power_off = true"
    ) in answer.gpu.reason[0]
    rig.run(3)
    assert bmc.sets == []
    allowed = RedfishRig(
        tmp_path / "other",
        servers,
        bmc=FakeBmc(machine=Machine(exception="HardPowerOff")),
        allow_hard_power_off=True,
    )
    allowed.cap(1)
    allowed.run(3)
    assert allowed.limit() == 500.0
    assert allowed.bmc.machine.exception == "HardPowerOff"  # not ours to change


def test_a_recorded_dgx_h100_is_refused_for_that_very_reason(tmp_path: Path, servers: BmcServers) -> None:
    folder = Path(__file__).parents[2] / "data/redfish/nvidia_dgx_h100/redfish/v1"
    bmc = FakeBmc(machine=Recorded(folder=folder))
    rig = RedfishRig(tmp_path / "capper", servers, bmc=bmc)
    found = rig.actuator.uuids()
    assert len(found) == 8 and found[0] == "GPU-9dad5bfd-a732-23fe-40ad-465d0cbe5f95"
    assert (rig.actuator.bounds(found[0]), rig.actuator.read(found[0])) == (Bounds(200.0, 700.0, 700.0), 700.0)
    answer = rig.grant(1, columns(found, watts=500.0, low=None, high=None))
    assert set(answer.gpu.status) == {"refused"}
    assert "HardPowerOff in /redfish/v1/Chassis/DGX/Power" in answer.gpu.reason[0]
    rig.run(2)
    assert not any(method == "PATCH" for method, _ in bmc.requests)


def test_a_bmc_that_turns_to_cutting_the_power_gets_its_value_back_at_once(rig: RedfishRig, bmc: FakeBmc) -> None:
    bmc.faults.add("hard_power_off")
    rig.cap(1)
    rig.run(3)
    assert bmc.sets[0] == ("gpu1", 500.0)
    assert bmc.sets[-1] == ("gpu1", 700.0)
    assert rig.limit() == 700.0
    assert any("HardPowerOff" in reason for _, _, reason in rig.events())


def test_while_a_limit_is_held_too(rig: RedfishRig, bmc: FakeBmc) -> None:
    rig.cap(1)
    rig.run(3)
    assert rig.limit() == 500.0
    bmc.machine.exception = "HardPowerOff"
    rig.run(3)
    assert rig.limit() == 700.0


# --- the whole node --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("without", "key", "uri"),
    [
        ((), "chassis", "/redfish/v1/Chassis/1/EnvironmentMetrics"),
        (("EnvironmentMetrics",), "chassis", "/redfish/v1/Chassis/1/Controls/PowerLimit"),
        (("EnvironmentMetrics", "Controls"), "old", "/redfish/v1/Chassis/1/Power"),
    ],
)
def test_a_chassis_limit_in_each_form_of_the_standard(
    tmp_path: Path, servers: BmcServers, without: tuple[str, ...], key: str, uri: str
) -> None:
    bmc = FakeBmc(overrides={"/redfish/v1/Chassis/1": dict.fromkeys(without)})
    bmc.machine.limits["old"].low = 0.0
    rig = RedfishRig(tmp_path / "capper", servers, bmc=bmc, target="node")
    uuid = f"bmc:{uri}"
    assert rig.actuator.uuids() == (uuid,)
    assert rig.actuator.measured_w(uuid) == 900.0
    rig.grant(1, columns((uuid,), watts=2000.0, low=None, high=None))
    rig.run(3)
    assert bmc.machine.limits[key].value == 2000.0
    rig.run(60)
    assert bmc.machine.limits[key].value in {3000.0, 2800.0}
    assert saved(rig) == {}


def test_a_bmc_without_a_limit_is_one_sentence(tmp_path: Path, servers: BmcServers) -> None:
    bmc = FakeBmc(machine=Machine(gpus=0))
    with pytest.raises(CapperError) as caught:
        RedfishRig(tmp_path / "capper", servers, bmc=bmc)
    assert "has no power limit with a value and bounds for target 'gpu'" in str(caught.value)


def test_a_limit_that_is_switched_off_is_no_target(tmp_path: Path, servers: BmcServers) -> None:
    bmc = FakeBmc()
    at = "/redfish/v1/Systems/1/Processors/GPU_1/EnvironmentMetrics"
    limit = bmc.documents()[at]["PowerLimitWatts"]
    bmc.overrides[at] = {"PowerLimitWatts": {**limit, "ControlMode": "Disabled"}}
    assert RedfishRig(tmp_path / "capper", servers, bmc=bmc).actuator.uuids() == (GPU2,)


# --- settings --------------------------------------------------------------------------------------------------------


def test_made_from_settings_over_tls(tmp_path: Path) -> None:
    context, ca = certificate(tmp_path)
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    with BmcServers(tls=context) as servers:
        bmc = FakeBmc()
        options = {"redfish_url": servers.add(bmc), "redfish_user": USER, "redfish_password_file": str(secret)}
        power, clock = make("redfish", CapperSettings(actuator="redfish", redfish_ca_file=str(ca), **options))
        assert (power.uuids(), clock, power.knob) == ((GPU1, GPU2), None, "power_limit_w")
        stranger, _ = make("redfish", CapperSettings(actuator="redfish", **options))
        with pytest.raises(ActuatorError, match="is not trusted"):
            stranger.uuids()


def test_the_worker_tells_the_bmc_by_itself(tmp_path: Path, servers: BmcServers) -> None:
    bmc = FakeBmc()
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    actuator = RedfishPowerActuator(BmcClient(servers.add(bmc), user=USER, password_file=str(secret)))
    assert actuator.uuids() == (GPU1, GPU2)
    actuator.set(GPU1, 450.0)
    for _ in range(400):
        try:
            if actuator.read(GPU1) == 450.0:
                break
        except ActuatorError:
            pass
        with actuator._lock:
            actuator._lock.wait(0.05)
    actuator.close()
    assert bmc.sets == [("gpu1", 450.0)]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"actuator": "redfish"}, "actuator redfish needs a BMC; give its address by redfish_url, e.g. https://bmc-17"),
        ({"redfish_target": "rack"}, "redfish_target is 'rack'; one of gpu, node"),
        ({"redfish_latency_s": 0.0}, "redfish_latency_s is 0; give 1 to 300 seconds"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        CapperSettings(**options)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"url": "https://u:p@x"}, "redfish_url is no address of a BMC; give https://HOST, "
         "without credentials or a path"),
        ({"url": "http://bmc.example", "user": "a", "password_file": __file__}, "a password would go to bmc.example in "
         "the clear; use https, or redfish_insecure = true"),
        ({"url": "https://x", "user": "a"}, "a login at the BMC takes redfish_user and redfish_password_file, both"),
        ({"url": "https://x", "user": "a", "password_file": "/nowhere"}, "redfish_password_file /nowhere cannot be "
         "read (no such file or directory)"),
    ],
)  # fmt: skip
def test_clients_that_cannot_be(options: dict[str, Any], text: str) -> None:
    with pytest.raises(CapperError) as caught:
        BmcClient(**options)
    assert str(caught.value) == text
