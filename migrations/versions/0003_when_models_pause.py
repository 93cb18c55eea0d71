"""When models pause, and whether their keep-alive is learned from that.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # What people have set for the models that they have stays as they meant it.
    op.add_column("models", sa.Column("keep_alive_mode", sa.String(length=16), server_default="fixed", nullable=False))
    op.create_table(
        "model_use",
        sa.Column("model_id", sa.String(length=40), nullable=False),
        sa.Column("busy_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("pauses_ms", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_model_use_model_id_models")),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_model_use")),
    )


def downgrade() -> None:
    op.drop_table("model_use")
    op.drop_column("models", "keep_alive_mode")
