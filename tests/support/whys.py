"""Whether words say all that the data behind them does."""

from dataclasses import fields

from orchestrator.explain import why_text
from orchestrator.why import Why


def untold(why: Why) -> list[str]:
    """The facts of `why`, those of its stages among them, that its words leave out: "name = value" each."""
    words = why_text(why)
    facts = list(why.facts.items())
    for stage in why.stages:
        facts += [(field.name, getattr(stage, field.name)) for field in fields(stage)]
    return [f"{name} = {value}" for name, value in facts if value is not None and _said(name, value) not in words]


def _said(name: str, value: int | str) -> str:
    if isinstance(value, int) and name.endswith("_ms"):
        return f"{value / 1000:.2f}".rstrip("0").rstrip(".") + " s"
    if isinstance(value, int) and "bytes" in name:
        return f"{value / 1e9:.2f} GB" if value >= 10**9 else f"{value / 1e6:.1f}"
    return str(value)
