"""Asks the running API all that its OpenAPI document says, by schemathesis, and compares every answer with it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis.engine import Status, events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder

#: Seconds within which every answer must come; a wait is one second at most (see ``_impatient``).
_PATIENCE = 5.0


#: Headers of HTTP itself, of hygiene, and for proxies.
_OF_EVERY_ANSWER = {
    *("cache-control", "connection", "content-length", "content-type", "date", "transfer-encoding"),
    *("x-accel-buffering", "x-content-type-options"),
}
_FRAMING = {"connection", "content-length", "expect", "host", "transfer-encoding", "upgrade"}
#: What a request that its schema allows may be answered with.
_ALLOWED = ["2xx", "3xx", "401", "403", "404", "409"]
#: And what depends on more than a schema can say: other fields, the model, the clock, what there is.
_BEYOND_SCHEMAS = {
    "POST /api/v1/jobs": ["422"],
    "POST /api/v1/jobs/cancel": ["422"],
    "POST /api/v1/jobs/{job_id}/replay": ["410", "422"],
    "POST /api/v1/jobs/replay": ["400", "422"],
    "POST /api/v1/batches": ["400", "422"],  # as JSONL, the schema says no more than that it is text
    "GET /api/v1/batches": ["400", "422"],
    "GET /api/v1/batches/{batch_id}/events": ["400"],
    "GET /api/v1/jobs": ["400", "422"],  # a cursor that we did not give; years that are meant by nobody
    "GET /api/v1/jobs/summary": ["422"],
    "GET /api/v1/jobs/{job_id}/events": ["400"],  # an event that has not been
    "GET /api/v1/events": ["400"],
    "GET /api/v1/artifacts/{artifact_id}": ["410", "416"],
    "POST /api/v1/uploads": ["415", "422"],  # what is no picture, or not the one that its sha256 says
    "GET /api/v1/uploads/{upload_id}/content": ["410", "416"],
    "POST /api/v1/webhooks": ["422"],  # which addresses may be called
    "PATCH /api/v1/webhooks/{webhook_id}": ["422"],
    "POST /api/v1/webhooks/{webhook_id}/redeliver": ["422"],
    "GET /api/v1/webhooks/deliveries": ["400", "422"],
}


@dataclass
class Conformance:
    """What a run asked, and what was not as documented."""

    seed: int
    #: Requests by operation, such as ``GET /api/v1/jobs``.
    cases: Counter[str] = field(default_factory=Counter)
    #: How often each check was made.
    checks: Counter[str] = field(default_factory=Counter)
    #: Answers by operation and status.
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    #: What failed, with a command that asks the same.
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, recorder: ScenarioRecorder) -> None:
        for case_id, node in recorder.cases.items():
            label = node.value.operation.label
            self.cases[label] += 1
            answer = recorder.find_response(case_id=case_id)
            if answer is not None:
                self.answers[label, answer.status_code] += 1
        for nodes in recorder.checks.values():
            for check in nodes:
                self.checks[check.name] += 1
                if check.status is Status.FAILURE and check.failure_info is not None:
                    failure = check.failure_info.failure
                    text = f"{failure.operation}: {failure}\n{check.failure_info.code_sample[:3000]}"
                    self.failures.setdefault(f"{failure.operation} {check.name} {failure.title}", text)

    def report(self) -> str:
        lines = [f"seed {self.seed}, {self.cases.total():,} cases, {self.checks.total():,} checks"]
        for label, count in sorted(self.cases.items()):
            statuses = sorted((status, n) for (name, status), n in self.answers.items() if name == label)
            lines.append(f"{count:6,}  {label}  " + ", ".join(f"{status}: {n}" for status, n in statuses))
        return "\n".join([*lines, *(f"\nFAILED {text}" for text in self.failures.values())])


def ask_everything(
    url: str, key: str, *, seed: int, examples: int, known: Mapping[str, Sequence[str]], thorough: bool
) -> Conformance:
    """One run.

    Args:
        key: an API key with every scope; schemathesis leaves it out, too, and sends wrong ones.
        examples: random requests to each operation, beside those that it derives from the document.
        known: ids that exist, by the name of the parameter that takes them.
        thorough: also every edge of every schema, and what one answer has as the input of the next request.
    """
    config = schemathesis.Config.from_dict(_config(url, key, seed, examples, known, thorough))
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)
    found = Conformance(seed)
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            found.add(event.recorder)
        elif isinstance(event, events.NonFatalError):
            found.failures[f"{event.label} {event.info.title}"] = f"{event.label}: {event.info.format()}"
        elif isinstance(event, events.FatalError):
            raise event.exception
    return found


def _config(
    url: str, key: str, seed: int, examples: int, known: Mapping[str, Sequence[str]], thorough: bool
) -> dict[str, Any]:
    return {
        "base-url": url,
        "seed": seed,
        "auth": {"openapi": {"api_key": {"bearer": key}}},
        "workers": 1,
        "continue-on-failure": True,
        "request-timeout": _PATIENCE,
        "max-stream-events": 2,
        "cache": {"enabled": False},
        "generation": {"max-examples": examples, "database": "none"},
        "phases": {"coverage": {"enabled": thorough}, "stateful": {"enabled": thorough}},
        "dictionaries": {name: {"values": list(values)} for name, values in known.items()},
        "parameters": {f"path.{name}": {"dictionary": name, "probability": 0.7} for name in known},
        "operations": [
            {
                "include-name": name,
                "checks": {"positive_data_acceptance": {"expected-statuses": _ALLOWED + more}},
            }
            for name, more in _BEYOND_SCHEMAS.items()
        ],
    }


@schemathesis.check
def documented_headers(
    _: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Every header that tells a client something is in the document."""
    documented = case.operation.responses.find_by_status_code(response.status_code)
    if documented is None:
        return
    names = {name.lower() for name in documented.definition.get("headers", {})} | _OF_EVERY_ANSWER
    unknown = sorted({name.lower() for name in response.headers} - names)
    assert not unknown, f"not documented for {response.status_code}: {', '.join(unknown)}"


@schemathesis.serializer("application/jsonl", "application/x-ndjson")
def jsonl(_: schemathesis.SerializationContext, value: Any) -> bytes:
    return value.encode("utf-8", "replace") if isinstance(value, str) else json.dumps(value).encode()


@schemathesis.hook("before_call")
def _impatient(context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: Any) -> None:
    """No worker runs, so whoever waits for a job waits in vain: for a second at most.

    And what frames a request is not the document's business: ``test_fuzz`` sees to that.
    """
    for name in [name for name in case.headers or () if name.lower() in _FRAMING]:
        del case.headers[name]
    wanted = case.headers.get("Prefer") if case.headers else None
    if isinstance(wanted, str):
        case.headers["Prefer"] = re.sub(r"\d+", "1", wanted)
