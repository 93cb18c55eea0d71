"""Why groups end, as data beside the words.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

DRAINS_FIRST = "drains first: its standalone worker needs its memory"


def upgrade() -> None:
    for table in ("groups", "cold_starts"):
        op.add_column(table, sa.Column("why", sa.JSON(), nullable=True))
    # Of a pipeline that drains just now, these words told that its worker follows; from now on the data does.
    groups = sa.table("groups", sa.column("state"), sa.column("reason"), sa.column("why", sa.JSON()))
    drains = (groups.c.state == "draining") & (groups.c.reason == DRAINS_FIRST)
    op.execute(groups.update().where(drains).values(why={"code": "drains_first", "facts": {}, "stages": []}))


def downgrade() -> None:
    for table in ("cold_starts", "groups"):
        op.drop_column(table, "why")
