"""docs/api.md names every route, every setting and the figures that the forecasters reach."""

from __future__ import annotations

import re
from pathlib import Path

from agents.gateway.problems import MEANINGS
from agents.gateway.settings import GatewaySettings
from tests.unit.gateway.test_access import EXPECTED

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "api.md").read_text()


def test_every_route_is_documented() -> None:
    for method, path in EXPECTED:
        if path not in ("/static/{name}", "/"):
            assert path.replace("{key_id}", "{id}") in PAGE, (method, path)


def test_every_error_is_explained() -> None:
    told = set(map(int, re.findall(r"^\| (\d{3}) \|", PAGE, re.MULTILINE)))
    assert set(MEANINGS) - told <= {405, 500}


def test_every_setting_is_named() -> None:
    own = {name.upper() for name in GatewaySettings.model_fields} - {"CLUSTER", "BOOTSTRAP", "DATA_DIR"}
    assert {f"_{name}" for name in own} <= set(re.findall(r"_[A-Z_]+", PAGE.replace("EO_GATEWAY", ""))) | {"_HOST"}
