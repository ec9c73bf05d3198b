"""GPUs of a BMC that no processor tells: chassis of several vendors by their names, and what only sounds like one."""

from __future__ import annotations

import pytest

from agents.node.bmc.documents import ROOT, Documents
from agents.node.bmc.extract import snapshot
from agents.node.bmc.gpu_names import names_gpu, processor_kind
from agents.node.bmc.rows import DomainRow
from agents.node.bmc.values import Json


@pytest.mark.parametrize(
    "name",
    ["HGX_GPU_SXM_1", "HGX_GPU_0", "GPU_SXM_8", "GPU1", "GPU 2", "gpu-3", "OAM_7", "OAM0", "PCIeGPU1", "PCIeGPU_2",
     "Gaudi_0", "Accelerator 4", "SXM5", "Gpu1", "GraphicsCard_1", "HGX_GPU_12"],
)  # fmt: skip
def test_names_of_one_gpu(name: str) -> None:
    assert names_gpu(name)


@pytest.mark.parametrize(
    "name",
    ["HGX_GPU_Baseboard_0", "GPU_Board_1", "HGX_ERoT_GPU_SXM_1", "HGX_IRoT_GPU_0", "GPU_SXM_1_DRAM_0", "GPU_Tray_1",
     "GPU Fan 3", "GPU", "HGX_Chassis_0", "HGX_NVSwitch_0", "CPU_1", "Rack 12", "1", "", "GPUs 8", "HGX_FPGA_0",
     "GPU_1_Temp", "GPU zone 2", "x" * 60 + "GPU1", "Self", "System.Embedded.1", "NVMe_1", "PSU1"],
)  # fmt: skip
def test_names_that_only_sound_like_one(name: str) -> None:
    assert not names_gpu(name)


@pytest.mark.parametrize(
    ("kind", "name", "model", "maker", "found"),
    [
        ("GPU", "x", "", "", "gpu"),
        ("CPU", "GPU1", "", "", "cpu_package"),
        ("Accelerator", "Proc5", "H100 80GB HBM3", "NVIDIA", "gpu"),
        ("Accelerator", "Proc5", "AMD Instinct MI300X OAM", "AMD", "gpu"),
        ("", "OAM_3", "", "", "gpu"),
        ("FPGA", "FPGA_0", "H100", "NVIDIA", "other"),
        ("", "CPU.Socket.1", "Xeon", "Intel", "cpu_package"),
        ("Accelerator", "DPU_1", "BlueField-3", "NVIDIA", "other"),
    ],
)
def test_kinds_of_processors(kind: str, name: str, model: str, maker: str, found: str) -> None:
    assert processor_kind(kind, name, model, maker) == found


def rows(*chassis: Json, processors: tuple[Json, ...] = ()) -> list[DomainRow]:
    docs = Documents()
    for role, found in (("chassis", chassis), ("processor", processors)):
        for n, doc in enumerate(found):
            watts = doc.pop("watts", None)
            uri = f"{ROOT}/{role}/{n}"
            docs.put(role, uri, doc, origin=uri, owner=uri)
            if watts is not None:
                metrics = {"PowerWatts": {"Reading": watts}}
                docs.put("environment", f"{uri}/EnvironmentMetrics", metrics, origin=uri, owner=uri)
    return snapshot(docs).domains


def test_chassis_named_as_gpus_are_gpus_of_their_baseboard() -> None:
    gpus = [{"Id": f"HGX_GPU_{n}", "ChassisType": "Component", "watts": 100.0 + n} for n in range(2)]
    gpus[0] |= {"UUID": "9DAD5BFD-0000-0000-0000-465d0cbe5f95", "Manufacturer": "NVIDIA"}
    whole = {"Id": "Chassis_0", "ChassisType": "RackMount", "watts": 900.0}
    found = {row.name: row for row in rows(whole, *gpus)}
    assert [(found[f"HGX_GPU_{n}"].kind, found[f"HGX_GPU_{n}"].power_w) for n in range(2)] == [
        ("gpu", 100.0),
        ("gpu", 101.0),
    ]
    assert found["HGX_GPU_0"].gpu_uuid == "GPU-9dad5bfd-0000-0000-0000-465d0cbe5f95"
    assert (found["HGX_GPU_0"].parent, found["Chassis_0"].kind) == ("Chassis_0", "chassis")


def test_a_chassis_without_type_and_container_that_names_a_gpu_is_no_enclosure() -> None:
    (found,) = rows({"Id": "GPU_1", "watts": 70.0})
    assert (found.kind, found.total) == ("gpu", 0)


def test_a_server_that_calls_itself_after_its_gpus_stays_a_chassis() -> None:
    (found,) = rows({"Id": "1", "Name": "GPU Server 8", "ChassisType": "RackMount", "watts": 3000.0})
    assert found.kind == "chassis"


def test_a_gpu_that_its_processor_tells_is_not_told_twice() -> None:
    processor = {"Id": "GPU_SXM_1", "ProcessorType": "GPU", "watts": 71.0}  # without a link to its chassis
    module = {"Id": "HGX_GPU_SXM_1", "ChassisType": "Module", "watts": 71.2}
    found = rows(module, processors=(processor,))
    assert [(row.name, row.kind) for row in found if row.kind == "gpu"] == [("GPU_SXM_1", "gpu")]
    assert sum(row.power_w or 0.0 for row in found if row.parent is None) < 80.0
