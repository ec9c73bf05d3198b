"""A powercap and hwmon tree of real files, so that other programs see it too; counters move on request."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

RANGE_UJ = 262_143_328_850  # what Intel's counters wrap at


@dataclass
class Sysfs:
    """Files under `root`/sys/class. `true_uj` keeps each counter without its wraps."""

    root: Path
    true_uj: dict[str, int] = field(default_factory=dict)
    ranges: dict[str, int] = field(default_factory=dict)

    @property
    def sys(self) -> Path:
        return self.root / "sys"

    def zone(self, key: str, name: str, *, raw_uj: int = 0, range_uj: int = RANGE_UJ, **files: int | str) -> Path:
        """One powercap zone, e.g. ("intel-rapl:0", "package-0"); `files` are more files of it."""
        folder = self.sys / "class/powercap" / key
        folder.mkdir(parents=True, exist_ok=True)
        self.ranges[key], self.true_uj[key] = range_uj, raw_uj
        texts = {"name": name, "max_energy_range_uj": range_uj, "energy_uj": raw_uj, "enabled": 1, **files}
        for file, text in texts.items():
            (folder / file).write_text(f"{text}\n")
        return folder

    def chip(self, index: int, name: str, **files: int | str) -> Path:
        """One hwmon chip, e.g. (0, "amd_energy", energy1_input=..., energy1_label="Esocket0")."""
        folder = self.sys / "class/hwmon" / f"hwmon{index}"
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in {"name": name, **files}.items():
            (folder / file).write_text(f"{text}\n")
        return folder

    def stat(self, busy: int, idle: int, *, cpus: int = 4) -> None:
        """/proc/stat with this many ticks in all."""
        lines = [f"cpu {busy} 0 0 {idle} 0 0 0 0 0 0", *(f"cpu{n} 1 0 0 1 0 0 0 0 0 0" for n in range(cpus))]
        (self.root / "proc").mkdir(exist_ok=True)
        (self.root / "proc/stat").write_text("\n".join(lines) + "\n")

    def move(self, key: str, add_uj: int) -> None:
        """Lets a counter run on; it wraps as the hardware's does."""
        self.true_uj[key] += add_uj
        raw = self.true_uj[key] % self.ranges[key]
        (self.sys / "class/powercap" / key / "energy_uj").write_text(f"{raw}\n")

    def set(self, key: str, file: str, text: str) -> None:
        (self.sys / "class/powercap" / key / file).write_text(text)
