"""What a client is told of a request that cannot be answered as it is."""

import pytest
from support.fake_worker import too_long

from gateway.errors import ApiError, unknown_path
from gateway.workers.upstream import as_asked


def refusal(context: int, sent: int) -> ApiError:
    return ApiError(400, too_long(context, sent)["message"], param=None, code=None)


def test_a_client_reads_the_max_tokens_that_it_has_asked_for() -> None:
    told = as_asked(refusal(2048, 2048), 999_999, 2048)
    assert "999999 for the completion" in told.message
    assert "maximum context length is 2048" in told.message
    assert (told.status, told.param) == (400, "max_tokens")


@pytest.mark.parametrize("asked", [None, 2048])
def test_other_refusals_stay_as_the_worker_said_them(asked: int | None) -> None:
    said = refusal(2048, 2048)
    assert as_asked(said, asked, 2048) is said
    other = ApiError(400, "no such tool", param="tools", code=None)
    assert as_asked(other, 999_999, 2048) is other


def test_an_unknown_path_is_named_and_the_base_of_all_says_so() -> None:
    assert unknown_path("/v2").message == "There is no endpoint `/v2` here."
    for path in ("/v1", "/v1/"):
        assert "base_url" in unknown_path(path).message
