"""Settings: a misspelt name is refused with the nearest, origins are told, secrets hidden, keys made once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.cli import config
from agents.cli.base import USAGE, EoError
from agents.cli.known_names import known_names, misspelt, refuse_misspelt
from agents.cli.main import main
from agents.cli.settings_view import settings
from streams.contract.layout import Layout
from streams.contract.signing import KeyRing, Signer
from streams.settings import WorkerSettings


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("KAFKA_BOOTSTRAP", raising=False)
    return Layout(tmp_path)


def test_every_settings_field_is_known() -> None:
    wanted = {f"EO_{field.upper()}" for field in WorkerSettings.model_fields}
    wanted |= {"EO_CAPPER_OPT_IN", "EO_DATA_DIR", "EO_KAFKA_SASL_PASSWORD", "EO_FAILPOINT", "EO_BROKER_IMAGE"}
    assert wanted <= known_names()


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("EO_STRATEG", "EO_STRATEGY"),
        ("EO_HOLDOUT", "EO_HOLDOUT_RATIO"),
        ("EO_CAPPER_OPTIN", "EO_CAPPER_OPT_IN"),
        ("EO_KAFKA_SASL_USERNAM", "EO_KAFKA_SASL_USERNAME"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(EoError) as told:
        refuse_misspelt({name: "1", "PATH": "/bin"})
    assert told.value.code == USAGE
    assert f"{name} is no setting, did you mean {near}?" in str(told.value)


def test_a_name_like_no_other_is_refused_all_the_same() -> None:
    assert misspelt({"EO_QQQQQQQQQQQQ": "1"}) == [("EO_QQQQQQQQQQQQ", None)]


def test_known_and_foreign_names_pass() -> None:
    refuse_misspelt({"EO_MODE": "observe", "EOS_HOME": "/x", "HOME": "/root"})


def test_every_verb_of_the_broker_refuses_it(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EO_STRATEG", "balanced")
    for verb in ("broker status", "topics plan", "dlq list"):
        assert main(verb.split()) == 2


def test_origins_and_secrets(tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "eo.toml"
    file.write_text("[node]\nmetrics_port = 9999\n[capper]\nopt_in = true\npower_floor_w = 200\n")
    env = {"EO_HOLDOUT_RATIO": "0.2", "EO_CAPPER_POWER_FLOOR_W": "250", "EO_KAFKA_SASL_PASSWORD": "hush"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    rows = {row.name: row for row in settings(env, file)}
    assert (rows["EO_HOLDOUT_RATIO"].value, rows["EO_HOLDOUT_RATIO"].origin) == ("0.2", "env")
    assert (rows["EO_TTL_MS"].value, rows["EO_TTL_MS"].origin) == ("15000", "default")
    assert (rows["EO_CAPPER_OPT_IN"].value, rows["EO_CAPPER_OPT_IN"].origin) == ("True", "file")
    assert (rows["EO_CAPPER_POWER_FLOOR_W"].value, rows["EO_CAPPER_POWER_FLOOR_W"].origin) == ("250.0", "env")
    assert (rows["EO_NODE_METRICS_PORT"].value, rows["EO_NODE_METRICS_PORT"].origin) == ("9999", "file")
    assert rows["EO_KAFKA_SASL_PASSWORD"].value == "***"


def test_show_prints_every_name_once(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert len(names) == len(set(names))
    assert {"EO_DATA_DIR", "EO_MODE", "KAFKA_BOOTSTRAP", "EO_CAPPER_OPT_IN"} <= set(names)


def test_check_tells_every_problem_at_once(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EO_STRATEG", "x")
    monkeypatch.setenv("EO_TTL_MS", "3")
    monkeypatch.setenv("EO_CAPPER_OPT_IN", "maybe")
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "kafka")
    assert main(["config", "check", "--json"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert problems[0] == "EO_STRATEG is no setting, did you mean EO_STRATEGY? Correct or unset it."
    assert "the broker address 'kafka' is not host:port" in problems[1]
    assert problems[2] == "EO_TTL_MS is '3': input should be greater than or equal to 10000."
    assert problems[3].startswith("EO_CAPPER_OPT_IN is 'maybe'")


def test_check_is_content_with_the_defaults(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    config.ensure_keys(layout)
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out == "All settings are good.\n"


def test_keys_are_made_once_and_fit_the_ring(layout: Layout) -> None:
    made = config.ensure_keys(layout)
    assert made == [layout.actuation_key, layout.operator_key, layout.keyring]
    before = {path: path.read_bytes() for path in made}
    assert config.ensure_keys(layout) == []
    assert {path: path.read_bytes() for path in made} == before
    assert [path.stat().st_mode & 0o777 for path in made[:2]] == [0o600, 0o600]
    assert layout.keys.stat().st_mode & 0o777 == 0o700
    ids = [line.split()[0] for line in layout.keyring.read_text().splitlines()]
    assert [one.rpartition("-")[0] for one in ids] == ["actuation", "operator"]
    KeyRing.load(layout.keyring)


def test_a_lost_ring_is_made_again_and_a_rotated_key_stays_listed(layout: Layout) -> None:
    config.ensure_keys(layout)
    line = Signer.load(layout.actuation_key).public_line()
    layout.keyring.unlink()
    assert config.ensure_keys(layout) == [layout.keyring]
    layout.actuation_key.unlink()
    assert config.ensure_keys(layout) == [layout.actuation_key, layout.keyring]
    assert line in layout.keyring.read_text()
    assert len(layout.keyring.read_text().splitlines()) == 3


def test_an_empty_key_of_a_crash_is_made_again_and_a_damaged_one_is_not(layout: Layout) -> None:
    layout.keys.mkdir()
    layout.actuation_key.touch()
    config.ensure_keys(layout)
    assert Signer.load(layout.actuation_key).key_id.startswith("actuation-")
    layout.operator_key.write_text("half")
    with pytest.raises(EoError) as told:
        config.ensure_keys(layout)
    assert str(told.value) == (
        f"{layout.operator_key} is not a key file (one line: key_id base64-seed; make one with `eo config keys`); put "
        "the file back from a copy, or move it away and run `eo config keys`."
    )
    assert layout.operator_key.read_text() == "half"


def test_a_key_that_others_may_read_is_a_problem(layout: Layout) -> None:
    config.ensure_keys(layout)
    layout.actuation_key.chmod(0o644)
    assert config.key_problems(layout) == [
        f"{layout.actuation_key} has mode 0644, others may read it; `chmod 600 {layout.actuation_key}`."
    ]


def test_a_key_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EoError, match=r"the key folder .*/file/keys cannot be used \(Not a directory\)"):
        config.ensure_keys(Layout(tmp_path / "file"))
