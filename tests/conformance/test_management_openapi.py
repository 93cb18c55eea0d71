"""Requests made from the management API's own OpenAPI document, good ones and bad: no 5xx, no status, content type or
body that the document does not tell of. `make conformance` makes more of them than the suite does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support.admin_api import make_token
from support.admin_app import AdminApp, make_database, running_app
from support.admin_samples import add_samples

from admin_ui.api import resources
from admin_ui.api.openapi import openapi_document
from registry.db import session_scope
from registry.ids import now_ms

load_all_checks()
EXAMPLES = int(os.environ.get("HYDRANT_CONFORMANCE_EXAMPLES", "0"))
# In the suite a few of each operation, for a few seconds; asked for more, also every boundary of every field.
PHASES = [Phase.explicit, Phase.generate] if EXAMPLES else [Phase.generate]
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminApp]:
    """A small busy installation, which the requests below change as they like."""
    home = tmp_path_factory.mktemp("conformance")
    make_database(home / "admin.db")
    with running_app(home / "admin.db", f"unix://{home}/nobody.sock") as running:
        with session_scope(running.sessions) as session:
            add_samples(session, now_ms())
        yield running
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def token(admin: AdminApp) -> str:
    """An owner's token."""
    return make_token(admin, "owner")[1]


schema = schemathesis.openapi.from_dict(openapi_document(resources.APIS))


@schema.parametrize()
@settings(
    max_examples=EXAMPLES or 15,
    deadline=None,
    derandomize=True,
    phases=PHASES,
    suppress_health_check=list(HealthCheck),
)
def test_every_operation_keeps_to_the_document(case: Any, admin: AdminApp, token: str) -> None:
    case.operation.schema.app = admin.app  # says that it is WSGI
    case.call_and_validate(app=admin.app, headers={"Authorization": f"Bearer {token}"}, checks=CHECKS)


def test_the_document_is_whole() -> None:
    """Every reference leads somewhere, every name is used once, and every schema is one of JSON Schema 2020-12."""
    document = openapi_document(resources.APIS)
    schemas = document["components"]["schemas"]
    for schema_ in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema_)
    text = str(document)
    references = {part.split("'")[0] for part in text.split("#/components/schemas/")[1:]}
    assert references <= set(schemas)
    names = [one["operationId"] for path in document["paths"].values() for one in path.values()]
    assert len(names) == len(set(names)) == sum(len(api.operations) for api in resources.APIS)
