"""Settings from the environment, and the secrets file."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.policies import POLICIES
from orchestrator.policies.policy import IDLE_PERCENT
from registry.errors import InvalidError
from registry.settings import SECRET_NAMES, load_secrets, load_settings
from registry.store_origin import origin

VARIABLES = ("DATABASE_URL", "REDIS_URL", "HYDRANT_KEY_PEPPER", "HYDRANT_GATEWAY_PORT")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HYDRANT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_defaults_lie_under_the_home_directory(home: Path) -> None:
    settings = load_settings()
    assert settings.database_url.get_secret_value() == f"sqlite:///{home}/hydrant.db"
    assert settings.redis_url.get_secret_value() == f"unix://{home}/redis.sock"
    assert (settings.gateway_port, settings.admin_port, settings.hosted_port) == (8400, 8401, 8402)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_the_environment_wins_and_nothing_secret_shows(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:hunter2@db/hydrant")
    monkeypatch.setenv("HYDRANT_KEY_PEPPER", "pepper-of-the-environment")
    settings = load_settings()
    assert settings.key_pepper.get_secret_value() == "pepper-of-the-environment"
    shown = repr(settings) + str(settings) + settings.model_dump_json()
    kept = json.loads((home / "secrets.json").read_text())
    for secret in ("hunter2", "pepper-of-the-environment", kept["flask_secret"], kept["hosted_secret"]):
        assert secret not in shown


@pytest.mark.parametrize("value", ["http", "0", "65536"])
def test_a_bad_variable_is_named(home: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HYDRANT_GATEWAY_PORT", value)
    with pytest.raises(InvalidError, match="HYDRANT_GATEWAY_PORT"):
        load_settings()


def test_what_stores_give_is_told_by_origin(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().store_bps == {}
    monkeypatch.setenv("HYDRANT_STORE_GBPS", '{"s3://weights/": 8, "http://files:8080/models": 0.001}')
    assert load_settings().store_bps == {"s3://weights": 10**9, "http://files:8080": 125_000}


def test_a_policy_is_one_of_those_that_there_are(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().policy == "hydrant"
    for name in POLICIES:
        monkeypatch.setenv("HYDRANT_POLICY", name)
        assert load_settings().policy == name
    monkeypatch.setenv("HYDRANT_POLICY", "magic")
    with pytest.raises(InvalidError, match="HYDRANT_POLICY"):
        load_settings()


@pytest.mark.parametrize("value", ["-1", "101", "half", "12.5", "nan"])
def test_idle_memory_is_a_share_of_all(home: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert load_settings().idle_memory_percent == IDLE_PERCENT
    monkeypatch.setenv("HYDRANT_IDLE_MEMORY_PERCENT", value)
    with pytest.raises(InvalidError, match="HYDRANT_IDLE_MEMORY_PERCENT"):
        load_settings()


@pytest.mark.parametrize("value", ["8", "s3://weights=8", '{"a": "fast"}', '{"a": 0}', '{"a": -1}', '{"a": NaN}', "[]"])
def test_stores_that_say_nothing_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HYDRANT_STORE_GBPS", value)
    with pytest.raises(InvalidError, match="HYDRANT_STORE_GBPS"):
        load_settings()


@pytest.mark.parametrize(
    ("source", "store"),
    [
        ("s3://weights/llama/8b", "s3://weights"), ("http://10.0.0.5:8080/m", "http://10.0.0.5:8080"),
        ("file:///models/m", "file://"), ("gs://b/p", "gs://b"),
    ],
)  # fmt: skip
def test_a_source_lies_in_a_store(source: str, store: str) -> None:
    assert origin(source) == store


def test_secrets_are_made_once_for_their_owner_only(home: Path) -> None:
    first, second = load_settings(), load_settings()
    assert first.key_pepper == second.key_pepper
    assert stat.S_IMODE((home / "secrets.json").stat().st_mode) == 0o600
    assert len(first.key_pepper.get_secret_value()) == 64
    assert [path.name for path in home.iterdir()] == ["secrets.json"]


def test_processes_that_start_together_agree_on_the_secrets(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: load_secrets(path), range(64)))
    assert all(one == found[0] for one in found)
    assert [entry.name for entry in tmp_path.iterdir()] == ["secrets.json"]


def test_an_open_or_damaged_secrets_file_is_refused_without_showing_it(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    secret = load_secrets(path)["key_pepper"]
    path.chmod(0o644)
    with pytest.raises(InvalidError, match="chmod 600"):
        load_secrets(path)
    path.chmod(0o600)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(InvalidError, match="backup") as caught:
        load_secrets(path)
    assert secret not in str(caught.value)
    path.write_text(json.dumps(dict.fromkeys(SECRET_NAMES[1:], "x")))
    with pytest.raises(InvalidError, match="key_pepper"):
        load_secrets(path)
