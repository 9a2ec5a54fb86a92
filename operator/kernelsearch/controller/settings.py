"""What the operator is told by its Deployment: environment variables, read once, checked before anything starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from kernelsearch.llm.origins import OriginPolicy, OriginRefused


class SettingsError(ValueError):
    """The Deployment's environment does not make sense; the message names the variable."""


class SearchNamespace(BaseModel):
    """A namespace whose searches are served, and the one in which their pods run."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)
    name: str = Field(min_length=1)
    evaluation_namespace: str = Field(min_length=1)


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True)
    database: Path
    namespace: str
    """The operator's own, where the ConfigMaps lie that profiles name as knowledge."""
    search_namespaces: tuple[SearchNamespace, ...]
    allowed_origins: tuple[str, ...] = ()
    evaluation_service_account: str = "default"
    log_level: str = "INFO"
    liveness_port: int = 8080
    metrics_port: int = 9090

    @property
    def evaluation_namespaces(self) -> tuple[str, ...]:
        return tuple(sorted({each.evaluation_namespace for each in self.search_namespaces}))

    def serves(self, search_namespace: str | None) -> bool:
        return any(each.name == search_namespace for each in self.search_namespaces)

    def evaluation_namespace(self, search_namespace: str) -> str | None:
        """Where the pods of this namespace's searches run; None when the operator does not serve it."""
        for each in self.search_namespaces:
            if each.name == search_namespace:
                return each.evaluation_namespace
        return None


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Raise SettingsError when a variable is missing or cannot be used."""
    return Settings(
        database=Path(_needed(environment, "KERNELSEARCH_DATABASE")),
        namespace=_needed(environment, "KERNELSEARCH_NAMESPACE"),
        search_namespaces=_namespaces(_needed(environment, "KERNELSEARCH_SEARCH_NAMESPACES")),
        allowed_origins=_origins(environment.get("KERNELSEARCH_ALLOWED_ORIGINS", "[]")),
        evaluation_service_account=environment.get("KERNELSEARCH_EVALUATION_SERVICE_ACCOUNT") or "default",
        log_level=environment.get("KERNELSEARCH_LOG_LEVEL", "INFO").upper(),
        liveness_port=_port(environment, "KERNELSEARCH_LIVENESS_PORT", 8080),
        metrics_port=_port(environment, "KERNELSEARCH_METRICS_PORT", 9090),
    )


def _needed(environment: Mapping[str, str], name: str) -> str:
    if not (value := environment.get(name, "").strip()):
        raise SettingsError(f"{name} is not set; the chart sets it, outside a cluster you do")
    return value


def _namespaces(text: str) -> tuple[SearchNamespace, ...]:
    try:
        found = TypeAdapter(tuple[SearchNamespace, ...]).validate_json(text)
    except ValidationError as error:
        where = error.errors(include_url=False)[0]
        raise SettingsError(
            f'KERNELSEARCH_SEARCH_NAMESPACES must be like [{{"name": "team-a", "evaluationNamespace": "team-a-eval"}}]:'
            f" {where['msg']} at {where['loc']}"
        ) from error
    if not found:
        raise SettingsError("KERNELSEARCH_SEARCH_NAMESPACES is an empty list: no search would ever be served")
    return found


def _origins(text: str) -> tuple[str, ...]:
    """A JSON list, or origins separated by commas or spaces."""
    try:
        listed = json.loads(text) if text.lstrip().startswith("[") else text.replace(",", " ").split()
        origins = tuple(TypeAdapter(list[str]).validate_python(listed))
        OriginPolicy(origins)
    except (ValueError, OriginRefused) as error:
        raise SettingsError(f"KERNELSEARCH_ALLOWED_ORIGINS: {error}") from error
    return origins


def _port(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "") or str(default)
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise SettingsError(f"{name} is {text!r}, not a port number")
    return int(text)
