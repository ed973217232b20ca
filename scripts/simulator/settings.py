"""What can be changed while the simulator runs: command line flags set it first, `PUT /sim/config` changes it."""

from dataclasses import asdict, dataclass, field
from typing import Any

from .facts import MODELS, Model, extra_model
from .faults import FAULTS
from .limits import EVERY_MODEL

WEIGHTS = ("real", "light")
GATEWAY_MODES = ("sync", "poll")


class BadSetting(ValueError):
    """A setting that does not exist, or a value that it cannot take."""


@dataclass
class Settings:
    """The defaults are the flags' defaults."""

    latency_scale: float = 1.0
    fault_rates: dict[str, float] = field(default_factory=dict)
    rpm: dict[str, int] = field(default_factory=dict)  # model or "*" → requests in a window
    concurrency: dict[str, int] = field(default_factory=dict)  # model or "*" → calls at the same time
    rate_window: float = 60.0  # seconds
    picture_weight: str = "real"
    gateway_mode: str = "sync"
    extra_models: dict[str, str] = field(default_factory=dict)  # id → "text" or "image"

    def model(self, model_id: str) -> Model | None:
        """The model of this upstream id, or None."""
        known = MODELS.get(model_id)
        if known is None and model_id in self.extra_models:
            known = extra_model(model_id, self.extra_models[model_id])
        return known

    def models(self) -> list[Model]:
        """All models."""
        return [*MODELS.values(), *(extra_model(name, kind) for name, kind in self.extra_models.items())]

    def as_json(self) -> dict[str, Any]:
        """The JSON of `GET /sim/config`."""
        return asdict(self)

    def update(self, changes: Any) -> None:
        """Apply the JSON of `PUT /sim/config`: all of it or, raising BadSetting, nothing."""
        if not isinstance(changes, dict):
            raise BadSetting("the configuration is a JSON object")
        checked = {name: _check(name, value) for name, value in changes.items()}
        for name, value in checked.items():
            setattr(self, name, value)


def _check(name: str, value: Any) -> Any:
    match name:
        case "latency_scale" | "rate_window":
            return _number(name, value)
        case "picture_weight":
            return _one_of(name, value, WEIGHTS)
        case "gateway_mode":
            return _one_of(name, value, GATEWAY_MODES)
        case "fault_rates":
            return {
                _one_of("fault", key, tuple(FAULTS)): _rate(rate)
                for key, rate in _object(name, value).items()
            }
        case "rpm" | "concurrency":
            given = {EVERY_MODEL: value} if isinstance(value, int) else _object(name, value)
            return {model: int(_number(name, limit)) for model, limit in given.items() if limit is not None}
        case "extra_models":
            return {key: _one_of(name, kind, ("text", "image")) for key, kind in _object(name, value).items()}
    raise BadSetting(f"there is no setting {name!r}")


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise BadSetting(f"{name} takes a number of 0 or more, not {value!r}")
    return value


def _rate(value: Any) -> float:
    if _number("a fault rate", value) > 1:
        raise BadSetting(f"a fault rate is between 0 and 1, not {value!r}")
    return float(value)


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise BadSetting(f"{name} is one of {', '.join(allowed)}, not {value!r}")
    return str(value)


def _object(name: str, value: Any) -> dict[str, Any]:
    """null clears the setting."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadSetting(f"{name} takes an object, not {value!r}")
    return value
