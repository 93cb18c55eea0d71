"""LangChain and LlamaIndex, in an environment of their own, against a real SGLang behind a real gateway."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.engine_node import ROOT
from support.real_service import CHAT_MODEL, EMBEDDING_MODEL, RealService

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PYTHON = ROOT / ".venv-clients/bin/python"


def told(service: RealService, script: str) -> dict[str, Any]:
    """What the client library was given."""
    assert PYTHON.exists(), "deploy/setup.sh clients makes the environment that this needs"
    path = Path(__file__).parent / "clients" / script
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "LANGSMITH_"))}
    command = [PYTHON, path, f"{service.url}/v1", service.key, CHAT_MODEL, EMBEDDING_MODEL]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


def test_langchain(service: RealService) -> None:
    given = told(service, "ask_with_langchain.py")
    assert all("Paris" in given[way] for way in ("answer", "stream", "responses")), given
    assert given["output_tokens"] > 1
    assert (given["tool"], given["tool_fields"]) == ("get_weather", ["city"])
    assert (given["vectors"], given["vector"]) == ([64, 64], 64)
    assert given["refusal"] == "model_not_found"


def test_llamaindex(service: RealService) -> None:
    given = told(service, "ask_with_llamaindex.py")
    assert all("Paris" in given[way] for way in ("answer", "stream", "async")), given
    assert given["vectors"] == [64, 64]
    assert given["refusal"] == "model_not_found"
