"""LiteLLM's proxy and sglang-router, each from an environment of its own that bench/gateway/install.sh makes."""

from __future__ import annotations

import json
import os

from bench.gateway.machine import Cores, free_ports
from bench.gateway.servers import Servers
from bench.gateway.variant import Variant
from bench.lab.node import ROOT

MODEL = "bench"
LITELLM = "litellm"
ROUTER = "sglang-router"
LITELLM_BIN = ROOT / ".venv-litellm/bin/litellm"
ROUTER_PYTHON = ROOT / ".venv-sglrouter/bin/python"
LITELLM_KEY = "sk-bench"
START_S = 120.0
LITELLM_NOTE = "plain master-key mode: its keys, limits and budgets need prisma's engine, a download of its own"
ROUTER_NOTE = "checks no key, counts nothing"


async def start_litellm(servers: Servers, cores: Cores, upstream_port: int) -> Variant:
    """Its proxy with one worker. Raises LoadError."""
    (port,) = free_ports(1)
    config = servers.home / "litellm.json"  # JSON is YAML
    parameters = {"model": f"hosted_vllm/{MODEL}", "api_base": f"http://127.0.0.1:{upstream_port}/v1", "api_key": "k"}
    document = {
        "model_list": [{"model_name": MODEL, "litellm_params": parameters}],
        "general_settings": {"master_key": LITELLM_KEY},
    }
    config.write_text(json.dumps(document))
    environ = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    environ.pop("DATABASE_URL", None)
    command = (LITELLM_BIN, "--config", config, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    process = servers.start(LITELLM, cores.server, command, environ)
    await servers.until_up(LITELLM, process, f"http://127.0.0.1:{port}/health/liveliness", START_S)
    return Variant(LITELLM, port, MODEL, LITELLM_KEY, process.pid, LITELLM_NOTE)


async def start_router(servers: Servers, cores: Cores, upstream_port: int) -> Variant:
    """The router with one worker behind it. Raises LoadError."""
    port, metrics_port = free_ports(2)
    command = (
        ROUTER_PYTHON, "-m", "sglang_router.launch_router", "--worker-urls", f"http://127.0.0.1:{upstream_port}",
        "--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics_port), "--policy", "round_robin",
        "--log-level", "warn",
    )  # fmt: skip
    process = servers.start(ROUTER, cores.server, command, os.environ)
    await servers.until_up(ROUTER, process, f"http://127.0.0.1:{port}/readiness", START_S)
    return Variant(ROUTER, port, MODEL, "none", process.pid, ROUTER_NOTE)
