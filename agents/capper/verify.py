"""Who sent this command, is it for us, is it new? Pure questions on bytes; nothing here touches a device or a file."""

from __future__ import annotations

from dataclasses import dataclass

from agents.capper.settings import MODE_RANK, CapperSettings
from streams.contract.codec import decode
from streams.contract.errors import ContractError, SignatureInvalid
from streams.contract.records import PowerDesired
from streams.contract.signing import KeyRing


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a whole command is not obeyed: a code to count by, a sentence to read."""

    code: str
    text: str

    @property
    def reason(self) -> str:
        return f"{self.code}: {self.text}"[:400]


class Refused(Exception):
    """Carries a refusal out of a check; `command` is set once the signature held, and never before."""

    def __init__(self, code: str, text: str, command: PowerDesired | None = None) -> None:
        super().__init__(f"{code}: {text}")
        self.refusal, self.command = Refusal(code, text), command


def authenticate(raw: bytes, *, node: str, cluster: str, keyring: KeyRing, max_bytes: int) -> PowerDesired:
    """The command in these bytes, proved to be signed for this node. Raises Refused."""
    if len(raw) > max_bytes:
        raise Refused("too_large", f"{len(raw)} bytes is above {max_bytes}")
    try:
        command = decode(PowerDesired, raw)
    except ContractError as error:
        raise Refused("undecodable", str(error)) from error
    claim = f"it claims epoch {command.epoch}, seq {command.seq}"
    try:
        keyring.verify(command)
    except (SignatureInvalid, UnicodeEncodeError) as error:
        raise Refused("signature", f"{error}; {claim}") from error
    if command.cluster != cluster:
        raise Refused("cluster", f"the command is for cluster {command.cluster!r}, this is {cluster!r}; {claim}")
    if command.node != node:
        raise Refused("node", f"the command is for node {command.node!r}, this is {node!r}; {claim}")
    return command


def check_opt_in(command: PowerDesired, settings: CapperSettings) -> None:
    """The owner's word comes before everybody's. Raises Refused."""
    if not settings.opt_in:
        raise Refused("opt_in", "this node has not opted in; its owner sets opt_in = true to allow commands", command)


def check_new(command: PowerDesired, mark: tuple[int, int]) -> None:
    """Only above the mark. Raises Refused."""
    if command.epoch < 0 or command.seq < 0:
        raise Refused("counter", f"epoch {command.epoch}, seq {command.seq} must not be negative", command)
    if (command.epoch, command.seq) <= mark:
        text = f"epoch {command.epoch}, seq {command.seq} is not above the mark {mark[0]}, {mark[1]}"
        raise Refused("stale", text, command)


def check_fresh(command: PowerDesired, settings: CapperSettings, wall_ns: int) -> None:
    """Issue time and lifetime within their bounds. Raises Refused."""
    apart_s = (wall_ns - command.issued_at_ns) / 1e9
    if abs(apart_s) > settings.issued_window_s:
        side = "ago" if apart_s > 0 else "in the future"
        text = f"issued {abs(apart_s):.1f} s {side}, the window is {settings.issued_window_s:g} s; compare the clocks"
        raise Refused("expired", text, command)
    if not settings.min_ttl_s * 1000 <= command.ttl_ms <= settings.max_ttl_s * 1000:
        text = f"ttl {command.ttl_ms} ms is outside {settings.min_ttl_s:g} to {settings.max_ttl_s:g} s"
        raise Refused("ttl", text, command)


def advice_only(command: PowerDesired, settings: CapperSettings) -> str | None:
    """Why this command is shown and not set, None when it may be set. Raises Refused for a mode above the owner's."""
    if MODE_RANK[command.mode] <= MODE_RANK["recommend"]:
        return f"mode {command.mode}: nothing is set"
    if MODE_RANK[settings.max_mode] <= MODE_RANK["recommend"]:
        return f"this node allows mode {settings.max_mode} at most: nothing is set"
    if MODE_RANK[command.mode] > MODE_RANK[settings.max_mode]:
        raise Refused("mode", f"mode {command.mode} is above this node's max_mode {settings.max_mode}", command)
    return None
