"""Models' own limits; budgets by period, their alerts, and when an attempt was admitted: what they are counted by.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_LIMITS = ("rpm", "tpm", "parallel")


def upgrade() -> None:
    for name in _LIMITS:
        op.add_column("models", sa.Column(name, sa.BigInteger(), nullable=True))

    op.add_column("usage", sa.Column("admitted_at_ms", sa.BigInteger(), nullable=True))
    op.execute("UPDATE usage SET admitted_at_ms = started_at_ms")
    with op.batch_alter_table("usage") as batch:
        batch.alter_column("admitted_at_ms", existing_type=sa.BigInteger(), nullable=False)
    op.create_index("ix_usage_tenant_admitted", "usage", ["tenant_id", "admitted_at_ms", "cost_nusd"])
    op.create_index("ix_usage_key_admitted", "usage", ["key_id", "admitted_at_ms", "cost_nusd"])

    op.create_table(
        "budgets",
        sa.Column("scope_id", sa.String(length=40), nullable=False),
        sa.Column("period", sa.String(length=8), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("amount_nusd", sa.BigInteger(), nullable=False),
        sa.Column("alert_percent", sa.JSON(), nullable=False),
        sa.Column("hard", sa.Boolean(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("period IN ('day', 'month', 'total')", name=op.f("ck_budgets_period")),
        sa.CheckConstraint("amount_nusd > 0", name=op.f("ck_budgets_positive")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_budgets_tenant_id_tenants"),
        sa.PrimaryKeyConstraint("scope_id", "period", name="pk_budgets"),
    )
    op.create_index("ix_budgets_tenant_id", "budgets", ["tenant_id"])
    op.create_table(
        "budget_alerts",
        sa.Column("scope_id", sa.String(length=40), nullable=False),
        sa.Column("period", sa.String(length=8), nullable=False),
        sa.Column("window", sa.BigInteger(), nullable=False),
        sa.Column("percent", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("spent_nusd", sa.BigInteger(), nullable=False),
        sa.Column("amount_nusd", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_budget_alerts_tenant_id_tenants"),
        sa.PrimaryKeyConstraint("scope_id", "period", "window", "percent", name="pk_budget_alerts"),
    )
    op.create_index("ix_budget_alerts_at_ms", "budget_alerts", ["at_ms"])


def downgrade() -> None:
    op.drop_table("budget_alerts")
    op.drop_table("budgets")
    op.drop_index("ix_usage_key_admitted", "usage")
    op.drop_index("ix_usage_tenant_admitted", "usage")
    op.drop_column("usage", "admitted_at_ms")
    for name in _LIMITS:
        op.drop_column("models", name)
