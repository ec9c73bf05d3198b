"""10,000 seeded faults: every value comes back within TTL + 1 s, none leaks, no forged command is obeyed."""

from __future__ import annotations

from tests.faults.capper_faults import FAULTS, campaign


def test_ten_thousand_faults_leak_nothing() -> None:
    report = campaign(10_000, seed=1)
    assert (report.faults, report.restored, report.leaked, report.leaks) == (10_000, 10_000, 0, [])
    assert report.forged_or_stale_obeyed == 0
    assert set(report.by_fault) == set(FAULTS), "every kind of fault happened"
