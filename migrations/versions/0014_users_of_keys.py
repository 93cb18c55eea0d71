"""Whose a key is, by a name that LiteLLM's clients give (`user_id`): nothing hangs on it but what is told of that user.

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("user_id", sa.String(200), nullable=True))
    op.create_index(op.f("ix_api_keys_user_id"), "api_keys", ["user_id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_api_keys_user_id"), "api_keys")
    with op.batch_alter_table("api_keys") as table:
        table.drop_column("user_id")
