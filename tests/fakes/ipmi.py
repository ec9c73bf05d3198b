"""OpenIPMI's simulator as a BMC on loopback: a few sensors, no DCMI; ended by its pid."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

USER, PASSWORD = "ipmiusr", "a-fake-password"
UNITS: Final = {"c": 0x01, "w": 0x06, "rpm": 0x12}
TYPES: Final = {"c": 0x01, "w": 0x0B, "rpm": 0x04}  # temperature, other, fan
# name, unit, factor M of the reading, raw reading: the value is M times raw
SENSORS: Final = (("Pwr Consumption", "w", 2, 105), ("Inlet Temp", "c", 1, 24), ("Fan1", "rpm", 60, 100))

LAN = """name "fake"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcdef
  endlan
  user 2 true "{user}" "{password}" admin 10 none md2 md5 straight
"""


def sdr(number: int, name: str, unit: str, factor: int) -> bytes:
    """A full sensor record."""
    word = name.encode()
    body = bytes([0x20, 0, number, 0x07, 1, 0x67, 0x40, TYPES[unit], 0x01, 0, 0, 0, 0, 0, 0, 0x00, UNITS[unit], 0, 0])
    body += bytes([factor, 0, 0, 0, 0, 0, 0x00, 0, 0, 0, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xC0 | len(word)])
    return bytes([0, 0, 0x51, 0x01, len(body) + len(word)]) + body + word


def emulation() -> str:
    lines = ["mc_setbmc 0x20", "mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr"]
    for number, (name, unit, factor, raw) in enumerate(SENSORS, 1):
        lines.append(f"sensor_add 0x20 0 {number} 0x{TYPES[unit]:02x} 0x01")
        states = " ".join(["000111111111111"] * 4)
        lines.append(f"sensor_set_event_support 0x20 0 {number} enable scanning per-state {states}")
        lines.append(f"sensor_set_value 0x20 0 {number} {raw} 0")
        lines.append("main_sdr_add 0x20 " + " ".join(f"0x{byte:02x}" for byte in sdr(number, name, unit, factor)))
    return "\n".join([*lines, "mc_enable 0x20", ""])


@contextlib.contextmanager
def simulated(binary: str, ipmitool: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Runs it; gives (url, password file) once it answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lan, emu, secret, state = folder / "lan.conf", folder / "fake.emu", folder / "password", folder / "state"
    lan.write_text(LAN.format(port=port, user=USER, password=PASSWORD))
    emu.write_text(emulation())
    secret.write_text(f"{PASSWORD}\n")
    state.mkdir()
    process = subprocess.Popen(
        [binary, "-c", str(lan), "-f", str(emu), "-s", str(state), "-n"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        options = ["-I", "lan", "-H", "127.0.0.1", "-p", str(port), "-U", USER, "-f", str(secret)]
        for _ in range(100):
            if subprocess.run([ipmitool, *options, "mc", "info"], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.05)
        yield f"lan://127.0.0.1:{port}", secret
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
