"""What registry operations raise: each message names the field and the remedy, and is fit for a person to read."""


class RegistryError(Exception):
    """Base of all errors below. `field` names the argument at fault, when one is."""

    code = "registry_error"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidError(RegistryError):
    """A value is not acceptable as it is."""

    code = "invalid"


class NotFoundError(RegistryError):
    """The thing named does not exist (or no longer does)."""

    code = "not_found"


class ConflictError(RegistryError):
    """The change is impossible in the present state: a name is taken, groups still run."""

    code = "conflict"


class SourceError(RegistryError):
    """A model source cannot be served: missing, unreachable, corrupt or of an unsupported kind."""

    code = "bad_source"


class SnapshotError(RegistryError):
    """The snapshot read from Redis is not a snapshot of this version."""

    code = "bad_snapshot"
