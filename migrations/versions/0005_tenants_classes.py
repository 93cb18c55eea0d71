"""How soon a tenant should be answered by a model that sleeps.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column = sa.Column("service_class", sa.String(length=16), server_default="standard", nullable=False)
    op.add_column("tenants", column)


def downgrade() -> None:
    op.drop_column("tenants", "service_class")
