"""The client stands by itself, and its two faces and the server's schemas agree."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from shared import client
from shared.batches import schemas as batches
from shared.client import models
from shared.events import schemas as events
from shared.jobs import list_schemas as lists
from shared.jobs import schemas as jobs
from shared.jobs.status import FINAL, OnUnknown, Priority
from shared.uploads import schemas as uploads

ROOT = Path(__file__).resolve().parents[3]
_HEAVY = (
    "sqlalchemy",
    "celery",
    "kombu",
    "redis",
    "psycopg",
    "fastapi",
    "starlette",
    "pydantic",
    "alembic",
    "google",
)


def test_importing_it_brings_httpx_and_nothing_of_the_server() -> None:
    program = "import sys, json, shared.client; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert "httpx" in loaded
    assert [name for name in _HEAVY if name in loaded] == []
    ours = {name for name in loaded if name.split(".")[0] in {"shared", "api", "worker", "scripts"}}
    assert {name for name in ours if not name.startswith("shared.client")} == {"shared"}


def test_it_is_typed_for_who_uses_it() -> None:
    assert (ROOT / "shared/client/py.typed").exists()


def test_its_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert client.__version__ == project["version"]


@pytest.mark.parametrize("name", [name for name in vars(client.Plantain) if not name.startswith("_")])
def test_both_faces_take_the_same(name: str) -> None:
    blocking = inspect.signature(getattr(client.Plantain, name))
    other = inspect.signature(getattr(client.AsyncPlantain, name))
    assert list(blocking.parameters.values()) == list(other.parameters.values())
    assert str(other.return_annotation).removeprefix("Async") == blocking.return_annotation


def test_neither_face_has_more_than_the_other() -> None:
    def public(face: type[Any]) -> set[str]:
        return {name for name in vars(face) if not name.startswith("_")}

    assert public(client.Plantain) == public(client.AsyncPlantain)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (models.Job, jobs.JobDetail),
        (models.Attempt, jobs.AttemptView),
        (models.JobProblem, jobs.JobProblem),
        (models.EstimatedStart, jobs.EstimatedStart),
        (models.Progress, jobs.Progress),
        (models.JobWarning, jobs.JobWarning),
        (models.JobResult, jobs.JobResult),
        (models.JobPage, lists.JobPage),
        (models.CancelReceipt, jobs.CancelReceipt),
        (models.JobsCancelled, lists.JobsCancelled),
        (models.Summary, lists.JobsSummary),
        (models.ModelCounts, lists.ModelCounts),
        (models.QueueCounts, lists.QueueCounts),
        (models.CostCounts, lists.CostCounts),
        (models.Event, events.EventView),
        (models.EventJob, events.EventJob),
        (models.Delta, events.DeltaView),
        (models.Upload, uploads.UploadView),
        (models.Batch, batches.BatchView),
        (models.BatchResult, batches.ResultLine),
        (models.BatchCancelled, batches.BatchCancelled),
    ],
)
def test_the_models_have_the_servers_fields(ours: Any, theirs: type[BaseModel]) -> None:
    fields = {field.name for field in dataclasses.fields(ours)} - {"raw"}
    assert fields == set(theirs.model_fields)


@pytest.mark.parametrize(
    ("ours", "theirs", "beside"),
    [
        (models.SubmitOptions, jobs.JobSubmit, {"kind", "model", "input"}),
        (models.JobFilter, lists.JobFilter, set()),
        (models.BatchOptions, batches.BatchSubmit, {"jobs"}),
    ],
)
def test_what_can_be_said_is_what_the_server_takes(
    ours: Any, theirs: type[BaseModel], beside: set[str]
) -> None:
    assert set(ours.__annotations__) | beside == set(theirs.model_fields)


def test_its_words_are_the_servers() -> None:
    assert frozenset(FINAL) == client.FINAL
    assert set(get_args(models.Priority)) == set(Priority)
    assert set(get_args(models.OnUnknown)) == set(OnUnknown)
