"""Models: registered from a real directory, changed, priced, named, warmed and stopped; the controller is woken."""

from pathlib import Path

import pytest
from support.safetensors_writer import llama_tensors, write_model

PRICES = ("--input-price", "0.02", "--output-price", "0.08")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny", shards=1, tied=True)


def test_registering_publishes_prices_and_wakes_the_controller(hydrant, source: Path) -> None:
    made = hydrant.json("model", "register", "tiny", str(source), *PRICES, "--tool-parser", "hermes")["model"]
    assert (made["architecture"], made["layers"], made["tied_embeddings"]) == ("LlamaForCausalLM", 4, True)
    assert made["settings"]["tool_parser"] == "hermes"
    assert (made["price"]["input_nusd"], made["price"]["cached_input_nusd"], made["price"]["output_nusd"]) == (
        20,
        20,
        80,
    )
    published = hydrant.snapshot()["models"]["tiny"]
    assert published["price"]["output_nusd"] == 80
    assert hydrant.woken() == ["control.reconcile"]
    assert "tiny" in hydrant.run("model", "list").stdout
    assert "hermes" in hydrant.run("model", "show", "tiny").stdout
    assert "manifest" not in hydrant.run("model", "show", "tiny", "--json").stdout


def test_changes_keep_what_was_not_given(hydrant, source: Path) -> None:
    hydrant.run("model", "register", "tiny", str(source), *PRICES, "--slo-tpot-ms", "50", "--tool-parser", "hermes")
    changed = hydrant.json("model", "update", "tiny", "--slo-ttft-ms", "4000", "--slo-tpot-ms", "none")["model"]
    assert (changed["slo_ttft_ms"], changed["slo_tpot_ms"], changed["keep_alive_s"]) == (4000, None, 300)
    changed = hydrant.json("model", "update", "tiny", "--tool-parser", "none", "--context-length", "64")["model"]
    assert (changed["settings"]["tool_parser"], changed["context_length"], changed["slo_ttft_ms"]) == (None, 64, 4000)
    changed = hydrant.json("model", "update", "tiny", "--name", "small", "--min-replicas", "2")["model"]
    assert (changed["name"], changed["min_replicas"]) == ("small", 2)
    assert list(hydrant.snapshot()["models"]) == ["small"]
    assert not changed["charge_cold_starts"]
    assert hydrant.json("model", "update", "small", "--charge-cold-starts")["model"]["charge_cold_starts"]
    assert not hydrant.json("model", "update", "small", "--no-charge-cold-starts")["model"]["charge_cold_starts"]
    hydrant.run("model", "update", "small", "--rpm", "60", "--tpm", "9000", "--parallel", "4")
    hydrant.run("model", "update", "small", "--tpm", "none")
    published = hydrant.snapshot()["models"]["small"]
    assert (published["rpm"], published["tpm"], published["parallel"]) == (60, None, 4)


def test_a_new_price_follows_the_old_one(hydrant, source: Path) -> None:
    hydrant.run("model", "register", "tiny", str(source), *PRICES, "--cached-input-price", "0.01")
    prices = hydrant.json("model", "price", "tiny", "--output", "0.1", "--request", "0.000001")["prices"]
    assert [(p["input_nusd"], p["cached_input_nusd"], p["output_nusd"], p["request_nusd"]) for p in prices] == [
        (20, 10, 100, 1000),
        (20, 10, 80, 0),
    ]
    assert hydrant.snapshot()["models"]["tiny"]["price"]["output_nusd"] == 100
    assert [p["gpu_second_nusd"] for p in prices] == [0, 0]
    prices = hydrant.json("model", "price", "tiny", "--gpu-second", "0.0008")["prices"]
    assert (prices[0]["gpu_second_nusd"], prices[0]["output_nusd"]) == (800_000, 100)
    later = hydrant.json("model", "price", "tiny", "--input", "0.5", "--from", "2999-01-01")["prices"]
    assert (later[0]["input_nusd"], later[0]["gpu_second_nusd"]) == (500, 800_000)
    assert hydrant.snapshot()["models"]["tiny"]["price"]["input_nusd"] == 20
    assert len(hydrant.json("model", "price", "tiny")["prices"]) == 4


def test_an_alias_is_another_name_everywhere(hydrant, source: Path) -> None:
    hydrant.run("model", "register", "tiny", str(source), *PRICES)
    hydrant.run("model", "alias", "add", "tiny", "gpt-4o-mini")
    assert hydrant.snapshot()["aliases"] == {"gpt-4o-mini": {"tiny": 1}}
    assert hydrant.json("model", "show", "gpt-4o-mini")["model"]["name"] == "tiny"
    assert hydrant.json("model", "alias", "list", "tiny")["aliases"] == [{"name": "gpt-4o-mini", "models": {"tiny": 1}}]
    assert "choose another name" in hydrant.run("model", "alias", "add", "tiny", "tiny", expect=1).stderr
    hydrant.run("model", "alias", "remove", "gpt-4o-mini")
    assert hydrant.snapshot()["aliases"] == {}


def test_models_share_an_alias_by_weight(hydrant, source: Path) -> None:
    for name in ("old", "new"):
        hydrant.run("model", "register", name, str(source), *PRICES)
    shared = hydrant.json("model", "alias", "split", "chat", "old=95", "new=5")["alias"]
    assert shared == {"name": "chat", "models": {"new": 5, "old": 95}}
    assert hydrant.snapshot()["aliases"] == {"chat": {"new": 5, "old": 95}}
    assert "chat (new 5, old 95)" in hydrant.run("model", "show", "old").stdout
    assert "split between new, old" in hydrant.run("model", "show", "chat", expect=1).stderr
    assert "MODEL=WEIGHT" in hydrant.run("model", "alias", "split", "chat", "old", expect=2).stderr
    assert "named twice" in hydrant.run("model", "alias", "split", "chat", "old=1", "old=2", expect=1).stderr


def test_warming_stopping_and_disabling_wake_the_controller(hydrant, source: Path) -> None:
    hydrant.run("model", "register", "tiny", str(source), *PRICES)
    assert hydrant.json("model", "warm", "tiny", "--minutes", "5")["model"]["warm_until_ms"]
    assert hydrant.json("model", "stop", "tiny")["model"]["warm_until_ms"] is None
    assert hydrant.json("model", "disable", "tiny")["model"]["enabled"] is False
    assert "enable it first" in hydrant.run("model", "warm", "tiny", expect=1).stderr
    hydrant.run("model", "enable", "tiny")
    assert hydrant.woken() == ["control.reconcile"] * 5
    assert hydrant.snapshot()["models"]["tiny"]["enabled"] is True


def test_deleting_asks_first(hydrant, source: Path) -> None:
    hydrant.run("model", "register", "tiny", str(source), *PRICES)
    assert "--yes" in hydrant.run("model", "delete", "tiny", expect=2).stderr
    assert hydrant.json("model", "delete", "tiny", "--yes")["deleted"]["name"] == "tiny"
    assert hydrant.snapshot()["models"] == {}
    assert hydrant.json("model", "list") == {"models": []}


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["register", "tiny", "{source}", *PRICES], 1, "choose another name"),
        (["register", "bad name", "{source}", *PRICES], 1, "name must start with"),
        (["register", "other", "/no/such/dir", *PRICES], 1, "/no/such/dir"),
        (["register", "other", "ftp://host/x", *PRICES], 1, "http"),
        (["register", "other", "https://user:geheim@host/x", *PRICES], 1, "no user name"),
        (["register", "other", "{source}"], 2, "--input-price"),
        (["register", "other", "{source}", "--input-price", "0.0001", "--output-price", "1"], 2, "multiple of $0.001"),
        (["register", "other", "{source}", *PRICES, "--context-length", "999999"], 1, "--context-length must"),
        (["register", "other", "{source}", *PRICES, "--dtype", "int3"], 2, "float16"),
        (["update", "tiny"], 2, "nothing to change"),
        (["update", "tiny", "--keep-alive-s", "-1"], 1, "--keep-alive-s must"),
        (["update", "tiny", "--slo-tpot-ms", "0"], 2, "none to lift"),
        (["update", "nope", "--capacity", "4"], 1, "there is no model 'nope'"),
        (["price", "tiny", "--from", "2999-01-01"], 2, "needs a price"),
        (["price", "tiny", "--input", "1", "--from", "2001-01-01"], 1, "past"),
        (["warm", "tiny", "--minutes", "0"], 1, "minutes"),
        (["alias", "remove", "nope"], 1, "there is no alias"),
        (["delete", "nope", "--yes"], 1, "there is no model"),
    ],
)
def test_bad_input_changes_nothing(hydrant, source: Path, words: list[str], status: int, says: str) -> None:
    hydrant.run("model", "register", "tiny", str(source), *PRICES)
    before = hydrant.json("model", "list")
    words = [word.replace("{source}", str(source)) for word in words]
    result = hydrant.run("model", *words, expect=status)
    assert says in result.stderr
    assert "Traceback" not in result.output
    assert "geheim" not in result.output
    assert hydrant.json("model", *words, expect=status)["error"]["message"]
    assert hydrant.json("model", "list") == before


def test_a_truncated_file_is_said_and_nothing_is_registered(hydrant, source: Path) -> None:
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    result = hydrant.run("model", "register", "tiny", str(source), *PRICES, expect=1)
    assert "model.safetensors" in result.stderr
    assert hydrant.json("model", "list") == {"models": []}


def test_a_compressed_copy_is_registered_like_the_model(hydrant, tmp_path: Path) -> None:
    tensors = llama_tensors(hidden=256, vocab=300)
    tensors["model.embed_tokens.weight"] = ("F16", [300, 256], bytes(300 * 256 * 2))
    config = {"hidden_size": 256, "vocab_size": 300}
    source = write_model(tmp_path / "big", tensors, config_changes=config)
    said = hydrant.json("model", "compress", str(source), str(tmp_path / "small"))
    assert said["after_bytes"] < said["before_bytes"] - 150_000
    told = hydrant.run("model", "register", "small", said["directory"], *PRICES).stdout
    assert "compressed), pipelines" in told
    assert hydrant.json("model", "show", "small")["model"]["weight_bytes"] == said["before_bytes"]
    again = hydrant.run("model", "compress", str(source), str(tmp_path / "small"), expect=1)
    assert "exists already" in again.output
