"""Trees of six vendors' BMCs: what is read of each, by a table made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.node.sources.base import Reading
from agents.node.sources.redfish import RedfishSource
from agents.node.sources.rows import of_domains, of_sensors

MADE = Path(__file__).resolve().parents[2] / "data" / "redfish_made"
Row = tuple[str, float | None, str | None]  # kind, watts, parent

TABLE: dict[str, dict[str, Row]] = {
    "dell_idrac9": {
        "System.Embedded.1/System Power Control": ("chassis", 612.0, None),
        "System.Embedded.1/SystemBoardPwrConsumption": ("chassis", 616.0, "System.Embedded.1/System Power Control"),
        "Video.Slot.7-1": ("gpu", 87.0, "System.Embedded.1/System Power Control"),
        "System.Embedded.1/PSU.Slot.1": ("supply", 318.0, "System.Embedded.1/System Power Control"),
        "System.Embedded.1/PSU.Slot.2": ("supply", 312.0, "System.Embedded.1/System Power Control"),
    },
    "hpe_ilo5": {
        "1/0": ("chassis", 344.0, None),
        "1/HpeServerPowerSupply": ("supply", 170.0, "1/0"),
        "1/HpeServerPowerSupply#2": ("supply", 163.0, "1/0"),
    },
    "supermicro_hgx": {
        "1/System Power Control": ("chassis", 2143.0, None),
        "HGX_GPU_SXM_1": ("gpu", 451.25, "1/System Power Control"),
        "HGX_GPU_SXM_2": ("gpu", None, "1/System Power Control"),
        "HGX_Chassis_0": ("board", 1003.5, "1/System Power Control"),
        "1/Power Supply Bay 1": ("supply", 1090.0, "1/System Power Control"),
        "1/Power Supply Bay 2": ("supply", None, "1/System Power Control"),
    },
    "lenovo_xcc2": {
        "1/Server Power Control": ("chassis", 508.0, None),
        "1/130L0": ("chassis", 510.0, "1/Server Power Control"),
        "1/140L0": ("gpu", 62.0, "1/Server Power Control"),
        "1/CPU Sub-system Power": ("cpu_package", 190.0, "1/Server Power Control"),
        "1/Memory Sub-system Power": ("dram", 40.0, "1/Server Power Control"),
        "1/PSU1": ("supply", 260.0, "1/Server Power Control"),
        "1/PSU2": ("supply", 255.0, "1/Server Power Control"),
    },
    "ami_megarac": {
        "Self/Chassis Power Control": ("chassis", 17.0, None),
        "Self/PSU0": ("supply", 17.0, "Self/Chassis Power Control"),
        "Self/PSU1": ("supply", None, "Self/Chassis Power Control"),
    },
    "openbmc_mi300": {
        "chassis/power_total_power": ("chassis", 1203.0, None),
        "OAM_0": ("gpu", 141.0, "chassis/power_total_power"),
        "OAM_1": ("gpu", 139.0, "chassis/power_total_power"),
        "chassis/power_ps0_input_power": ("supply", 603.0, "chassis/power_total_power"),
        "chassis/power_p0_power": ("cpu_package", 211.5, "chassis/power_total_power"),
    },
}
SENSORS: dict[str, dict[str, float | None]] = {
    "dell_idrac9": {"System.Embedded.1/power-state": 1.0, "System.Embedded.1/Fan1A": 7920.0},
    "hpe_ilo5": {"1/power-state": 1.0, "1/Fan 1": 21.0, "1/01-Inlet Ambient": 22.0},
    "supermicro_hgx": {"1/power-state": 1.0, "HGX_Baseboard_0/power-state": 1.0, "HGX_NVSwitch_0/temperature": 44.0},
    "lenovo_xcc2": {"1/power-state": 1.0, "1/128L0": 24.0},
    "ami_megarac": {"Self/power-state": 0.0, "Self/FAN1": None, "Self/Inlet_Temp": 21.0, "Self/P12V": None},
    "openbmc_mi300": {"UBB/power-state": 1.0, "chassis/fantach_fan0_0": 5400.0, "chassis/fanpwm_fan0_pwm": 40.0},
}


def read(name: str, folder: Path, layout: str = "{}/index.json") -> Reading:
    for uri, doc in json.loads((MADE / f"{name}.json").read_text()).items():
        path = folder / layout.format(uri.strip("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(doc))
    return RedfishSource(root=folder).read(1)


def test_the_tables_have_every_file() -> None:
    assert set(TABLE) == set(SENSORS) == {path.stem for path in MADE.glob("*.json")}


@pytest.mark.parametrize("name", TABLE)
def test_every_vendors_tree_reads_as_the_table_says(name: str, tmp_path: Path) -> None:
    reading = read(name, tmp_path)
    assert {row["name"]: (row["kind"], row["power_w"], row["parent"]) for row in of_domains(reading.domains)} == (
        TABLE[name]
    )
    sensors = {row["name"]: row["value"] for row in of_sensors(reading.sensors)}
    assert {key: sensors[key] for key in SENSORS[name]} == SENSORS[name]
    missing = {part for part, _ in reading.missing}
    assert {f"domains[{key}].power_w" for key, row in TABLE[name].items() if row[1] is None} <= missing


def test_a_tree_may_hold_a_file_per_document(tmp_path: Path) -> None:
    """Tools differ: a folder with index.json per document, or NAME.json beside the folder of what lies below."""
    reading = read("hpe_ilo5", tmp_path, "{}.json")
    assert of_domains(reading.domains)[0]["power_w"] == 344.0


def test_a_gpu_that_is_a_chassis_has_nvmls_uuid_limits_and_energy(tmp_path: Path) -> None:
    rows = {row["name"]: row for row in of_domains(read("supermicro_hgx", tmp_path).domains)}
    gpu = rows["HGX_GPU_SXM_1"]
    assert (gpu["gpu_uuid"], gpu["energy_mj"]) == ("GPU-9dad5bfd-a732-23fe-40ad-465d0cbe5f95", 9_000_123_500)
    assert (gpu["limit_w"], gpu["limit_min_w"], gpu["limit_max_w"]) == (700.0, 200.0, 700.0)
    assert (rows["1/System Power Control"]["limit_w"], rows["HGX_Chassis_0"]["energy_mj"]) == (None, 45_000_000_000)
