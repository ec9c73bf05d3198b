"""The made-up archive: every row says that it is; `eo sql`, `eo forecast` and the API work on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from agents.cli import sample_archive
from agents.cli.base import EoError
from agents.cli.forecast import text
from agents.cli.main import main
from agents.gateway import shapes
from agents.gateway.run import check
from agents.gateway.sample import SampleDoor
from agents.gateway.settings import GatewaySettings
from streams.sinks.archive_reader import open_reader
from tests.fakes.gateway_rig import Rig

Out = pytest.CaptureFixture[str]
PLAN = sample_archive.Plan(days=3, end_s=1_790_000_000)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "archive"
    sample_archive.make(folder, PLAN)
    return folder


def ask(archive: Path, sql: str) -> list[tuple[object, ...]]:
    opened = open_reader(archive)
    try:
        return opened.connection.execute(sql).fetchall()
    finally:
        opened.connection.close()


def test_every_row_is_simulated_and_within_what_an_h100_can_draw(made: Path) -> None:
    ((rows, qualities, low, high, gpus),) = ask(
        made,
        "SELECT count(*), string_agg(DISTINCT quality, ','), min(power_w), max(power_w), count(DISTINCT uuid) "
        "FROM telemetry_node",
    )
    assert (rows, qualities, gpus) == (3 * 288 * 2 * 8, "simulated", 8)
    assert 60.0 < float(str(low)) < float(str(high)) < 760.0
    assert ask(made, "SELECT DISTINCT quality, cluster, kind FROM engine_reading") == [("simulated", "sample", "twin")]
    assert "SIMULATED" in (made / "README.txt").read_text()


def test_energy_follows_power_and_load_has_a_course(made: Path) -> None:
    (row,) = ask(
        made,
        "SELECT max(energy_mj) / 1e3 / (3 * 86400), avg(power_w), max(util_ratio), count(DISTINCT hour(ts)) "
        "FROM telemetry_node WHERE uuid = (SELECT min(uuid) FROM telemetry_node)",
    )
    mean_w, power_w, util, hours = (float(str(value)) for value in row)
    assert abs(mean_w / power_w - 1) < 0.02 and util == 1.0 and hours == 24
    ((low, high),) = ask(
        made, "SELECT min(w), max(w) FROM (SELECT avg(power_w) AS w FROM telemetry_node GROUP BY hour(ts))"
    )
    assert float(str(high)) / float(str(low)) > 1.02


def test_the_same_seed_makes_the_same_and_another_another(tmp_path: Path) -> None:
    question, found = "SELECT round(sum(power_w), 3) FROM telemetry_node", []
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        sample_archive.make(tmp_path / name, sample_archive.Plan(days=0.25, seed=seed, end_s=PLAN.end_s))
        found.append(ask(tmp_path / name, question))
    assert found[0] == found[1] != found[2]


def test_what_is_there_is_never_touched(tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("keep")
    assert main(["sample-archive", str(tmp_path / "mine")]) == 2
    assert "holds something already" in capsys.readouterr().err
    assert main(["sample-archive", str(tmp_path / "mine" / "file" / "x")]) == 1
    assert "cannot be written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "file"]
    for words, told in (
        (["--days", "0"], "1 to 90"),
        (["--days", "nan"], "1 to 90"),
        (["--gpus", "6"], "multiple of 4"),
    ):
        assert main(["sample-archive", str(tmp_path / "new"), *words]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_sql_and_forecast_read_it_and_say_simulated(made: Path, capsys: Out) -> None:
    assert main(["sql", "--archive", str(made), "SELECT DISTINCT quality FROM telemetry_node", "--csv"]) == 0
    assert capsys.readouterr().out.split() == ["quality", "simulated"]
    assert main(["forecast", "--archive", str(made), "--hours", "2", "--metric", "tokens_per_s", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["made_from"] == {"quality": "simulated", "shares": {"simulated": 1.0}} and len(told["points"]) == 24
    said = text(told)
    assert said.startswith("SIMULATED history: tokens_per_s") and "backtest over" in said


def test_forecast_says_what_is_wrong(made: Path, tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "empty").mkdir()
    for words, code, told in (
        (["--archive", str(tmp_path / "nowhere")], 1, "is no folder"),
        (["--archive", str(tmp_path / "empty")], 1, "let the archive grow"),
        (["--archive", str(made), "--hours", "168"], 1, "let the archive grow"),
        (["--metric", "watts"], 2, "there are: power_w, util_ratio"),
        (["--hours", "0"], 2, "above 0 to 168"),
        (["--hours", "nan"], 2, "above 0 to 168"),
    ):
        assert main(["forecast", *words]) == code
        seen = capsys.readouterr().err
        assert told in seen and seen.count("\n") == 1


def test_a_young_demo_forecasts_a_day_from_a_made_up_past_and_says_so(tmp_path: Path) -> None:
    rig = Rig(tmp_path, settings={"sample_history": True, "archive_timeout_s": 60}).live(seconds=1)
    with TestClient(rig.app) as client:
        body = {"metric": "power_w", "horizon_hours": 24}
        seen = client.post("/forecast", json=body, headers=rig.key("read"))
        assert seen.status_code == 200, seen.text
        told = shapes.Forecast.model_validate(seen.json())
        assert len(told.points) == 96 and told.made_from.quality == "simulated"
        best = next(one for one in told.backtest if one.model == told.model)
        assert best.windows >= 8 and best.mae is not None and best.coverage is not None
        assert len(told.notes) == 1 and told.notes[0].startswith("SIMULATED history: the demo has run for too short")
        quantiles = [point.quantiles for point in told.points]
        assert all(one["0.1"] <= one["0.5"] <= one["0.9"] for one in quantiles)
        rig.hold(0, "team-a", range(4))
        of_a_team = client.post("/forecast", json={**body, "namespace": "team-a"}, headers=rig.key("read"))
        assert of_a_team.status_code == 409  # the made-up past has no namespaces


def test_outside_a_demo_there_is_no_made_up_past(tmp_path: Path) -> None:
    with pytest.raises(EoError, match="is no demo's data folder"):
        check(GatewaySettings(data_dir=tmp_path, sample_history=True))
    with pytest.raises(EoError, match="is no folder"):
        check(GatewaySettings(data_dir=tmp_path, archive_dir=tmp_path / "nowhere"))
    rig = Rig(tmp_path).live(seconds=1)
    with TestClient(rig.app) as client:
        seen = client.post("/forecast", json={"metric": "power_w", "horizon_hours": 24}, headers=rig.key("read"))
        assert seen.status_code == 409


def test_the_gateway_answers_from_another_archive(made: Path, tmp_path: Path) -> None:
    rig = Rig(tmp_path, settings={"archive_dir": made, "archive_timeout_s": 60}).live(seconds=1)
    with TestClient(rig.app) as client:
        told = client.get("/v1/energy?hours=24&by=engine", headers=rig.key("read")).json()
    assert {row["engine"] for row in told["history"]} == {"sample-0", "sample-1"}


def test_a_damaged_sample_is_not_made_again_over_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "mine").write_text("keep")
    with pytest.raises(EoError, match="holds something already"):
        SampleDoor(tmp_path / "s", 5.0).ready()
