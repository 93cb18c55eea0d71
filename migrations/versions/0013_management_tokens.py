"""Tokens of the management API, and the requests that it carries out once however often they are sent.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "management_tokens",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_used_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("role IN ('owner', 'operator', 'viewer')", name=op.f("ck_management_tokens_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_management_tokens")),
        sa.UniqueConstraint("digest", name=op.f("uq_management_tokens_digest")),
    )
    op.create_index("ix_management_tokens_prefix", "management_tokens", ["prefix"])
    op.create_table(
        "idempotent_requests",
        sa.Column("token_id", sa.String(40), nullable=False),
        sa.Column("idempotency_key", sa.String(64), nullable=False),
        sa.Column("request_digest", sa.String(64), nullable=False),
        sa.Column("answer", sa.JSON(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["token_id"], ["management_tokens.id"], name=op.f("fk_idempotent_requests_token_id_management_tokens")
        ),
        sa.PrimaryKeyConstraint("token_id", "idempotency_key", name=op.f("pk_idempotent_requests")),
    )
    op.create_index("ix_idempotent_requests_at_ms", "idempotent_requests", ["at_ms"])


def downgrade() -> None:
    op.drop_table("idempotent_requests")
    op.drop_table("management_tokens")
