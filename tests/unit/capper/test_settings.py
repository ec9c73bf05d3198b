"""Settings: nothing by default, every misspelling told, every bound checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.capper.errors import SettingsError
from agents.capper.settings import CapperSettings, load


def test_by_default_nothing_can_be_capped() -> None:
    settings = load(env={})
    assert (settings.opt_in, settings.max_mode, settings.breaker_protected) == (False, "observe", False)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "eo.toml"
    path.write_text('[capper]\nopt_in = true\nmax_mode = "canary"\npower_ceiling_w = 600\nallow_uids = [990, 991]\n')
    settings = load(path, {"EO_CAPPER_MAX_MODE": "on", "EO_CAPPER_SM_FLOOR_MHZ": "900", "EO_DATA_DIR": "elsewhere"})
    assert settings == CapperSettings(
        opt_in=True, max_mode="on", power_ceiling_w=600.0, sm_floor_mhz=900, allow_uids=(990, 991)
    )


def test_every_type_is_read_from_the_environment() -> None:
    env = {
        "EO_CAPPER_OPT_IN": "yes",
        "EO_CAPPER_MAX_TTL_S": "20",
        "EO_CAPPER_ALLOW_UIDS": "1, 2",
        "EO_CAPPER_ACTUATOR": "twin",
    }
    settings = load(env=env)
    assert (settings.opt_in, settings.max_ttl_s, settings.allow_uids, settings.actuator) == (True, 20.0, (1, 2), "twin")


def test_well_known_names_for_floor_and_ceiling_work() -> None:
    settings = load(env={"GPU_POWER_FLOOR": "250", "GPU_POWER_CEILING": "600", "EO_CAPPER_POWER_CEILING_W": "500"})
    assert (settings.power_floor_w, settings.power_ceiling_w) == (250.0, 500.0)


@pytest.mark.parametrize(
    ("env", "text"),
    [
        (
            {"EO_CAPPER_OPTIN": "1"},
            "the environment names 'optin', which is no setting of the capper; did you mean 'opt_in'?",
        ),
        ({"EO_CAPPER_ZZZ": "1"}, "known are opt_in, max_mode"),
        ({"EO_CAPPER_OPT_IN": "maybe"}, "EO_CAPPER_OPT_IN is 'maybe', which is not bool"),
        ({"EO_CAPPER_MAX_MODE": "full"}, "max_mode is 'full'; one of observe, recommend, canary, on"),
        ({"EO_CAPPER_ACTUATOR": "ipmi"}, "actuator is 'ipmi'; one of nvml, dry-run, twin"),
        ({"EO_CAPPER_POWER_FLOOR_W": "-1"}, "power_floor_w is -1; give a number above 0"),
        ({"EO_CAPPER_POWER_FLOOR_W": "nan"}, "power_floor_w is nan; give a number above 0"),
        ({"GPU_POWER_FLOOR": "700", "GPU_POWER_CEILING": "300"}, "power_floor_w 700 is above power_ceiling_w 300"),
        ({"EO_CAPPER_MAX_TTL_S": "31"}, "must lie within 1 to 30"),
        ({"EO_CAPPER_MIN_TTL_S": "0.5"}, "must lie within 1 to 30"),
        ({"EO_CAPPER_RETRY_S": "-1"}, "retry_s is -1; give 0 to 3600 seconds"),
        ({"EO_CAPPER_MAX_REQUEST_BYTES": "1"}, "max_request_bytes is 1; give 1024 to 16777216"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(env: dict[str, str], text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(env=env)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[capper]\nopt_inn = true", "names 'opt_inn', which is no setting of the capper; did you mean 'opt_in'?"),
        ("[capper]\nopt_in = 1", "sets opt_in to 1, which is not bool"),
        ("[capper]\nmax_ttl_s = true", "sets max_ttl_s to True, which is not float"),
        ("[capper", "is not TOML"),
    ],
)
def test_a_file_that_makes_no_sense_is_one_sentence(tmp_path: Path, content: str, text: str) -> None:
    path = tmp_path / "eo.toml"
    path.write_text(content)
    with pytest.raises(SettingsError) as caught:
        load(path, {})
    assert text in str(caught.value)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path / "none.toml", {})
