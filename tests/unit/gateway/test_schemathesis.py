"""The API against its own OpenAPI document: schemathesis makes requests, good and bad ones, with and without a key.

/v1/stream never ends and has tests of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.openapi import from_dict

from agents.cli.config import ensure_keys
from agents.gateway.openapi import document
from tests.fakes import archive as archive_fake
from tests.fakes.gateway_rig import Rig

EXAMPLES = 12
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),  # shrinking would take minutes and find nothing new
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    folder = tmp_path_factory.mktemp("gateway")
    archive_fake.build(folder / "archive")
    rig = Rig(folder, {"rate_per_s": 1e6}).live()
    ensure_keys(rig.context.settings.layout)  # so that applying gets as far as it can
    return rig


def _schema() -> schemathesis.BaseSchema:
    folder = Path("/nonexistent")  # nothing is read from it: only the document is wanted here
    made = json.loads(json.dumps(document(Rig(folder).app)))
    # The test sends the key itself: one that schemathesis makes up would be overwritten and look accepted.
    del made["components"]["securitySchemes"]
    for operations in made["paths"].values():
        for operation in operations.values():
            del operation["security"]
    return from_dict(made).exclude(path="/v1/stream")


schema = _schema()


def wants_to_apply_without_its_header(case: schemathesis.Case) -> bool:
    named = {name.lower() for name in case.headers or {}}
    return isinstance(case.body, dict) and bool(case.body.get("apply")) and "idempotency-key" not in named


@schema.parametrize()
@BOUNDED
def test_with_a_key_every_answer_is_as_documented(case: schemathesis.Case, rig: Rig) -> None:
    case.operation.schema.app = rig.app
    rig.clock.seconds += 0.01
    if "key" not in rig.settings:
        rig.settings["key"] = rig.key("admin")
    if wants_to_apply_without_its_header(case):
        # No schema can say that a body's field needs a header; the rule has its own answer.
        assert case.call(headers=rig.settings["key"], app=rig.app).status_code in (400, 405, 422)
        return
    case.call_and_validate(headers=rig.settings["key"], app=rig.app)


@schema.parametrize()
@settings(BOUNDED, max_examples=3)
def test_without_a_key_nothing_is_told(case: schemathesis.Case, rig: Rig) -> None:
    rig.clock.seconds += 0.01
    case.headers.pop("Authorization", None)
    case.headers.pop("X-API-Key", None)
    response = case.call(app=rig.app)
    # 405: schemathesis also tries methods that the path does not have.
    assert response.status_code in (401, 405, 413) or case.operation.path in ("/health", "/health/live")
    assert "GPU-" not in response.text
