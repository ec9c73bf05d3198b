"""What the fake BMC serves: one server with GPUs, two supplies, fans, sensors and limits. Only documents."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]
V1 = "/redfish/v1"
OK = {"State": "Enabled", "Health": "OK"}


def ref(uri: str) -> Json:
    return {"@odata.id": uri}


@dataclass
class Limit:
    """One settable limit, watts."""

    value: float | None
    low: float
    high: float
    default: float


@dataclass
class Machine:
    """The readings and limits behind the documents."""

    gpus: int = 2
    chassis_w: float = 900.0
    gpu_w: float = 250.0
    power_state: str = "On"
    exception: str | None = "LogEventOnly"  # of the old PowerLimit
    limits: dict[str, Limit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for n in range(1, self.gpus + 1):
            self.limits[f"gpu{n}"] = Limit(700.0, 200.0, 700.0, 700.0)
        self.limits["chassis"] = Limit(3000.0, 1000.0, 3000.0, 3000.0)
        self.limits["old"] = Limit(2800.0, 500.0, 3000.0, 2800.0)

    def uuid(self, n: int) -> str:
        return f"00000000-0000-4000-8000-{n:012d}"

    # -- documents -----------------------------------------------------------------------------------------------------

    def documents(self) -> dict[str, Json]:
        """Address -> document."""
        made: dict[str, Json] = {}

        def put(uri: str, kind: str, name: str, body: Json) -> None:
            made[uri] = {
                "@odata.id": uri,
                "@odata.type": f"#{kind}",
                "Id": uri.rpartition("/")[2],
                "Name": name,
                **body,
            }

        def collection(uri: str, kind: str, members: list[str]) -> None:
            body = {"Members": [ref(m) for m in members], "Members@odata.count": len(members)}
            made[uri] = {"@odata.id": uri, "@odata.type": f"#{kind}.{kind}", "Name": kind, **body}

        self._root(put)
        self._system(put, collection)
        self._chassis(put, collection)
        self._power(put, collection)
        self._sensors(put, collection)
        self._telemetry(put, collection)
        return made

    def _root(self, put: Any) -> None:
        put(
            V1,
            "ServiceRoot.v1_15_0.ServiceRoot",
            "Root Service",
            {
                "Id": "RootService",
                "RedfishVersion": "1.17.0",
                "UUID": "92384634-2938-2342-8820-489239905423",
                "Systems": ref(f"{V1}/Systems"),
                "Chassis": ref(f"{V1}/Chassis"),
                "SessionService": ref(f"{V1}/SessionService"),
                "TelemetryService": ref(f"{V1}/TelemetryService"),
                "Links": {"Sessions": ref(f"{V1}/SessionService/Sessions")},
                "ProtocolFeaturesSupported": {"ExpandQuery": {"NoLinks": False, "ExpandAll": False}},
            },
        )
        put(
            f"{V1}/SessionService",
            "SessionService.v1_1_8.SessionService",
            "Sessions",
            {
                "ServiceEnabled": True,
                "SessionTimeout": 300,
                "Status": OK,
                "Sessions": ref(f"{V1}/SessionService/Sessions"),
            },
        )

    def _system(self, put: Any, collection: Any) -> None:
        base = f"{V1}/Systems/1"
        collection(f"{V1}/Systems", "ComputerSystemCollection", [base])
        put(
            base,
            "ComputerSystem.v1_20_0.ComputerSystem",
            "Fake Server",
            {
                "SystemType": "Physical",
                "Manufacturer": "Fake",
                "UUID": self.uuid(0),
                "PowerState": self.power_state,
                "Status": OK,
                "Processors": ref(f"{base}/Processors"),
                "Links": {"Chassis": [ref(f"{V1}/Chassis/1")]},
                "Actions": {
                    "#ComputerSystem.Reset": {
                        "target": f"{base}/Actions/ComputerSystem.Reset",
                        "ResetType@Redfish.AllowableValues": ["On", "GracefulShutdown"],
                    }
                },
            },
        )
        names = [f"GPU_{n}" for n in range(1, self.gpus + 1)]
        collection(f"{base}/Processors", "ProcessorCollection", [f"{base}/Processors/{name}" for name in names])
        for n, name in enumerate(names, 1):
            uri = f"{base}/Processors/{name}"
            put(
                uri,
                "Processor.v1_18_0.Processor",
                "Processor",
                {
                    "ProcessorType": "GPU",
                    "Manufacturer": "NVIDIA",
                    "Model": "Fake GPU",
                    "UUID": self.uuid(n),
                    "Status": OK,
                    "EnvironmentMetrics": ref(f"{uri}/EnvironmentMetrics"),
                    "Links": {"Chassis": ref(f"{V1}/Chassis/1")},
                },
            )
            self._metrics(put, f"{uri}/EnvironmentMetrics", f"gpu{n}", self.gpu_w)

    def _metrics(self, put: Any, uri: str, limit: str, power_w: float) -> None:
        at = self.limits[limit]
        put(
            uri,
            "EnvironmentMetrics.v1_4_0.EnvironmentMetrics",
            "Environment Metrics",
            {
                "PowerWatts": {"Reading": power_w},
                "EnergyJoules": {"Reading": 1000.0 * power_w},
                "TemperatureCelsius": {"Reading": 41.0},
                "PowerLimitWatts": {
                    "SetPoint": at.value,
                    "AllowableMin": at.low,
                    "AllowableMax": at.high,
                    "DefaultSetPoint": at.default,
                    "ControlMode": "Automatic",
                },
            },
        )

    def _chassis(self, put: Any, collection: Any) -> None:
        base = f"{V1}/Chassis/1"
        collection(f"{V1}/Chassis", "ChassisCollection", [base])
        parts = ("Power", "PowerSubsystem", "EnvironmentMetrics", "Controls", "ThermalSubsystem", "Sensors")
        put(
            base,
            "Chassis.v1_23_0.Chassis",
            "Fake Chassis",
            {
                "ChassisType": "RackMount",
                "PowerState": self.power_state,
                "Status": OK,
                **{part: ref(f"{base}/{part}") for part in parts},
                "Links": {"ComputerSystems": [ref(f"{V1}/Systems/1")]},
            },
        )
        self._metrics(put, f"{base}/EnvironmentMetrics", "chassis", self.chassis_w)
        at = self.limits["chassis"]
        collection(f"{base}/Controls", "ControlCollection", [f"{base}/Controls/PowerLimit"])
        put(
            f"{base}/Controls/PowerLimit",
            "Control.v1_4_0.Control",
            "System Power Limit",
            {
                "PhysicalContext": "Chassis",
                "ControlType": "Power",
                "ControlMode": "Automatic",
                "SetPoint": at.value,
                "SetPointUnits": "W",
                "AllowableMin": at.low,
                "AllowableMax": at.high,
                "Sensor": {"Reading": self.chassis_w},
                "Status": OK,
            },
        )

    def _power(self, put: Any, collection: Any) -> None:
        base, old = f"{V1}/Chassis/1", self.limits["old"]
        limit: Json = {"LimitInWatts": old.value, "CorrectionInMs": 1000}
        if self.exception is not None:
            limit["LimitException"] = self.exception
        put(
            f"{base}/Power",
            "Power.v1_7_1.Power",
            "Power",
            {
                "PowerControl": [
                    {
                        "@odata.id": f"{base}/Power#/PowerControl/0",
                        "MemberId": "0",
                        "Name": "System Power Control",
                        "PowerConsumedWatts": self.chassis_w,
                        "PowerCapacityWatts": 3200,
                        "PowerLimit": limit,
                        "Status": OK,
                    }
                ],
                "PowerControl@odata.count": 1,
            },
        )
        put(
            f"{base}/PowerSubsystem",
            "PowerSubsystem.v1_1_2.PowerSubsystem",
            "Power",
            {"CapacityWatts": 3200, "Status": OK, "PowerSupplies": ref(f"{base}/PowerSubsystem/PowerSupplies")},
        )
        supplies = [f"{base}/PowerSubsystem/PowerSupplies/PSU{n}" for n in range(2)]
        collection(f"{base}/PowerSubsystem/PowerSupplies", "PowerSupplyCollection", supplies)
        for uri in supplies:
            put(
                uri,
                "PowerSupply.v1_5_1.PowerSupply",
                "Supply",
                {"PowerCapacityWatts": 1600, "Status": OK, "Metrics": ref(f"{uri}/Metrics")},
            )
            put(
                f"{uri}/Metrics",
                "PowerSupplyMetrics.v1_1_0.PowerSupplyMetrics",
                "Metrics",
                {"InputPowerWatts": {"Reading": self.chassis_w / 2}, "Status": OK},
            )

    def _sensors(self, put: Any, collection: Any) -> None:
        base = f"{V1}/Chassis/1"
        put(
            f"{base}/ThermalSubsystem",
            "ThermalSubsystem.v1_3_0.ThermalSubsystem",
            "Thermal",
            {"Status": OK, "Fans": ref(f"{base}/ThermalSubsystem/Fans")},
        )
        fans = [f"{base}/ThermalSubsystem/Fans/Fan{n}" for n in range(1, 3)]
        collection(f"{base}/ThermalSubsystem/Fans", "FanCollection", fans)
        for uri in fans:
            body = {"Status": OK, "SpeedPercent": {"Reading": 45.0, "SpeedRPM": 6200.0}}
            put(uri, "Fan.v1_5_0.Fan", "Fan", body)
        collection(f"{base}/Sensors", "SensorCollection", [f"{base}/Sensors/Inlet"])
        put(
            f"{base}/Sensors/Inlet",
            "Sensor.v1_7_0.Sensor",
            "Inlet",
            {"ReadingType": "Temperature", "ReadingUnits": "Cel", "Reading": 24.5, "Status": OK},
        )

    def _telemetry(self, put: Any, collection: Any) -> None:
        base = f"{V1}/TelemetryService"
        put(
            base,
            "TelemetryService.v1_3_1.TelemetryService",
            "Telemetry",
            {"ServiceEnabled": True, "Status": OK, "MetricReports": ref(f"{base}/MetricReports")},
        )
        collection(f"{base}/MetricReports", "MetricReportCollection", [f"{base}/MetricReports/Power"])
        value = {
            "MetricId": "ExtraPower",
            "MetricValue": "12.5",
            "MetricProperty": f"{V1}/Chassis/1/Sensors/Extra_Power",
            "Timestamp": "2026-01-01T00:00:00Z",
        }
        put(
            f"{base}/MetricReports/Power",
            "MetricReport.v1_4_2.MetricReport",
            "Power",
            {"MetricValues": [], "Timestamp": "2026-01-01T00:00:00Z"}
            | ({"MetricValues": [value]} if self.extra else {}),
        )

    extra: bool = False  # a report with a sensor that is listed nowhere else


@dataclass
class Recorded(Machine):
    """A recorded tree served as a BMC serves it; its limits can be read and not set."""

    folder: Path = Path()

    def documents(self) -> dict[str, Json]:
        if not self.made:
            for path in self.folder.rglob("index.json"):
                at = path.parent.relative_to(self.folder).as_posix()
                self.made[V1 if at == "." else f"{V1}/{at}"] = json.loads(path.read_text())
        return dict(self.made)

    made: dict[str, Json] = field(default_factory=dict)
