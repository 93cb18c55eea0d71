"""Models' own limits.

Revision ID: 0010
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0006"
branch_labels = None
depends_on = None

_LIMITS = ("rpm", "tpm", "parallel")


def upgrade() -> None:
    for name in _LIMITS:
        op.add_column("models", sa.Column(name, sa.BigInteger(), nullable=True))


def downgrade() -> None:
    for name in _LIMITS:
        op.drop_column("models", name)
