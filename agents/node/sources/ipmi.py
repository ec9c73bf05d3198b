"""A BMC through the program ipmitool: DCMI's power reading, else its sensors. Reads only; it never sends a set.

DCMI is what a node draws; where the BMC does not know the command, the sensor that names the whole system stands in.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from agents.node.bmc.nesting import unique_names
from agents.node.bmc.rows import DomainRow, SensorRow, Snapshot
from agents.node.bmc.values import believable, is_whole, kind_of
from agents.node.errors import SettingsError, SourceError
from agents.node.sources import ipmi_text, program
from agents.node.sources.base import Probe, Reading

log = logging.getLogger(__name__)
DEADLINE_S: Final = 10.0  # a whole sensor list over the network takes seconds
MAX_BYTES: Final = 1_000_000
WHOLE: Final = "dcmi"


class IpmiSource:
    """This machine's BMC, or one over the network.

    Args:
        url: "lanplus://HOST[:PORT]" or "lan://..."; "" = this machine's own, which takes root and /dev/ipmi0.
        file: a recorded output instead, of `dcmi power reading` or of a sensor list.
        user, password_file: for a BMC over the network.
        tool: the program.
        deadline_s: of one call of it.
    """

    name = "ipmi"

    def __init__(
        self,
        url: str = "",
        *,
        file: str | Path = "",
        user: str = "",
        password_file: str = "",
        tool: str = "ipmitool",
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._argv = [tool, *_connection(url, user, password_file)]
        self._file = Path(file) if file else None
        self._deadline_s = deadline_s
        self._no_dcmi = ""

    def probe(self) -> Probe:
        if self._file is not None and not self._file.is_file():
            return Probe(False, f"{self._file} is no file; record one by `ipmitool -c sdr list > FILE`")
        return Probe(True, None, ("domain.chassis", "sensor.fan", "sensor.temperature"))

    def read(self, now_ns: int) -> Reading:
        """DCMI and sensors. Raises SourceError when neither can be had."""
        found = Snapshot()
        if self._file is not None:
            self._take(_text(self._file), found)
        else:
            self._dcmi(found)
            self._sensors(found)
        domains = _nested(found)
        return Reading(
            source=self.name,
            ts_ns=now_ns,
            quality="measured",
            capability=tuple(dict.fromkeys(f"domain.{row.kind}" for row in domains.domains)),
            domains=domains.domain_columns(self.name),
            sensors=domains.sensor_columns(self.name),
            missing=tuple(domains.missing.items()),
        )

    def close(self) -> None:
        return None

    # --- ipmitool ----------------------------------------------------------------------------------------------

    def _run(self, *words: str) -> program.Output:
        return program.run([*self._argv, *words], deadline_s=self._deadline_s, max_bytes=MAX_BYTES)

    def _dcmi(self, found: Snapshot) -> None:
        """DCMI's reading and limit; a BMC that does not know the command is not asked again."""
        if not self._no_dcmi:
            output = self._run("dcmi", "power", "reading")
            reading = ipmi_text.dcmi(output.out.decode("utf-8", "replace"))
            if reading is not None:
                limit = ipmi_text.limit_w(self._run("dcmi", "power", "get_limit").out.decode("utf-8", "replace"))
                _whole(reading, limit, found)
                return
            cause = output.first_line()
            if not _unknown_command(cause):
                found.lacks(WHOLE, "", f"DCMI gives no power reading ({cause}); the sensors are read instead")
                return
            self._no_dcmi = cause
            log.info("this BMC has no DCMI power reading (%s); its sensors are read instead", cause)
        found.lacks(WHOLE, "", f"this BMC has no DCMI power reading ({self._no_dcmi}); its sensors are read instead")

    def _sensors(self, found: Snapshot) -> None:
        output = self._run("-c", "sdr", "list")
        sensors, odd = ipmi_text.sensors(output.out.decode("utf-8", "replace"))
        if not sensors and not found.domains:
            raise SourceError(
                f"ipmitool gives neither power nor sensors: {output.first_line()}; try `{self._advice()}`"
            )
        _listed(sensors, odd, found)

    def _advice(self) -> str:
        return " ".join([*self._argv, "sdr", "list"])

    def _take(self, text: str, found: Snapshot) -> None:
        """A recorded output of either kind, or of several in one file."""
        reading = ipmi_text.dcmi(text)
        if reading is not None:
            _whole(reading, ipmi_text.limit_w(text), found)
        sensors, odd = ipmi_text.sensors(text if reading is None else "\n".join(_not_dcmi(text)))
        if reading is None and not sensors:
            raise SourceError(f"{self._file} is neither ipmitool's power reading nor a sensor list ({odd} other lines)")
        _listed(sensors, odd if reading is None else 0, found)


def _whole(reading: ipmi_text.Dcmi, limit_w: float | None, found: Snapshot) -> None:
    power, why = believable(reading.power_w, "chassis", None)
    if power is None:
        found.lacks(WHOLE, "power_w", why or reading.reason or "DCMI gives no instantaneous reading")
    found.domains.append(DomainRow(name=WHOLE, kind="chassis", power_w=power, limit_w=limit_w, total=3))


def _listed(sensors: list[ipmi_text.Sensor], odd: int, found: Snapshot) -> None:
    if odd:
        found.missing["sensors"] = f"{odd} lines of ipmitool's output are no sensors and were left out"
    for sensor in sensors:
        kind, unit, factor = ipmi_text.UNITS[sensor.unit]
        value = None if sensor.value is None else sensor.value * factor
        if kind != "power":
            found.sensors.append(SensorRow(sensor.name, kind, unit, value))
            continue
        whole = is_whole(sensor.name) or sensor.name.lower() in {"power", "pwr"}
        row = DomainRow(name=sensor.name, kind="chassis" if whole else kind_of(sensor.name), total=2 if whole else 0)
        row.power_w, why = believable(value, row.kind, None)
        if row.power_w is None:
            found.lacks(sensor.name, "power_w", why or "the sensor gives no reading")
        found.domains.append(row)


def _nested(found: Snapshot) -> Snapshot:
    """The best whole holds the rest; names are made unique."""
    found.domains.sort(key=lambda row: -row.total if row.power_w is not None else 0)
    unique_names(found.domains)
    whole = next((row for row in found.domains if row.total and row.power_w is not None), None)
    for row in found.domains:
        row.parent = whole.name if whole is not None and row is not whole else None
    return found


def _not_dcmi(text: str) -> list[str]:
    return [line for line in text.splitlines() if "|" in line or line.count(",") >= 2]


def _unknown_command(cause: str) -> bool:
    words = cause.lower()
    return any(word in words for word in ("invalid command", "c1)", "0xc1", "not supported", "no dcmi", "unsupported"))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror})") from error
    if len(raw) > MAX_BYTES:
        raise SourceError(f"{path} is longer than {MAX_BYTES} bytes; give one output of ipmitool")
    return raw.decode("utf-8", "replace")


def _connection(url: str, user: str, password_file: str) -> list[str]:
    """ipmitool's options for a BMC over the network. Raises SettingsError."""
    if not url:
        return []
    try:
        parts = urlsplit(url if "://" in url else f"lanplus://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in {"lan", "lanplus"} or not host or parts.username or parts.password or host.startswith("-"):
        raise SettingsError(f"{url!r} is no address of a BMC; give lanplus://HOST, without credentials")
    if password_file and not Path(password_file).is_file():
        raise SettingsError(f"ipmi_password_file {password_file} is no file; its first line is the password")
    options = ["-I", parts.scheme, "-H", host, *(["-p", str(port)] if port else [])]
    return [*options, *(["-U", user] if user else []), *(["-f", password_file] if password_file else [])]
