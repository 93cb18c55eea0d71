"""The whole schema.

Revision ID: 0001
Revises: (none)
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "admin_users",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("email", sa.String(length=200), nullable=False),
        sa.Column("password_hash", sa.String(length=200), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("must_change", sa.Boolean(), nullable=False),
        sa.Column("session_epoch", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_login_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("disabled_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("role IN ('owner', 'operator', 'viewer')", name=op.f("ck_admin_users_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_admin_users")),
        sa.UniqueConstraint("email", name=op.f("uq_admin_users_email")),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=80), nullable=False),
        sa.Column("subject", sa.String(length=120), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_at_ms"), "audit", ["at_ms"], unique=False)
    op.create_table(
        "models",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("lane", sa.String(length=16), nullable=False),
        sa.Column("architecture", sa.String(length=80), nullable=False),
        sa.Column("layers", sa.BigInteger(), nullable=False),
        sa.Column("tied_embeddings", sa.Boolean(), nullable=False),
        sa.Column("weight_bytes", sa.BigInteger(), nullable=False),
        sa.Column("max_stages", sa.BigInteger(), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("context_length", sa.BigInteger(), nullable=False),
        sa.Column("default_max_tokens", sa.BigInteger(), nullable=False),
        sa.Column("capacity", sa.BigInteger(), nullable=False),
        sa.Column("kv_reserve_bytes", sa.BigInteger(), nullable=False),
        sa.Column("slo_ttft_ms", sa.BigInteger(), nullable=False),
        sa.Column("slo_tpot_ms", sa.BigInteger(), nullable=True),
        sa.Column("keep_alive_s", sa.BigInteger(), nullable=False),
        sa.Column("min_replicas", sa.BigInteger(), nullable=False),
        sa.Column("warm_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("stop_requested_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("control_version", sa.BigInteger(), nullable=False),
        sa.Column("profile", sa.JSON(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("lane IN ('direct', 'litellm')", name=op.f("ck_models_lane")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
    )
    op.create_index(
        "uq_models_live_name",
        "models",
        ["name"],
        unique=True,
        sqlite_where=sa.text("deleted_at_ms IS NULL"),
        postgresql_where=sa.text("deleted_at_ms IS NULL"),
    )
    op.create_table(
        "nodes",
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("address", sa.String(length=80), nullable=False),
        sa.Column("boot_id", sa.String(length=64), nullable=False),
        sa.Column("link_bps", sa.BigInteger(), nullable=False),
        sa.Column("port_first", sa.BigInteger(), nullable=False),
        sa.Column("port_last", sa.BigInteger(), nullable=False),
        sa.Column("cordoned", sa.Boolean(), nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.Column("drain_began_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("report_seq", sa.BigInteger(), nullable=False),
        sa.Column("seen_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_nodes")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("queue", sa.String(length=120), nullable=False),
        sa.Column("task", sa.String(length=80), nullable=False),
        sa.Column("args", sa.JSON(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("group_id", sa.String(length=40), nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("sent_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("sends", sa.BigInteger(), nullable=False),
        sa.Column("done_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    op.create_index(op.f("ix_outbox_done_at_ms"), "outbox", ["done_at_ms"], unique=False)
    op.create_index(op.f("ix_outbox_group_id"), "outbox", ["group_id"], unique=False)
    op.create_index(op.f("ix_outbox_sent_at_ms"), "outbox", ["sent_at_ms"], unique=False)
    op.create_table(
        "rejected_usage",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("resolved_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_rejected_usage")),
    )
    op.create_table(
        "tenants",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("rpm", sa.BigInteger(), nullable=True),
        sa.Column("tpm", sa.BigInteger(), nullable=True),
        sa.Column("parallel", sa.BigInteger(), nullable=True),
        sa.Column("salt", sa.String(length=64), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
        sa.UniqueConstraint("name", name=op.f("uq_tenants_name")),
    )
    op.create_table(
        "aliases",
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("model_id", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_aliases_model_id_models")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_aliases")),
    )
    op.create_index(op.f("ix_aliases_model_id"), "aliases", ["model_id"], unique=False)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("models", sa.JSON(), nullable=False),
        sa.Column("rpm", sa.BigInteger(), nullable=True),
        sa.Column("tpm", sa.BigInteger(), nullable=True),
        sa.Column("parallel", sa.BigInteger(), nullable=True),
        sa.Column("sse_ping", sa.Boolean(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_api_keys_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_keys_digest")),
    )
    op.create_index(op.f("ix_api_keys_tenant_id"), "api_keys", ["tenant_id"], unique=False)
    op.create_table(
        "cold_starts",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("model_id", sa.String(length=40), nullable=False),
        sa.Column("cause", sa.String(length=40), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("predicted_ttft_ms", sa.BigInteger(), nullable=True),
        sa.Column("requested_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("ready_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("first_token_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("failed_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_cold_starts_model_id_models")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cold_starts")),
    )
    op.create_index(op.f("ix_cold_starts_model_id"), "cold_starts", ["model_id"], unique=False)
    op.create_table(
        "devices",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("node_name", sa.String(length=80), nullable=False),
        sa.Column("idx", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["node_name"], ["nodes.name"], name=op.f("fk_devices_node_name_nodes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_devices")),
        sa.UniqueConstraint("node_name", "idx", name=op.f("uq_devices_node_name_idx")),
    )
    op.create_table(
        "ledger",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("amount_nusd", sa.BigInteger(), nullable=False),
        sa.Column("attempt_id", sa.String(length=40), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("author", sa.String(length=200), nullable=True),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('reserve', 'settle', 'release', 'top_up', 'adjust')", name=op.f("ck_ledger_kind")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_ledger_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
        sa.UniqueConstraint("attempt_id", "kind", name=op.f("uq_ledger_attempt_id_kind")),
    )
    op.create_index("ix_ledger_at", "ledger", ["at_ms"], unique=False)
    op.create_index("ix_ledger_tenant_amount", "ledger", ["tenant_id", "amount_nusd"], unique=False)
    op.create_table(
        "prices",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("model_id", sa.String(length=40), nullable=False),
        sa.Column("from_ms", sa.BigInteger(), nullable=False),
        sa.Column("input_nusd", sa.BigInteger(), nullable=False),
        sa.Column("cached_input_nusd", sa.BigInteger(), nullable=False),
        sa.Column("output_nusd", sa.BigInteger(), nullable=False),
        sa.Column("request_nusd", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "input_nusd >= 0 AND cached_input_nusd >= 0 AND output_nusd >= 0 AND request_nusd >= 0",
            name=op.f("ck_prices_not_negative"),
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_prices_model_id_models")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prices")),
    )
    op.create_index("ix_prices_model_from", "prices", ["model_id", "from_ms"], unique=False)
    op.create_table(
        "cold_start_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("cold_start_id", sa.String(length=40), nullable=False),
        sa.Column("stage_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["cold_start_id"], ["cold_starts.id"], name=op.f("fk_cold_start_events_cold_start_id_cold_starts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cold_start_events")),
        sa.UniqueConstraint(
            "cold_start_id", "stage_id", "kind", name=op.f("uq_cold_start_events_cold_start_id_stage_id_kind")
        ),
    )
    op.create_table(
        "groups",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("model_id", sa.String(length=40), nullable=False),
        sa.Column("cold_start_id", sa.String(length=40), nullable=True),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("blamed", sa.JSON(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("parent_id", sa.String(length=40), nullable=True),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("api_key", sa.String(length=80), nullable=False),
        sa.Column("url", sa.String(length=200), nullable=True),
        sa.Column("drain_version", sa.BigInteger(), nullable=True),
        sa.Column("probe", sa.JSON(), nullable=True),
        sa.Column("deadline_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("ready_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_used_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("stopped_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["cold_start_id"], ["cold_starts.id"], name=op.f("fk_groups_cold_start_id_cold_starts")
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_groups_model_id_models")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_groups")),
    )
    op.create_index(op.f("ix_groups_model_id"), "groups", ["model_id"], unique=False)
    op.create_index(op.f("ix_groups_state"), "groups", ["state"], unique=False)
    op.create_table(
        "usage",
        sa.Column("attempt_id", sa.String(length=40), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("model_id", sa.String(length=40), nullable=False),
        sa.Column("model_name", sa.String(length=120), nullable=False),
        sa.Column("price_id", sa.String(length=40), nullable=True),
        sa.Column("group_id", sa.String(length=40), nullable=True),
        sa.Column("cold_start_id", sa.String(length=40), nullable=True),
        sa.Column("gateway_id", sa.String(length=40), nullable=False),
        sa.Column("lane", sa.String(length=16), nullable=False),
        sa.Column("endpoint", sa.String(length=60), nullable=False),
        sa.Column("stream", sa.Boolean(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_nusd", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(length=20), nullable=False),
        sa.Column("started_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("first_token_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("ended_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("held_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["price_id"], ["prices.id"], name=op.f("fk_usage_price_id_prices")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_usage_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("attempt_id", name=op.f("pk_usage")),
    )
    op.create_index("ix_usage_ended", "usage", ["ended_at_ms"], unique=False)
    op.create_index(op.f("ix_usage_group_id"), "usage", ["group_id"], unique=False)
    op.create_index(op.f("ix_usage_request_id"), "usage", ["request_id"], unique=False)
    op.create_index("ix_usage_tenant_ended", "usage", ["tenant_id", "ended_at_ms"], unique=False)
    op.create_table(
        "stages",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("group_id", sa.String(length=40), nullable=False),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column("node_name", sa.String(length=80), nullable=False),
        sa.Column("device_idx", sa.BigInteger(), nullable=False),
        sa.Column("first_layer", sa.BigInteger(), nullable=False),
        sa.Column("layer_count", sa.BigInteger(), nullable=False),
        sa.Column("full", sa.Boolean(), nullable=False),
        sa.Column("reserved_bytes", sa.BigInteger(), nullable=False),
        sa.Column("port", sa.BigInteger(), nullable=False),
        sa.Column("dist_port", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("pids", sa.JSON(), nullable=False),
        sa.Column("bytes_total", sa.BigInteger(), nullable=False),
        sa.Column("bytes_to_fetch", sa.BigInteger(), nullable=False),
        sa.Column("bytes_fetched", sa.BigInteger(), nullable=False),
        sa.Column("verified", sa.Boolean(), nullable=False),
        sa.Column("fetch_deadline_ms", sa.BigInteger(), nullable=True),
        sa.Column("rate_bps", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name=op.f("fk_stages_group_id_groups")),
        sa.ForeignKeyConstraint(["node_name"], ["nodes.name"], name=op.f("fk_stages_node_name_nodes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stages")),
        sa.UniqueConstraint("group_id", "rank", name=op.f("uq_stages_group_id_rank")),
    )
    op.create_index(op.f("ix_stages_group_id"), "stages", ["group_id"], unique=False)
    op.create_index(op.f("ix_stages_node_name"), "stages", ["node_name"], unique=False)
    op.create_index(op.f("ix_stages_state"), "stages", ["state"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_stages_state"), table_name="stages")
    op.drop_index(op.f("ix_stages_node_name"), table_name="stages")
    op.drop_index(op.f("ix_stages_group_id"), table_name="stages")
    op.drop_table("stages")
    op.drop_index("ix_usage_tenant_ended", table_name="usage")
    op.drop_index(op.f("ix_usage_request_id"), table_name="usage")
    op.drop_index(op.f("ix_usage_group_id"), table_name="usage")
    op.drop_index("ix_usage_ended", table_name="usage")
    op.drop_table("usage")
    op.drop_index(op.f("ix_groups_state"), table_name="groups")
    op.drop_index(op.f("ix_groups_model_id"), table_name="groups")
    op.drop_table("groups")
    op.drop_table("cold_start_events")
    op.drop_index("ix_prices_model_from", table_name="prices")
    op.drop_table("prices")
    op.drop_index("ix_ledger_tenant_amount", table_name="ledger")
    op.drop_index("ix_ledger_at", table_name="ledger")
    op.drop_table("ledger")
    op.drop_table("devices")
    op.drop_index(op.f("ix_cold_starts_model_id"), table_name="cold_starts")
    op.drop_table("cold_starts")
    op.drop_index(op.f("ix_api_keys_tenant_id"), table_name="api_keys")
    op.drop_table("api_keys")
    op.drop_index(op.f("ix_aliases_model_id"), table_name="aliases")
    op.drop_table("aliases")
    op.drop_table("tenants")
    op.drop_table("rejected_usage")
    op.drop_index(op.f("ix_outbox_sent_at_ms"), table_name="outbox")
    op.drop_index(op.f("ix_outbox_group_id"), table_name="outbox")
    op.drop_index(op.f("ix_outbox_done_at_ms"), table_name="outbox")
    op.drop_table("outbox")
    op.drop_table("nodes")
    op.drop_index(
        "uq_models_live_name",
        table_name="models",
        sqlite_where=sa.text("deleted_at_ms IS NULL"),
        postgresql_where=sa.text("deleted_at_ms IS NULL"),
    )
    op.drop_table("models")
    op.drop_index(op.f("ix_audit_at_ms"), table_name="audit")
    op.drop_table("audit")
    op.drop_table("admin_users")
