"""Models of hosted providers and policies for cold models, by the command line."""

from pathlib import Path

import pytest
from support.safetensors_writer import write_model

ADD = ("model", "add-hosted", "gpt", "--provider-model", "openai/gpt-4.1-mini", "--key-env", "OPENAI_API_KEY",
       "--input-price", "0.4", "--output-price", "1.6")  # fmt: skip


def test_a_hosted_model_is_added_shown_and_never_started(hydrant) -> None:
    made = hydrant.json(*ADD)["model"]
    assert (made["lane"], made["provider"]["model"], made["price"]["output_nusd"]) == (
        "hosted", "openai/gpt-4.1-mini", 1600,
    )  # fmt: skip
    assert hydrant.snapshot()["models"]["gpt"]["provider"]["key_env"] == "OPENAI_API_KEY"
    assert hydrant.snapshot()["models"]["gpt"]["embedding"] is False
    hydrant.run(*ADD[:2], "vectors", *ADD[3:], "--embedding")
    assert hydrant.snapshot()["models"]["vectors"]["embedding"] is True
    assert hydrant.woken() == []
    for words in (("model", "list"), ("model", "show", "gpt"), ("status",)):
        assert "hosted" in hydrant.run(*words).stdout
    assert "scaled to zero" not in hydrant.run("model", "list").stdout
    for words in (("model", "warm", "gpt"), ("model", "stop", "gpt"), ("plan", "gpt")):
        assert "served by a provider" in hydrant.run(*words, expect=1).output


def test_plain_http_needs_the_setting(hydrant, monkeypatch: pytest.MonkeyPatch) -> None:
    there = ("--api-base", "http://127.0.0.1:9/v1")
    assert "HYDRANT_PROVIDER_HTTP" in hydrant.run(*ADD, *there, expect=1).output
    monkeypatch.setenv("HYDRANT_PROVIDER_HTTP", "1")
    assert hydrant.json(*ADD, *there)["model"]["provider"]["api_base"] == there[1]


def test_what_has_no_weights_here_has_a_dash_for_them(hydrant) -> None:
    hydrant.run(*ADD)
    for words in (("status",), ("model", "list")):
        (line,) = (line for line in hydrant.run(*words).stdout.splitlines() if line.startswith("gpt "))
        assert line.split()[:4] == ["gpt", "yes", "hosted", "-"]
    assert "0.0 MB\n" not in hydrant.run("model", "show", "gpt").stdout.partition("KV")[0]


def test_policies_are_set_listed_and_removed(hydrant, tmp_path: Path) -> None:
    source = write_model(tmp_path / "tiny", shards=1, tied=True)
    hydrant.run("model", "register", "tiny", str(source), "--input-price", "0.02", "--output-price", "0.08")
    hydrant.run(*ADD)
    hydrant.run("tenant", "create", "acme")
    hydrant.run("policy", "set", "tiny", "--when-cold", "fallback", "--to", "gpt", "--after", "5")
    assert "all tenants" in hydrant.run("policy", "list").stdout
    hydrant.run("policy", "set", "tiny", "--tenant", "acme", "--when-cold", "reject")
    published = hydrant.snapshot()["policies"]["tiny"]
    assert published["*"] == {"mode": "fallback", "after_s": 5, "fallback": "gpt"}
    assert [entry["tenant"] for entry in hydrant.json("policy", "list")["policies"]] == [None, "acme"]
    told = hydrant.run("policy", "list", "tiny").stdout
    assert "all others" in told
    assert "all tenants" not in told
    hydrant.run("policy", "remove", "tiny", "--tenant", "acme")
    assert list(hydrant.snapshot()["policies"]["tiny"]) == ["*"]
    assert "no such policy" in hydrant.run("policy", "remove", "tiny", "--tenant", "acme", expect=1).output
    assert (
        "can be a fallback"
        in hydrant.run("policy", "set", "tiny", "--when-cold", "fallback", "--to", "tiny", expect=1).output
    )


def test_refusals_name_the_options_that_were_typed(hydrant, tmp_path: Path) -> None:
    source = write_model(tmp_path / "tiny", shards=1, tied=True)
    hydrant.run("model", "register", "tiny", str(source), "--input-price", "0.02", "--output-price", "0.08")
    hydrant.run("tenant", "create", "acme")
    cold = ("policy", "set", "tiny", "--when-cold")
    for words, said in (
        ((*cold, "fallback"), "--to: a fallback names the provider's model to ask, and no other mode does"),
        ((*cold, "reject", "--after", "5"), "--after is of a fallback only"),
        ((*cold, "fallback", "--to", "nobody"), "there is no model 'nobody'"),
        (("budget", "set", "acme", "day", "1", "--alert", "0"), "--alert must be a whole number from 1 to 100"),
        (("model", "update", "tiny", "--capacity", "0"), "--capacity must be a whole number from 1 to 10000"),
        (("model", "price", "tiny", "--gpu-second", "11"), "--gpu-second must be from $0.00 to $10.00"),
    ):
        assert hydrant.run(*words, expect=1).stderr == f"hydrant: {said}\n"
    bad_key = (*ADD[: ADD.index("--key-env")], "--key-env", "HYDRANT_SECRET", *ADD[ADD.index("--key-env") + 2 :])
    assert hydrant.run(*bad_key, expect=1).stderr.startswith("hydrant: --key-env must ")
    assert hydrant.json(*bad_key, expect=1)["error"]["field"] == "key_env"


def test_a_hosted_model_is_changed(hydrant) -> None:
    hydrant.run(*ADD, "--api-base", "https://example.org/v1")
    changed = hydrant.json("model", "update-hosted", "gpt", "--provider-model", "openai/gpt-4.1", "--api-base", "none")
    assert changed["model"]["provider"] == {
        "model": "openai/gpt-4.1", "api_base": None, "key_env": "OPENAI_API_KEY",
    }  # fmt: skip
    assert hydrant.snapshot()["models"]["gpt"]["provider"]["model"] == "openai/gpt-4.1"
    hydrant.run("model", "update", "gpt", "--name", "large", "--default-max-tokens", "99")
    assert hydrant.json("model", "show", "large")["model"]["default_max_tokens"] == 99
    assert "nothing to change" in hydrant.run("model", "update-hosted", "large", expect=2).output
