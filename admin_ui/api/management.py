"""The `/admin/v1` that the resources hang their operations on, and types that several of them share."""

from typing import Annotated

from pydantic import Field

from admin_ui.api.answers import PREFIX
from admin_ui.api.operation import Api, Query

api = Api("management", PREFIX)

LARGEST = 2**53
Text = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]
Limit = Annotated[int, Field(ge=1, le=LARGEST)]
Moment = Annotated[int, Field(ge=0, le=LARGEST, description="Milliseconds since the epoch")]
PageSize = Annotated[int, Field(ge=1, le=1000)]
Offset = Annotated[int, Field(ge=0, le=LARGEST)]


class Page(Query):
    """A page of a list."""

    limit: PageSize = 100
