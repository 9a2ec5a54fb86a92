"""What every API model is made of: the base class, the scalar types, and how Kubernetes extensions are attached.

The models are the only source of the API. `crds.py` turns them into the CRD files, `validation.py` reads the same
generated schema, so what a field is called, what it may hold and which CEL rule guards it is written exactly once: here
and in the modules beside this one. Descriptions are the attributes' docstrings.

Attributes are snake_case, the wire is camelCase. Unknown fields are ignored when an object is read from a cluster (an
older reader follows a newer CRD); in a file that a person wrote, `documents.py` reports them with the closest name.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

GROUP = "kernelsearch.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

VALIDATIONS = "x-kubernetes-validations"
LIST_TYPE = "x-kubernetes-list-type"
LIST_KEYS = "x-kubernetes-list-map-keys"
INT_OR_STRING = "x-kubernetes-int-or-string"


class ApiModel(BaseModel):
    """Base of everything in the API: immutable, camelCase outside, described by attribute docstrings."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    def to_manifest(self) -> dict[str, Any]:
        """The object as the API server takes it: camelCase, without what is None or was never set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)


def rule(expression: str, message: str) -> dict[str, str]:
    """One CEL validation. The message says what to do, not only what is wrong."""
    return {"rule": expression, "message": message}


def rules(*validations: dict[str, str]) -> dict[str, Any]:
    """CEL rules as a schema extension, for a model's `json_schema_extra` or a field's."""
    return {VALIDATIONS: list(validations)}


def map_list(*keys: str, **extra: Any) -> dict[str, Any]:
    """Items are merged by these keys, and no two may have the same."""
    return {LIST_TYPE: "map", LIST_KEYS: list(keys), **extra}


SET_LIST: dict[str, Any] = {LIST_TYPE: "set"}
ATOMIC_LIST: dict[str, Any] = {LIST_TYPE: "atomic"}
EMPTY_OBJECT: dict[str, Any] = {"default": {}}
"""For an object whose fields all have defaults: an absent one is filled in, so readers never meet None."""

Int64 = Annotated[int, Field(json_schema_extra={"format": "int64"})]
Int32 = Annotated[int, Field(json_schema_extra={"format": "int32"})]
Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""RFC 3339 in UTC, as Kubernetes writes it."""

Decimal = Annotated[str, Field(max_length=16, pattern=r"^[0-9]+(\.[0-9]+)?$")]
"""A decimal number as a string: floats do not survive every JSON client."""
Scientific = Annotated[str, Field(max_length=16, pattern=r"^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$")]
Money = Annotated[str, Field(max_length=16, pattern=r"^[0-9]+(\.[0-9]{1,6})?$")]
"""A decimal string with at most six places, so that it is a whole number of micro-units."""

Duration = Annotated[
    str,
    Field(
        min_length=2,
        max_length=16,
        pattern=r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$",
        json_schema_extra=rules(rule("self.matches('[1-9]')", 'give a time above zero, such as "4h30m"')),
    ),
]

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""As Kubernetes names objects: "../secrets/x", which as a part of a URL would be another object's, is none."""
DataKey = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
"""Of a ConfigMap or a Secret."""
Label = Annotated[str, Field(max_length=63)]

Quantity = Annotated[
    int | str,
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            INT_OR_STRING: True,
            "pattern": r"^[0-9]+(\.[0-9]+)?([numkKMGTPE]i?|[eE][-+]?[0-9]+)?$",
        }
    ),
]
"""A Kubernetes resource quantity: 4, "500m", "32Gi"."""
