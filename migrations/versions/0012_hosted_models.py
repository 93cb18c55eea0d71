"""Models of hosted providers, usage that is estimated, and what becomes of requests for cold models.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

LANES = ("direct", "litellm")


def _lanes(names: tuple[str, ...]) -> str:
    return f"lane IN ({', '.join(repr(name) for name in names)})"


def upgrade() -> None:
    with op.batch_alter_table("models") as batch:
        batch.add_column(sa.Column("provider", sa.JSON(), nullable=True))
        batch.drop_constraint(op.f("ck_models_lane"), type_="check")
        batch.create_check_constraint(op.f("ck_models_lane"), _lanes((*LANES, "hosted")))
        batch.create_check_constraint(op.f("ck_models_provider"), "(lane = 'hosted') = (provider IS NOT NULL)")
    op.add_column("usage", sa.Column("estimated", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_table(
        "cold_policies",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("model_id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=True),
        sa.Column("mode", sa.String(length=16), nullable=False),
        sa.Column("after_s", sa.BigInteger(), nullable=False),
        sa.Column("fallback_model_id", sa.String(length=40), nullable=True),
        sa.CheckConstraint("mode IN ('wait', 'fallback', 'reject')", name=op.f("ck_cold_policies_mode")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_cold_policies_model_id_models")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_cold_policies_tenant_id_tenants")),
        sa.ForeignKeyConstraint(
            ["fallback_model_id"], ["models.id"], name=op.f("fk_cold_policies_fallback_model_id_models")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cold_policies")),
        sa.UniqueConstraint("model_id", "tenant_id", name=op.f("uq_cold_policies_model_id_tenant_id")),
    )
    op.create_index(op.f("ix_cold_policies_model_id"), "cold_policies", ["model_id"])
    only_default = sa.text("tenant_id IS NULL")
    op.create_index(
        "uq_cold_policies_default",
        "cold_policies",
        ["model_id"],
        unique=True,
        sqlite_where=only_default,
        postgresql_where=only_default,
    )


def downgrade() -> None:
    op.drop_table("cold_policies")
    op.drop_column("usage", "estimated")
    # Their usage stays; such models cannot be told to the older version, and it could not serve them.
    op.execute(
        "UPDATE models SET lane = 'litellm', provider = NULL, enabled = false, deleted_at_ms = updated_at_ms"
        " WHERE lane = 'hosted'"
    )
    with op.batch_alter_table("models") as batch:
        batch.drop_constraint(op.f("ck_models_provider"), type_="check")
        batch.drop_constraint(op.f("ck_models_lane"), type_="check")
        batch.create_check_constraint(op.f("ck_models_lane"), _lanes(LANES))
        batch.drop_column("provider")
