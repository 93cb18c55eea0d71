"""`hydrant simulate`: an operator's log on another cluster, and what is said of files that cannot be."""

import pytest
from support.safetensors_writer import write_model

CLUSTER = """
[[server]]
kind = "L40S"
count = 2
devices = 2
memory_gb = 48
link_gbps = 20
cache_gb = 100
start = { plain_s = 9, floor_s = 2.5, load_s_per_gb = 0.2 }
"""
MODELS = """
[[model]]
name = "chat"
weights_gb = 16
layers = 32
kv_reserve_gb = 5
slo_ttft_s = 8
tpot_ms = 30
prefill_us_per_token = 100
"""
LOG = "started_at_ms,model_name,prompt_tokens,completion_tokens\n"


@pytest.fixture
def simulate(hydrant, tmp_path):
    """Runs it with these files; `bad` is how it must end."""

    def run(log, *more, cluster=CLUSTER, models=MODELS, bad=False):
        for name, text in (("cluster.toml", cluster), ("models.toml", models), ("usage.csv", log)):
            if text is not None:
                (tmp_path / name).write_text(text)
        words = ["simulate", "--cluster", str(tmp_path / "cluster.toml"), "--from-log", str(tmp_path / "usage.csv")]
        words += ["--models", str(tmp_path / "models.toml")] if models is not None else []
        return hydrant.json(*words, *more, expect=1 if bad else 0)

    return run


def rows(*at_s, model="chat"):
    return LOG + "".join(f"{1_700_000_000_000 + 1000 * at},{model},100,11\n" for at in at_s)


def test_a_log_on_a_cluster_says_attainment_lateness_and_cost(simulate):
    found = simulate(rows(0, 20, 3600), "--gpu-hour-usd", "2")
    # Two links at first; then a warm worker; then what host memory holds: the runtime's floor and what follows it.
    assert found["models"]["chat"]["ttft_ms"] == {"p50": 4510, "p95": 4510, "p99": 4510}
    assert (found["requests"], found["attainment"], found["cold_starts"]) == (3, 100.0, 2)
    assert found["cold_share"] == pytest.approx(66.7)
    assert found["hours"] == 1.0
    assert found["cost_usd"] == pytest.approx(2 * found["gpu_hours"], abs=0.01)


def test_another_policy_is_slower_to_start(simulate):
    ours = simulate(rows(0))["ttft_ms"]["p50"]
    theirs = simulate(rows(0), "--policy", "serverless-vllm")["ttft_ms"]["p50"]
    # Two links, half of 16 GB over each, and 2 s; or all of it over one, after 9 s and before 3.2 s of loading.
    assert (ours, theirs) == (5211, 18_610)


def test_what_usage_csv_writes_can_be_read_for_registered_models(hydrant, simulate, tmp_path):
    source = write_model(tmp_path / "tiny", layers=4)
    hydrant.run("model", "register", "tiny", str(source), "--input-price", "1", "--output-price", "1")
    hydrant.run("usage", "csv", "--output", str(tmp_path / "written.csv"))
    header = (tmp_path / "written.csv").read_text().splitlines()[0].split(",")
    values = {"started_at_ms": "1700000000000", "model_name": "tiny", "prompt_tokens": "5", "completion_tokens": "0"}
    line = ",".join(values.get(column, "") for column in header)
    found = simulate(f"{','.join(header)}\n{line}\n", models=None)
    assert (found["requests"], found["attainment"]) == (1, 100.0)


def test_requests_for_models_of_providers_are_left_out_and_counted(hydrant, simulate, tmp_path):
    source = write_model(tmp_path / "tiny", layers=4)
    hydrant.run("model", "register", "tiny", str(source), "--input-price", "1", "--output-price", "1")
    hydrant.run("model", "add-hosted", "gpt", "--provider-model", "openai/gpt-4.1-mini", "--key-env", "OPENAI_API_KEY",
                "--input-price", "1", "--output-price", "1")  # fmt: skip
    theirs = rows(5, 6, model="gpt").removeprefix(LOG)
    found = simulate(rows(0, model="tiny") + theirs, models=None)
    assert (found["requests"], found["requests_left_out"]) == (1, 2)
    assert "left out 2 requests" in found["warnings"][0]
    told = simulate(LOG + theirs, models=None, bad=True)["error"]["message"]
    assert "no request for a model to simulate" in told


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cluster": CLUSTER.replace("link_gbps = 20", "link_gbps = 0")}, "server.0.link_gbps: "),
        ({"models": MODELS.replace("= 16", "= 50")}, "model.0.weights_gb: chat needs 50.0 GB"),
        ({"log": rows(0, model="other")}, "line 2: model_name: 'other' is not among the models"),
        ({"log": rows(0).replace(",100,", ",many,")}, "line 2: prompt_tokens: expected a whole number, got 'many'"),
        ({"log": rows(0).replace(",100,", ",-1,")}, "line 2: prompt_tokens: expected at least 0"),
        ({"log": LOG}, "there is no request in it"),
        ({"log": "a,b\n1,2\n"}, "column started_at_ms is missing"),
        ({"models": None}, "no model is registered"),
    ],
)
def test_what_cannot_be_simulated_is_said_by_field_or_line(simulate, changes, says):
    given = {"log": rows(0), **changes}
    assert says in simulate(given.pop("log"), bad=True, **given)["error"]["message"]
