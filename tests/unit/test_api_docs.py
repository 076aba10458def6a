"""docs/api.md, its "Reading": every route, field and status that there is, and no other."""

import re
from pathlib import Path
from typing import cast, get_args

import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel

from services.api import http, views
from services.api.database import Pool
from services.api.handlers import Progress
from shared.submission import Status

READING = (Path(__file__).parents[2] / "docs" / "api.md").read_text().partition("\n## Reading\n")[2]
TABLES: list[tuple[str, type[BaseModel]]] = [
    ("### `GET /leaderboard?", views.LeaderboardRow),
    ("### `GET /submissions/{submission_id}`\n", views.Submission),
    ("### `GET /submissions/{submission_id}/evaluations`", views.Evaluation),
    ("\nA check, here", views.Check),
    ("\nPhases;", views.Phases),
    ("\nMachine:", views.Machine),
    ("### `GET /payments/", views.Payment),
    ("\nA claim:", views.Claim),
    ("### `GET /credits?", views.Credit),
    ("### `GET /weights?", views.Weights),
    ("### `GET /health` of the API", views.Health),
]


def table(after: str, head: str = "field") -> list[str]:
    """The first cells of the first table with that head behind some text."""
    _before, found, rest = READING.partition(after)
    assert found, f"docs/api.md does not say {after!r}"
    rows = rest.partition(f"| {head} |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE)


@pytest.mark.parametrize(("after", "view"), TABLES, ids=[view.__name__ for _, view in TABLES])
def test_every_field(after: str, view: type[BaseModel]) -> None:
    assert table(after) == list(view.model_fields)


def test_every_status() -> None:
    assert set(table("`runs_completed`", head="status")) == set(get_args(Status))


def test_every_route() -> None:
    app = http.create(cast("Pool", None), Progress(), competition="")
    routes = {route.path for route in app.routes if isinstance(route, APIRoute)}
    assert set(re.findall(r"^### `GET ([^`?]+)", READING, re.MULTILINE)) == routes
