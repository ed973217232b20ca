"""Every fault by name, how a request asks for one, and which one a call gets.

Three sources, in this order: the header `x-sim-fault: name[:argument][;times=N]` (several, comma separated), a
directive in the prompt `[[sim:fault=name[:argument][;times=N]]]`, and the rates in the configuration. With
`times=N` only the first N calls of a job meet the fault; the job is the one in x-request-id or Idempotency-Key,
without either the prompt stands for it.
"""

import hashlib
import random
import re
from collections import OrderedDict
from dataclasses import dataclass

#: When in a call a fault shows.
REFUSAL = "refusal"  # an error answer at once, nothing billed
CONTENT = "content"  # a well-formed answer that is not what was asked for
BODY = "body"  # 200 with a body that is wrong as a whole
DELIVERY = "delivery"  # the answer is right, and does not arrive as it should

GEMINI, GATEWAY = "gemini", "gateway"
#: A streamed call of the Gemini form, which has that form's faults and some of its own.
GEMINI_STREAM = "gemini stream"
BOTH = (GEMINI, GATEWAY)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault."""

    stage: str
    summary: str
    #: The argument's default; "" where there is none.
    argument: str = ""
    forms: tuple[str, ...] = BOTH
    #: Whether the call counts as billed: whatever got as far as the model's work does.
    billed: bool = True

    def exists_in(self, form: str) -> bool:
        """Whether a call of this form can meet it."""
        return form in self.forms or (form == GEMINI_STREAM and GEMINI in self.forms)


def _refusal(summary: str, argument: str = "") -> Fault:
    return Fault(REFUSAL, summary, argument, billed=False)


FAULTS: dict[str, Fault] = {
    "429": _refusal("429 without details"),
    "429-retryinfo": _refusal("429 with QuotaFailure per minute and RetryInfo; argument: seconds", "2.5"),
    "429-perday": _refusal("429 whose quotaId says PerDay"),
    "429-spend": _refusal("429 of the spend-based limit"),
    "400": _refusal("400 INVALID_ARGUMENT"),
    "bad-key": _refusal("the answer to a wrong key: 400 API_KEY_INVALID, gateway 401"),
    "402": _refusal("402, no credit left"),
    "403": _refusal("403 PERMISSION_DENIED"),
    "404": _refusal("404, model not found"),
    "499": _refusal("499 CANCELLED"),
    "500": _refusal("500 INTERNAL"),
    "502-html": _refusal("502 as an HTML page of a proxy"),
    "503": _refusal("503 UNAVAILABLE, model overloaded"),
    "504": _refusal("504 DEADLINE_EXCEEDED"),
    "reset": Fault(DELIVERY, "the work is done (and billed), then the connection is reset without an answer"),
    "reset-midbody": Fault(DELIVERY, "headers and half of the body, then a reset"),
    "close-midbody": Fault(DELIVERY, "headers and half of the body, then an orderly close"),
    "drip": Fault(DELIVERY, "the right body in small pieces; argument: seconds for all of it", "60"),
    "stall": Fault(DELIVERY, "no byte of an answer for the argument's seconds, then a reset", "600"),
    "stall-midbody": Fault(
        DELIVERY, "half of the body, silence for the argument's seconds, then a reset", "600"
    ),
    "stream-error": Fault(
        CONTENT, "half of the parts, then an error as an event; argument: its status", "503", (GEMINI_STREAM,)
    ),
    "stream-unfinished": Fault(
        CONTENT, "half of the parts, then an end in order, without a finish reason", forms=(GEMINI_STREAM,)
    ),
    "empty-200": Fault(BODY, "200 with an empty body"),
    "empty-object": Fault(BODY, "200 with `{}`"),
    "malformed-json": Fault(BODY, "200 with JSON that breaks off"),
    "html-200": Fault(BODY, "200 with an HTML page instead of JSON"),
    "no-candidates": Fault(CONTENT, "`candidates: []`, gateway `images: []`"),
    "truncated-base64": Fault(CONTENT, "the picture's base64 is cut so that it does not decode"),
    "truncated-picture": Fault(CONTENT, "the base64 decodes, the picture in it breaks off half-way"),
    "not-a-picture": Fault(CONTENT, "the picture's bytes are text"),
    "jpeg-as-png": Fault(CONTENT, "a JPEG labelled image/png"),
    "wrong-size": Fault(CONTENT, "a picture of another ratio than the one asked for"),
    "draft-thoughts": Fault(
        CONTENT, "draft pictures with `thought: true` before the real one", forms=(GEMINI,)
    ),
    "text-only": Fault(CONTENT, "finishReason STOP with text and no picture", forms=(GEMINI,)),
    "no-image": Fault(CONTENT, "finishReason NO_IMAGE; gateway status failed"),
    "safety": Fault(CONTENT, "finishReason SAFETY without content; gateway status blocked"),
    "finish": Fault(CONTENT, "no content, the argument as finishReason", "IMAGE_SAFETY", (GEMINI,)),
    "finish-message": Fault(CONTENT, "finishReason OTHER with a finishMessage", forms=(GEMINI,)),
    "block-reason": Fault(
        CONTENT, "promptFeedback without candidates; argument: blockReason", "PROHIBITED_CONTENT", (GEMINI,)
    ),
    "max-tokens": Fault(CONTENT, "finishReason MAX_TOKENS after half of the text", forms=(GEMINI,)),
    "unknown-enum": Fault(CONTENT, "a finishReason nobody has seen yet, with content", forms=(GEMINI,)),
    "int-enum": Fault(CONTENT, "finishReason as a number", forms=(GEMINI,)),
    "bad-json": Fault(CONTENT, "text that is not the JSON asked for", forms=(GEMINI,)),
    "no-usage": Fault(CONTENT, "no usage in the answer"),
    "silent-reroute": Fault(CONTENT, "modelVersion names another model", "gemini-3.9-flash"),
    "blocked-422": Fault(REFUSAL, "422 content_blocked as an error answer", forms=(GATEWAY,), billed=False),
    "poll-lost": Fault(CONTENT, "202, and the poll answers 404", forms=(GATEWAY,)),
    "poll-503": Fault(CONTENT, "202, and the first poll answers 503", forms=(GATEWAY,)),
    "poll-forever": Fault(CONTENT, "202, and the poll says running for ever", forms=(GATEWAY,)),
    "private-url": Fault(
        CONTENT, "the picture's URL; argument: the URL", "https://10.0.0.1/a.png", (GATEWAY,)
    ),
}

_DIRECTIVE = re.compile(r"\[\[sim:\s*([^\[\]]*?)\s*\]\]")
_MAX_REMEMBERED = 50_000


class UnknownFault(ValueError):
    """A fault name that is not in the table, or a malformed request for one."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A fault that a request asks for."""

    name: str
    argument: str
    times: int | None = None

    @property
    def fault(self) -> Fault:
        """The table's entry."""
        return FAULTS[self.name]

    def number(self) -> float:
        """The argument as seconds."""
        return float(self.argument)


@dataclass(frozen=True, slots=True)
class Directives:
    """What a prompt asks of the simulator."""

    prompt: str  # without the directives
    faults: tuple[Asked, ...] = ()
    latency: float | None = None  # exact seconds
    gateway_mode: str | None = None


def parse_fault(text: str) -> Asked:
    """`name[:argument][;times=N]`. Raises UnknownFault."""
    head, *options = (part.strip() for part in text.split(";"))
    name, _, argument = head.partition(":")
    if name not in FAULTS:
        raise UnknownFault(f"simulator: there is no fault {name!r}; docs/simulator.md lists them")
    times: int | None = None
    for option in options:
        key, _, value = option.partition("=")
        if key.strip() != "times" or not value.strip().isdigit():
            raise UnknownFault(f"simulator: cannot read the fault option {option!r}")
        times = int(value)
    return _checked(Asked(name, argument or FAULTS[name].argument, times))


def _checked(asked: Asked) -> Asked:
    default = FAULTS[asked.name].argument
    if default.replace(".", "").isdigit():
        try:
            asked.number()
        except ValueError:
            raise UnknownFault(f"simulator: {asked.name} takes seconds, not {asked.argument!r}") from None
    return asked


def read_directives(prompt: str, header: str | None) -> Directives:
    """All faults of the header and the prompt, and the prompt's other directives. Raises UnknownFault."""
    faults = [parse_fault(part) for part in (header or "").split(",") if part.strip()]
    latency: float | None = None
    mode: str | None = None
    if "[[sim:" not in prompt:
        return Directives(prompt, tuple(faults))
    for found in _DIRECTIVE.findall(prompt):
        key, _, value = found.partition("=")
        match key.strip():
            case "fault":
                faults.append(parse_fault(value))
            case "latency":
                latency = _seconds(value)
            case "gateway":
                mode = _mode(value.strip())
            case _:
                raise UnknownFault(f"simulator: there is no directive {key!r}")
    return Directives(_DIRECTIVE.sub("", prompt).strip(), tuple(faults), latency, mode)


def _seconds(value: str) -> float:
    try:
        return max(0.0, float(value))
    except ValueError:
        raise UnknownFault(f"simulator: latency is a number of seconds, not {value!r}") from None


def _mode(value: str) -> str:
    if value not in ("sync", "poll"):
        raise UnknownFault(f"simulator: the gateway answers sync or poll, not {value!r}")
    return value


class FaultPicker:
    """Chooses the fault of a call and remembers how often each job has met which."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._met: OrderedDict[str, int] = OrderedDict()

    def reset(self) -> None:
        """Forget which job has met which fault."""
        self._met.clear()

    def pick(self, form: str, asked: tuple[Asked, ...], rates: dict[str, float], job: str) -> Asked | None:
        """The fault of this call, or None. Faults that the form does not have are passed over."""
        for one in asked:
            if one.fault.exists_in(form) and (one.times is None or self._still_due(one, job)):
                return one
        for name, rate in rates.items():
            if FAULTS[name].exists_in(form) and self._rng.random() < rate:
                return Asked(name, FAULTS[name].argument)
        return None

    def _still_due(self, one: Asked, job: str) -> bool:
        key = f"{job}\0{one.name}:{one.argument}"
        met = self._met.pop(key, 0)
        self._met[key] = met + 1
        if len(self._met) > _MAX_REMEMBERED:
            self._met.popitem(last=False)
        return met < (one.times or 0)


def job_key(job: str | None, prompt: str) -> str:
    """What `times=N` counts by."""
    return job if job is not None else "prompt:" + hashlib.sha256(prompt.encode()).hexdigest()
