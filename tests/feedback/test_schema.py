"""Requests that are generated from the OpenAPI document: no answer is a server error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from rlalign.feedback.store import Store
from rlalign.feedback.web.app import make_app
from rlalign.feedback.web.server import Limits
from tests.feedback.conftest import GOLD, PRACTICE, Client, check_places

schemathesis = pytest.importorskip("schemathesis", reason="needs the extra test")


@pytest.mark.parametrize("location", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("kind", "requests"),
    [
        ("pair", 60), ("rating", 15), ("ranking", 15),
        pytest.param("rating", 60, marks=pytest.mark.slow), pytest.param("ranking", 60, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_no_generated_request_is_a_server_error(kind: str, requests: int, open_study: Callable[..., Store]) -> None:
    """Requests for each route, some valid and some not, of a person who is half way through a study."""
    extra = {"rating": '[[scales]]\nname = "help"\n', "pair": "gold_share = 0.2\n" + PRACTICE + GOLD, "ranking": ""}[
        kind
    ]
    store = open_study(f'kind = "{kind}"\n{extra}', prompts=20)
    app = make_app(store, Limits(0, 1, 0))
    client = Client(store, app=app)
    client.begin()
    schema = schemathesis.openapi.from_dict(app.fastapi.openapi())
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {"/api/next", "/api/vote", "/api/undo", "/api/heartbeat"}
    for operation in operations:
        _try(operation, client, requests)
    check_places(store)


def _try(operation: Any, client: Client, requests: int) -> None:
    """Send generated requests of one route, valid ones and others."""
    valid, wrong = (operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode)

    @given(case=valid | wrong)
    @settings(
        max_examples=requests,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def send(case: Any) -> None:
        body = case.body
        known = isinstance(body, dict | list | str | int | float | bool | None)
        headers = {"X-CSRF": client.csrf}
        answer = client.http.request(
            operation.method.upper(), operation.path, headers=headers, **({"json": body} if known else {})
        )
        assert answer.status_code < 500, (operation, body, answer.text)

    send()
