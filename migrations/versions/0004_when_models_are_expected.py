"""When a model is likely to be asked for again.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("model_use", sa.Column("expected_from_ms", sa.BigInteger(), nullable=True))
    op.add_column("model_use", sa.Column("expected_until_ms", sa.BigInteger(), nullable=True))
    op.create_index(op.f("ix_model_use_expected_until_ms"), "model_use", ["expected_until_ms"])


def downgrade() -> None:
    op.drop_index(op.f("ix_model_use_expected_until_ms"), "model_use")
    op.drop_column("model_use", "expected_until_ms")
    op.drop_column("model_use", "expected_from_ms")
