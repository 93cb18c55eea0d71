"""An alias may stand for several models by weight, and a key may set defaults and ceilings of parameters.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    aliases = sa.table("aliases", sa.column("name"), sa.column("model_id"))
    known = op.get_bind().execute(sa.select(aliases.c.name, aliases.c.model_id)).all()
    op.drop_index("ix_aliases_model_id", table_name="aliases")
    with op.batch_alter_table("aliases") as batch:
        batch.drop_constraint("fk_aliases_model_id_models", type_="foreignkey")
        batch.drop_column("model_id")
    targets = op.create_table(
        "alias_targets",
        sa.Column("alias_name", sa.String(length=120), nullable=False),
        sa.Column("model_id", sa.String(length=40), nullable=False),
        sa.Column("weight", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["alias_name"], ["aliases.name"], name=op.f("fk_alias_targets_alias_name_aliases")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_alias_targets_model_id_models")),
        sa.PrimaryKeyConstraint("alias_name", "model_id", name=op.f("pk_alias_targets")),
    )
    op.create_index(op.f("ix_alias_targets_model_id"), "alias_targets", ["model_id"], unique=False)
    op.bulk_insert(targets, [{"alias_name": name, "model_id": model_id, "weight": 1} for name, model_id in known])
    for name in ("defaults", "ceilings"):
        op.add_column("api_keys", sa.Column(name, sa.JSON(), server_default="{}", nullable=False))


def downgrade() -> None:
    for name in ("ceilings", "defaults"):
        op.drop_column("api_keys", name)
    # Of a split only its heaviest model is kept: an alias named one model before.
    targets = sa.table("alias_targets", sa.column("alias_name"), sa.column("model_id"), sa.column("weight"))
    rows = op.get_bind().execute(sa.select(targets).order_by(targets.c.weight, targets.c.model_id.desc())).all()
    op.drop_table("alias_targets")
    op.drop_table("aliases")
    aliases = op.create_table(
        "aliases",
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("model_id", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_aliases_model_id_models")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_aliases")),
    )
    op.create_index(op.f("ix_aliases_model_id"), "aliases", ["model_id"], unique=False)
    heaviest = {alias: model_id for alias, model_id, _ in rows}
    op.bulk_insert(aliases, [{"name": alias, "model_id": model_id} for alias, model_id in heaviest.items()])
