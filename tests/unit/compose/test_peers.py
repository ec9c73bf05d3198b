"""What the peers themselves say of our files: promtool, amtool, systemd-analyze."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from agents.cli import metrics_docs
from tests.peers import require_peer

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "compose"
RULES = COMPOSE / "prometheus" / "rules"


def ask(binary: str, *argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([require_peer(binary), *map(str, argv)], capture_output=True, text=True, timeout=120)


def test_promtool_takes_config_and_rules() -> None:
    config = ask("promtool", "check", "config", COMPOSE / "prometheus" / "prometheus.yml")
    assert config.returncode == 0, config.stderr
    rules = ask("promtool", "check", "rules", *sorted(RULES.glob("*.yml*")))
    assert rules.returncode == 0, rules.stdout + rules.stderr


def test_promtools_rule_tests_pass_and_can_fail(tmp_path: Path) -> None:
    tests = ask("promtool", "test", "rules", COMPOSE / "prometheus" / "tests" / "alerts.yml")
    assert tests.returncode == 0, tests.stdout + tests.stderr
    copy = tmp_path / "prometheus"
    shutil.copytree(COMPOSE / "prometheus", copy)
    alerts, cases = copy / "rules" / "alerts.yml", copy / "tests" / "alerts.yml"
    only_first = yaml.safe_load(cases.read_text())
    only_first["tests"] = only_first["tests"][:1]
    cases.write_text(yaml.safe_dump(only_first))
    assert ask("promtool", "test", "rules", cases).returncode == 0
    alerts.write_text(alerts.read_text().replace("> 0.9 *", "> 0.99 *"))
    assert ask("promtool", "test", "rules", cases).returncode != 0


def test_all_five_kinds_have_a_rule_a_test_and_a_runbook() -> None:
    groups = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    kinds = {rule["labels"]["kind"] for rule in rules}
    assert kinds == {"high_energy", "low_efficiency", "carbon_budget", "system_failure", "performance_degradation"}
    tested = (COMPOSE / "prometheus" / "tests" / "alerts.yml").read_text()
    for rule in rules:
        assert rule["alert"] in tested
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert f"## {rule['alert']}\n".lower() in (ROOT / page).read_text().lower()
        assert anchor == rule["alert"].lower()


def test_rules_and_dashboard_name_only_metrics_that_we_export() -> None:
    names = {name for rows in metrics_docs.rows().values() for name, *_ in rows}
    site = {"eo_carbon_intensity_grams_per_kwh", "eo_carbon_budget_grams_per_day"}  # the user's own file gives them
    board = json.loads((COMPOSE / "grafana" / "dashboards" / "overview.json").read_text())
    text = "".join(path.read_text() for path in RULES.glob("*.yml")) + json.dumps(board["panels"])
    used = set(re.findall(r"\b(?:eo|kepler)_[a-z0-9_]+|DCGM_[A-Z_]+", text)) - {"eo_role"}
    assert used - site <= names, used - site - names


def test_amtool_takes_the_alertmanagers_config() -> None:
    done = ask("amtool", "check-config", COMPOSE / "alertmanager" / "alertmanager.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("unit", sorted(path.name for path in (COMPOSE / "systemd").glob("*.service")))
def test_systemd_takes_the_units_and_rates_their_exposure(unit: str, tmp_path: Path) -> None:
    text = (COMPOSE / "systemd" / unit).read_text()
    copy = tmp_path / unit
    copy.write_text(
        re.sub(r"/opt/energy-orchestrator/bin/eo.*", "/bin/true", text)
    )  # verify wants a program that exists
    verified = ask("systemd-analyze", "verify", copy)
    assert verified.returncode == 0 and not verified.stderr, verified.stderr
    rated = ask("systemd-analyze", "security", "--offline=true", "--no-pager", copy)
    level = re.search(r"Overall exposure level for \S+ (\d+\.\d+)", rated.stdout)
    assert level is not None and float(level[1]) <= 2.0, rated.stdout[-200:]
