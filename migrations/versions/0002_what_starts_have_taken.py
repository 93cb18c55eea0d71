"""What starts have really taken, and what is predicted from it.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("cold_starts", sa.Column("studied_at_ms", sa.BigInteger(), nullable=True))
    op.create_index(op.f("ix_cold_starts_studied_at_ms"), "cold_starts", ["studied_at_ms"])
    op.add_column("nodes", sa.Column("fetch_bps", sa.JSON(), nullable=True))
    op.create_table(
        "start_observations",
        sa.Column("cold_start_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=80), nullable=False),
        sa.Column("model_id", sa.String(length=40), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("observation", sa.JSON(), nullable=False),
        sa.Column("predicted_ms", sa.BigInteger(), nullable=True),
        sa.Column("real_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["cold_start_id"], ["cold_starts.id"], name=op.f("fk_start_observations_cold_start_id_cold_starts")
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_start_observations_model_id_models")),
        sa.PrimaryKeyConstraint("cold_start_id", "kind", name=op.f("pk_start_observations")),
    )
    op.create_index("ix_start_observations_kind", "start_observations", ["kind", "model_id", "at_ms"])
    op.create_table(
        "calibrations",
        sa.Column("kind", sa.String(length=80), nullable=False),
        sa.Column("model_id", sa.String(length=40), nullable=False),
        sa.Column("profile", sa.JSON(), nullable=False),
        sa.Column("starts", sa.BigInteger(), nullable=False),
        sa.Column("error_permille", sa.BigInteger(), nullable=True),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "model_id", name=op.f("pk_calibrations")),
    )
    op.create_index(op.f("ix_calibrations_updated_at_ms"), "calibrations", ["updated_at_ms"])


def downgrade() -> None:
    op.drop_table("calibrations")
    op.drop_table("start_observations")
    op.drop_column("nodes", "fetch_bps")
    op.drop_index(op.f("ix_cold_starts_studied_at_ms"), table_name="cold_starts")
    op.drop_column("cold_starts", "studied_at_ms")
