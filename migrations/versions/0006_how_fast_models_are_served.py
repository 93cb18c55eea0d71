"""When it was last looked at how fast a model is served, and the index by which its newest usage is found.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column = sa.Column("measured_at_ms", sa.BigInteger(), server_default="0", nullable=False)
    op.add_column("model_use", column)
    op.create_index("ix_usage_model_ended", "usage", ["model_id", "ended_at_ms"])


def downgrade() -> None:
    op.drop_index("ix_usage_model_ended", "usage")
    op.drop_column("model_use", "measured_at_ms")
