"""Recorded and made-up Redfish trees read as a BMC: hand-checked tables, and what vendors do differently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.cli.base import DONE, FAILED
from agents.cli.main import main
from agents.node.sources import sound
from agents.node.sources.base import Reading
from agents.node.sources.redfish import RedfishSource
from agents.node.sources.rows import of_domains, of_sensors

DATA = Path(__file__).parents[2] / "data" / "redfish"
V1 = "/redfish/v1"


def read(capsys: pytest.CaptureFixture[str], folder: Path) -> dict[str, Any]:
    assert main(["read", "redfish", "--root", str(folder), "--json"]) == DONE
    out: dict[str, Any] = json.loads(capsys.readouterr().out)
    return out


# --- recordings ------------------------------------------------------------------------------------------------------

# Hand-checked: EnvironmentMetrics of Systems/HGX_Baseboard_0/Processors/GPU_SXM_n.
GPUS = [71.586, 73.91, 73.252, 74.755, 73.685, 75.942, 74.457, 74.656]


def test_a_dgx_h100_has_its_chassis_gpus_supplies_and_fans(capsys: pytest.CaptureFixture[str]) -> None:
    out = read(capsys, DATA / "nvidia_dgx_h100")
    rows = {row["name"]: row for row in out["domains"]}
    whole = rows["DGX/PWR_SYSTEM"]
    assert (whole["kind"], whole["power_w"], whole["parent"], whole["source"]) == ("chassis", 1950.0, None, "redfish")
    assert [row["name"] for row in out["domains"] if row["parent"] is None] == ["DGX/PWR_SYSTEM"]
    gpus = [row for row in out["domains"] if row["kind"] == "gpu"]
    assert [(row["name"], row["power_w"]) for row in gpus] == [(f"GPU_SXM_{n}", w) for n, w in enumerate(GPUS, 1)]
    first = gpus[0]
    assert (first["limit_w"], first["limit_min_w"], first["limit_max_w"]) == (700.0, 200.0, 700.0)
    assert (first["energy_mj"], first["gpu_uuid"]) == (56078352424, "GPU-9dad5bfd-a732-23fe-40ad-465d0cbe5f95")
    supplies = [(row["name"], row["power_w"]) for row in out["domains"] if row["kind"] == "supply"]
    assert supplies == [(f"DGX/PSU{n}", w) for n, w in enumerate([351.0, 351.0, 312.0, 312.0, 351.0, 312.0])]
    board = rows["HGX_Chassis_0/HGX_Chassis_0_TotalGPU_Power_0"]
    assert (board["kind"], board["power_w"], board["limit_w"], board["limit_max_w"]) == ("board", 586.0, 5600.0, 5600.0)
    assert rows["DGX/PWR_GB_SXM3"]["parent"] == "GPU_SXM_3"  # the same GPU by another sensor: no watt twice
    assert rows["HGX_GPU_SXM_2/HGX_GPU_SXM_2_DRAM_0_Power_0"]["parent"] == "GPU_SXM_2"


def test_a_dgx_h100s_fans_are_speeds_whatever_their_label_says(capsys: pytest.CaptureFixture[str]) -> None:
    out = read(capsys, DATA / "nvidia_dgx_h100")
    fans = {row["name"]: (row["value"], row["unit"]) for row in out["sensors"] if row["kind"] == "fan"}
    assert len(fans) == 36  # 24 of the system, 12 of the supplies
    assert fans["DGX/SPD_FAN_SYS1_F"] == (5916.0, "rpm")
    sensors = {row["name"]: row["value"] for row in out["sensors"]}
    assert (sensors["DGX/TEMP_CPU0"], sensors["DGX/VOLT_PDB_VRM_1"]) == (55.0, 12.1)
    assert out["missing"]["domains[DGX/Chassis Power Control]"] == (
        "this power control gives no consumed watts; it states a limit of 500 W"
    )


def test_the_standards_own_server_reads_once_not_thrice(capsys: pytest.CaptureFixture[str]) -> None:
    """Old Power and new PowerSubsystem tell the same things: each is told once."""
    out = read(capsys, DATA / "dmtf_public_rackmount1")
    got = [(r["name"], r["kind"], r["power_w"], r["limit_w"], r["parent"], r["health"]) for r in out["domains"]]
    assert got == [
        ("1U", "chassis", 374.0, 500.0, None, "OK"),
        ("CPU1", "cpu_package", 12.87, None, "1U", "OK"),
        ("1U/Bay1", "supply", 937.4, None, "1U", "Warning"),
        ("1U/Bay2", "supply", None, None, "1U", "Absent"),
    ]
    fans = [(r["name"], r["value"], r["unit"]) for r in out["sensors"] if r["kind"] == "fan"]
    assert fans == [
        ("1U/Bay1", 2200.0, "rpm"),
        ("1U/Bay2", 2400.0, "rpm"),
        ("1U/CPU1", 45.0, "percent"),
        ("1U/CPU2", 1490.0, "rpm"),
    ]
    assert out["missing"]["domains[1U/Bay2].power_w"] == "the supply's metrics give no power reading"


@pytest.mark.parametrize("name", ["nvidia_dgx_h100", "dmtf_public_rackmount1"])
def test_recordings_read_soundly_with_unique_names(name: str) -> None:
    reading = RedfishSource(root=DATA / name).read(1)
    assert sound.problem(reading) is None
    for rows in (of_domains(reading.domains), of_sensors(reading.sensors)):
        names = [row["name"] for row in rows]
        assert len(names) == len(set(names))
    parents = {row["parent"] for row in of_domains(reading.domains)} - {None}
    assert parents <= {row["name"] for row in of_domains(reading.domains)}


# --- other vendors ---------------------------------------------------------------------------------------------------


class Tree:
    """A tree made in a test: address below /redfish/v1 -> document."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.put("", {"Systems": {"@odata.id": f"{V1}/Systems"}, "Chassis": {"@odata.id": f"{V1}/Chassis"}})

    def put(self, at: str, doc: object) -> None:
        path = self.folder / at / "index.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(doc if isinstance(doc, str) else json.dumps(doc))

    def members(self, at: str, *names: str) -> None:
        self.put(at, {"Members": [{"@odata.id": f"{V1}/{at}/{name}"} for name in names]})

    def chassis(self, name: str = "C1", **body: Any) -> None:
        self.members("Chassis", name)
        self.put(f"Chassis/{name}", {"Id": name, "ChassisType": "RackMount", **body})

    def sensors(self, *sensors: dict[str, Any]) -> None:
        """A chassis that has nothing but these sensors."""
        self.chassis(Sensors={"@odata.id": f"{V1}/Chassis/C1/Sensors"})
        self.members("Chassis/C1/Sensors", *(sensor["Id"] for sensor in sensors))
        for sensor in sensors:
            self.put(f"Chassis/C1/Sensors/{sensor['Id']}", sensor)

    def read(self) -> Reading:
        reading = RedfishSource(root=self.folder).read(1)
        assert sound.problem(reading) is None
        return reading

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in of_domains(self.read().domains)}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def power(**body: Any) -> dict[str, Any]:
    return {"Power": {"@odata.id": f"{V1}/Chassis/C1/Power"}, **body}


def test_an_old_power_resource_alone(tree: Tree) -> None:
    tree.chassis(**power())
    supplies = [
        {"MemberId": "PSU1", "PowerInputWatts": 210, "PowerCapacityWatts": 800, "Status": {"State": "Enabled"}},
        {"Name": "PSU2", "PowerInputWatts": None, "LastPowerOutputWatts": 190.5},
        {"Name": "PSU3", "Status": {"State": "Absent"}, "PowerInputWatts": 0},
    ]
    control = {
        "MemberId": "0",
        "PowerConsumedWatts": "401",
        "PowerCapacityWatts": 1600,
        "PowerLimit": {"LimitInWatts": None},
    }
    tree.put("Chassis/C1/Power", {"PowerControl": [control], "PowerSupplies": supplies})
    rows = tree.rows()
    assert {n: (r["kind"], r["power_w"], r["parent"], r["limit_w"]) for n, r in rows.items()} == {
        "C1/0": ("chassis", 401.0, None, None),
        "C1/PSU1": ("supply", 210.0, "C1/0", None),
        "C1/PSU2": ("supply", 190.5, "C1/0", None),
    }
    assert dict(tree.read().missing)["domains[C1/PSU3]"] == "absent"


def test_power_controls_of_parts_are_parts(tree: Tree) -> None:
    tree.chassis(**power())
    controls = [
        {"Name": "Server Power Control", "PowerConsumedWatts": 350},
        {"Name": "CPU Sub-system Power", "PowerConsumedWatts": 120},
        {"Name": "Memory Sub-system Power", "PowerConsumedWatts": 30},
    ]
    tree.put("Chassis/C1/Power", {"PowerControl": controls})
    assert {n: (r["kind"], r["power_w"], r["parent"]) for n, r in tree.rows().items()} == {
        "C1/Server Power Control": ("chassis", 350.0, None),
        "C1/CPU Sub-system Power": ("cpu_package", 120.0, "C1/Server Power Control"),
        "C1/Memory Sub-system Power": ("dram", 30.0, "C1/Server Power Control"),
    }


def test_an_average_stands_in_and_says_so(tree: Tree) -> None:
    tree.chassis(**power())
    metrics = {"AverageConsumedWatts": 287, "IntervalInMin": 5}
    tree.put("Chassis/C1/Power", {"PowerControl": [{"Name": "System", "PowerMetrics": metrics}]})
    assert tree.rows()["C1/System"]["power_w"] == 287.0
    assert dict(tree.read().missing)["domains[C1/System].quality"] == "the BMC gives only an average over 5 minutes"


def test_openbmcs_total_power_is_the_chassis(tree: Tree) -> None:
    tree.sensors(
        {"Id": "power_total_power", "ReadingType": "Power", "ReadingUnits": "W", "Reading": 512.25},
        {"Id": "power_cpu0_power", "ReadingType": "Power", "ReadingUnits": "W", "Reading": 90},
        {"Id": "power_ps0_input_power", "ReadingType": "Power", "ReadingUnits": "W", "Reading": 300},
    )
    assert {n: (r["kind"], r["power_w"], r["parent"]) for n, r in tree.rows().items()} == {
        "C1/power_total_power": ("chassis", 512.25, None),
        "C1/power_cpu0_power": ("cpu_package", 90.0, "C1/power_total_power"),
        "C1/power_ps0_input_power": ("supply", 300.0, "C1/power_total_power"),
    }


@pytest.mark.parametrize(
    ("unit", "reading", "watts"), [("kW", 1.5, 1500.0), ("mW", 250_000, 250.0), ("W", "77.5", 77.5), (None, 60, 60.0)]
)
def test_units_are_what_they_say(tree: Tree, unit: str | None, reading: Any, watts: float) -> None:
    tree.sensors({"Id": "Sys_Power", "ReadingType": "Power", "ReadingUnits": unit, "Reading": reading})
    assert tree.rows()["C1/Sys_Power"]["power_w"] == watts


def test_milliwatts_called_watts_are_not_believed(tree: Tree) -> None:
    tree.members("Systems", "1")
    tree.put("Systems/1", {"Id": "1", "Processors": {"@odata.id": f"{V1}/Systems/1/Processors"}})
    tree.members("Systems/1/Processors", "GPU0")
    at = f"{V1}/Systems/1/Processors/GPU0/EnvironmentMetrics"
    tree.put(
        "Systems/1/Processors/GPU0",
        {"Id": "GPU0", "ProcessorType": "GPU", "UUID": "abc", "EnvironmentMetrics": {"@odata.id": at}},
    )
    limit = {"SetPoint": 300, "AllowableMax": 300}
    tree.put(at.removeprefix(V1 + "/"), {"PowerWatts": {"Reading": 71586}, "PowerLimitWatts": limit})
    row = tree.rows()["GPU0"]
    assert (row["power_w"], row["limit_w"], row["gpu_uuid"]) == (None, 300.0, "abc")
    assert dict(tree.read().missing)["domains[GPU0].power_w"] == (
        "reads 71586 W, above 6000 W for a gpu: not believed; is it milliwatts?"
    )


def test_supplies_alone_sum_to_the_chassis_and_say_so(tree: Tree) -> None:
    tree.chassis(PowerSubsystem={"@odata.id": f"{V1}/Chassis/C1/PowerSubsystem"})
    supplies = f"{V1}/Chassis/C1/PowerSubsystem/PowerSupplies"
    tree.put("Chassis/C1/PowerSubsystem", {"PowerSupplies": {"@odata.id": supplies}})
    tree.members("Chassis/C1/PowerSubsystem/PowerSupplies", "A", "B")
    for name, watts in (("A", 200), ("B", 221)):
        at = f"Chassis/C1/PowerSubsystem/PowerSupplies/{name}"
        tree.put(at, {"Id": name, "Metrics": {"@odata.id": f"{V1}/{at}/Metrics"}})
        tree.put(f"{at}/Metrics", {"InputPowerWatts": {"Reading": watts}})
    rows = tree.rows()
    assert (rows["C1/all-supplies"]["power_w"], rows["C1/all-supplies"]["kind"]) == (421.0, "chassis")
    assert rows["C1/A"]["parent"] == "C1/all-supplies"
    assert dict(tree.read().missing)["domains[C1/all-supplies].quality"] == (
        "the BMC tells no whole; this is the sum of 2 supplies"
    )


def test_a_gpu_baseboard_alone_holds_its_gpus(tree: Tree) -> None:
    """A baseboard's own BMC knows no chassis around it: no watt may be counted twice all the same."""
    tree.members("Chassis", "Board", "Module1")
    tree.members("Systems", "1")
    board, module = f"{V1}/Chassis/Board", f"{V1}/Chassis/Module1"
    tree.put(
        "Chassis/Board",
        {"Id": "Board", "ChassisType": "Module", "EnvironmentMetrics": {"@odata.id": f"{board}/EnvironmentMetrics"}},
    )
    tree.put("Chassis/Board/EnvironmentMetrics", {"PowerWatts": {"Reading": 800}})
    tree.put("Chassis/Module1", {"Id": "Module1", "Links": {"ContainedBy": {"@odata.id": board}}})
    tree.put("Systems/1", {"Id": "1", "Processors": {"@odata.id": f"{V1}/Systems/1/Processors"}})
    tree.members("Systems/1/Processors", "OAM_1")
    at = "Systems/1/Processors/OAM_1"
    links = {"Links": {"Chassis": {"@odata.id": module}}}
    metrics = {"EnvironmentMetrics": {"@odata.id": f"{V1}/{at}/EnvironmentMetrics"}}
    tree.put(at, {"Id": "OAM_1", "ProcessorType": "Accelerator", "UUID": "u", **links, **metrics})
    tree.put(f"{at}/EnvironmentMetrics", {"PowerWatts": {"Reading": 500}})
    assert {n: (r["kind"], r["power_w"], r["parent"]) for n, r in tree.rows().items()} == {
        "Board": ("board", 800.0, None),
        "OAM_1": ("gpu", 500.0, "Board"),
    }


def test_a_power_distribution_unit_tells_what_passes_through(tree: Tree) -> None:
    tree.put("", {"PowerEquipment": {"@odata.id": f"{V1}/PowerEquipment"}})
    tree.put("PowerEquipment", {"RackPDUs": {"@odata.id": f"{V1}/PowerEquipment/RackPDUs"}})
    tree.members("PowerEquipment/RackPDUs", "7")
    at = "PowerEquipment/RackPDUs/7"
    tree.put(at, {"Id": "7", "Metrics": {"@odata.id": f"{V1}/{at}/Metrics"}})
    tree.put(f"{at}/Metrics", {"PowerWatts": {"Reading": 6438}, "EnergykWh": {"Reading": 2}})
    row = tree.rows()["7"]
    assert (row["kind"], row["power_w"], row["energy_mj"]) == ("other", 6438.0, 7_200_000_000)


def test_nothing_drawn_by_a_running_system_is_not_believed(tree: Tree) -> None:
    tree.members("Systems", "1")
    tree.put("Systems/1", {"Id": "1", "PowerState": "On"})
    tree.chassis(**power())
    tree.put("Chassis/C1/Power", {"PowerControl": [{"Name": "System", "PowerConsumedWatts": 0}]})
    assert tree.rows()["C1/System"]["power_w"] is None
    assert "reads 0 W while a system is on" in str(tree.read().missing)


def test_links_may_be_relative_absolute_missing_or_lead_astray(tree: Tree) -> None:
    """A collection without its link is looked for where the standard puts it; a stranger's host is not asked."""
    tree.put("", {"Chassis": {"@odata.id": "Chassis/"}})
    members = [
        {"@odata.id": "/redfish/v1/Chassis/C1/"},
        {"@odata.id": "https://elsewhere.example/redfish/v1/Chassis/C2"},
        {"@odata.id": "/redfish/v1/../../etc/passwd"},
        {"@odata.id": "/redfish/v1/Chassis/%2e%2e/%2e%2e/x"},
        {"@odata.id": 5},
        "nonsense",
        None,
    ]
    tree.put("Chassis", {"Members": members})
    tree.put("Chassis/C1", {"Id": "C1", "Power": {"@odata.id": f"{V1}/Chassis/C1/Power"}})
    tree.put("Chassis/C1/Power", {"PowerControl": [{"PowerConsumedWatts": 5}, "x", None]})
    assert tree.rows()["C1/0"]["power_w"] == 5.0
    missing = str(tree.read().missing)
    assert "leaves /redfish and is not followed" in missing
    assert "C2" not in str(tree.read().domains)


def test_a_tree_that_loops_or_pages_for_ever_ends(tree: Tree) -> None:
    tree.chassis(Sensors={"@odata.id": f"{V1}/Chassis/C1"})  # a collection that is its own chassis
    tree.put("Chassis", {"Members": [{"@odata.id": f"{V1}/Chassis/C1"}], "Members@odata.nextLink": f"{V1}/Chassis"})
    assert tree.read().domains is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"x"', "\x00\x01", '{"PowerControl": 5}', '{"PowerControl": [[1]]}', "{" * 3000],
)
def test_odd_documents_stop_nothing(tree: Tree, text: str) -> None:
    tree.chassis(**power(EnvironmentMetrics={"@odata.id": f"{V1}/Chassis/C1/EnvironmentMetrics"}))
    tree.put("Chassis/C1/Power", text)
    tree.put("Chassis/C1/EnvironmentMetrics", {"PowerWatts": {"Reading": 99}})
    assert tree.rows()["C1"]["power_w"] == 99.0


@pytest.mark.parametrize("value", [None, "N/A", True, "1e400", -5, [], {}, "nan", 10**400])
def test_a_reading_that_is_no_number_is_unknown_never_zero(tree: Tree, value: Any) -> None:
    tree.sensors(
        {"Id": "Total_Power", "ReadingType": "Power", "Reading": value},
        {"Id": "Inlet", "ReadingType": "Temperature", "Reading": value},
    )
    reading = tree.read()
    assert reading.domains is None
    if value != -5:
        assert [row["value"] for row in of_sensors(reading.sensors)] == [None]
    assert dict(reading.missing)


def test_firmware_that_writes_nan_loses_that_value_only(tree: Tree) -> None:
    tree.chassis(**power(EnvironmentMetrics={"@odata.id": f"{V1}/Chassis/C1/EnvironmentMetrics"}))
    tree.put("Chassis/C1/EnvironmentMetrics", '{"PowerWatts": {"Reading": 88}, "TemperatureCelsius": {"Reading": NaN}}')
    assert tree.rows()["C1"]["power_w"] == 88.0


@pytest.mark.parametrize("below", ["", "redfish/v1", "v1", "a-vendor/redfish/v1"])
def test_a_recording_may_begin_at_any_of_the_usual_places(tmp_path: Path, below: str) -> None:
    tree = Tree(tmp_path / below)
    tree.chassis(**power())
    tree.put("Chassis/C1/Power", {"PowerControl": [{"PowerConsumedWatts": 5}]})
    assert [row["power_w"] for row in of_domains(RedfishSource(root=tmp_path).read(1).domains)] == [5.0]


def test_a_metric_report_stands_in_for_sensors_that_are_not_listed(tree: Tree) -> None:
    tree.put(
        "",
        {"Chassis": {"@odata.id": f"{V1}/Chassis"}, "TelemetryService": {"@odata.id": f"{V1}/TelemetryService"}},
    )
    tree.chassis()
    tree.put("TelemetryService", {"MetricReports": {"@odata.id": f"{V1}/TelemetryService/MetricReports"}})
    tree.members("TelemetryService/MetricReports", "R")
    stale = {"Oem": {"X": {"MetricValueStale": True}}}
    values = [
        {"MetricProperty": f"{V1}/Chassis/C1/Sensors/Total_Power", "MetricValue": "431.5"},
        {"MetricProperty": f"{V1}/Chassis/C1/Sensors/CPU_Power", "MetricValue": "9", **stale},
        {"MetricProperty": f"{V1}/Chassis/C1/Sensors/Inlet_Temp", "MetricValue": "23"},
    ]
    tree.put("TelemetryService/MetricReports/R", {"MetricValues": values})
    reading = tree.read()
    assert [(r["name"], r["kind"], r["power_w"]) for r in of_domains(reading.domains)] == [
        ("C1/Total_Power", "chassis", 431.5)
    ]
    assert [(r["name"], r["value"]) for r in of_sensors(reading.sensors)] == [("C1/Inlet_Temp", 23.0)]


def test_not_a_tree_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", "redfish", "--root", str(tmp_path)]) == FAILED
    assert "a recorded Redfish tree holds its service root in it" in capsys.readouterr().err
    Tree(tmp_path)
    assert main(["read", "redfish", "--root", str(tmp_path)]) == FAILED
    assert "source redfish has nothing to read: " in capsys.readouterr().err
