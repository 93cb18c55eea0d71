"""Models of hosted providers, usage that is estimated, and what becomes of requests for cold models.

Revision ID: 0011
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0006"
branch_labels = None
depends_on = None

LANES = ("direct", "litellm")


def _lanes(names: tuple[str, ...]) -> str:
    return f"lane IN ({', '.join(repr(name) for name in names)})"


def upgrade() -> None:
    with op.batch_alter_table("models") as batch:
        batch.add_column(sa.Column("provider", sa.JSON(), nullable=True))
        batch.drop_constraint(op.f("ck_models_lane"), type_="check")
        batch.create_check_constraint(op.f("ck_models_lane"), _lanes((*LANES, "hosted")))
        batch.create_check_constraint(op.f("ck_models_provider"), "(lane = 'hosted') = (provider IS NOT NULL)")
    op.add_column("usage", sa.Column("estimated", sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade() -> None:
    op.drop_column("usage", "estimated")
    # Their usage stays; such models cannot be told to the older version, and it could not serve them.
    op.execute(
        "UPDATE models SET lane = 'litellm', enabled = false, deleted_at_ms = updated_at_ms WHERE lane = 'hosted'"
    )
    with op.batch_alter_table("models") as batch:
        batch.drop_constraint(op.f("ck_models_provider"), type_="check")
        batch.drop_constraint(op.f("ck_models_lane"), type_="check")
        batch.create_check_constraint(op.f("ck_models_lane"), _lanes(LANES))
        batch.drop_column("provider")
