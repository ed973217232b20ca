"""The settings as workers and beat need them: those that are wrong end the process, in a sentence."""

from __future__ import annotations

from shared.config import Settings, refuse, settings_or_exit
from shared.providers.catalog import catalog


def checked_settings() -> Settings:
    """The process's settings, of which also the models exist; ends the process with code 2 otherwise."""
    settings = settings_or_exit()
    unknown = sorted(settings.limits_of_models.keys() - catalog().keys())
    if unknown:
        refuse([f"MODEL_LIMITS: there is no model {', '.join(unknown)}; there are: {', '.join(catalog())}"])
    return settings
