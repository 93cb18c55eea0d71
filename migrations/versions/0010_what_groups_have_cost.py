"""What groups have cost in device time, who waited for their starts, whether the books agree, closed invoices.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("charge_cold_starts", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("prices", sa.Column("gpu_second_nusd", sa.BigInteger(), server_default="0", nullable=False))
    op.create_table(
        "group_costs",
        sa.Column("group_id", sa.String(length=40), nullable=False),
        sa.Column("cold_start_id", sa.String(length=40), nullable=False),
        sa.Column("model_id", sa.String(length=40), nullable=False),
        sa.Column("price_id", sa.String(length=40), nullable=True),
        sa.Column("chargeable", sa.Boolean(), nullable=False),
        sa.Column("began_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("startup_gpu_us", sa.BigInteger(), nullable=True),
        sa.Column("startup_nusd", sa.BigInteger(), nullable=True),
        sa.Column("waited", sa.BigInteger(), nullable=True),
        sa.Column("busy_gpu_us", sa.BigInteger(), nullable=True),
        sa.Column("idle_gpu_us", sa.BigInteger(), nullable=True),
        sa.Column("closed_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["cold_start_id"], ["cold_starts.id"], name=op.f("fk_group_costs_cold_start_id_cold_starts")
        ),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name=op.f("fk_group_costs_group_id_groups")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_group_costs_model_id_models")),
        sa.ForeignKeyConstraint(["price_id"], ["prices.id"], name=op.f("fk_group_costs_price_id_prices")),
        sa.PrimaryKeyConstraint("group_id", name=op.f("pk_group_costs")),
        sa.UniqueConstraint("cold_start_id", name=op.f("uq_group_costs_cold_start_id")),
    )
    op.create_index(op.f("ix_group_costs_closed_at_ms"), "group_costs", ["closed_at_ms"])
    op.create_index("ix_group_costs_model_began", "group_costs", ["model_id", "began_at_ms"])
    op.create_table(
        "cold_start_shares",
        sa.Column("cold_start_id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("gpu_us", sa.BigInteger(), nullable=False),
        sa.Column("cost_nusd", sa.BigInteger(), nullable=False),
        sa.Column("charged", sa.Boolean(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["cold_start_id"], ["cold_starts.id"], name=op.f("fk_cold_start_shares_cold_start_id_cold_starts")
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_cold_start_shares_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("cold_start_id", "tenant_id", name=op.f("pk_cold_start_shares")),
    )
    op.create_index("ix_cold_start_shares_tenant_at", "cold_start_shares", ["tenant_id", "at_ms"])
    op.create_table(
        "invoices",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("closed_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_invoices_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("tenant_id", "month", name=op.f("pk_invoices")),
    )
    op.create_table(
        "reconciliations",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("began_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=True),
        sa.Column("compared", sa.JSON(), nullable=False),
        sa.Column("differences", sa.JSON(), nullable=False),
        sa.Column("ended_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reconciliations")),
    )
    op.create_index(op.f("ix_reconciliations_ended_at_ms"), "reconciliations", ["ended_at_ms"])
    op.add_column("ledger", sa.Column("cold_start_id", sa.String(length=40), nullable=True))
    op.create_index(
        "uq_ledger_cold_start_tenant",
        "ledger",
        ["cold_start_id", "tenant_id"],
        unique=True,
        sqlite_where=sa.text("cold_start_id IS NOT NULL"),
        postgresql_where=sa.text("cold_start_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("uq_ledger_cold_start_tenant", "ledger")
    op.drop_column("ledger", "cold_start_id")
    op.drop_table("reconciliations")
    op.drop_table("invoices")
    op.drop_table("cold_start_shares")
    op.drop_table("group_costs")
    op.drop_column("prices", "gpu_second_nusd")
    op.drop_column("models", "charge_cold_starts")
