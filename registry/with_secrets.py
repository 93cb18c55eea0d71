"""`python -m registry.with_secrets NAME... -- COMMAND...`: run a command with just these of Hydrant's secrets.

A process gets what it needs and nothing else: the hosted process never sees the key pepper or where Redis is (its URL
may hold a password), and none that is started this way sees DATABASE_URL. Nodes are not started this way: this makes
the secrets file, which no node should have.
"""

import os
import sys

from registry.errors import RegistryError
from registry.settings import load_settings

VARIABLES = {
    "key_pepper": "HYDRANT_KEY_PEPPER",
    "hosted_secret": "HYDRANT_HOSTED_SECRET",
    "flask_secret": "HYDRANT_FLASK_SECRET",
    "redis_url": "REDIS_URL",
}


def main(arguments: list[str]) -> None:
    """Replaces this process by the command; exits with one line that says why when it cannot."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    names, command = arguments[:at], arguments[at + 1 :]
    unknown = [name for name in names if name not in VARIABLES]
    if unknown or not command:
        sys.exit(f"usage: python -m registry.with_secrets [{' | '.join(VARIABLES)}]... -- COMMAND...")
    try:
        settings = load_settings()
    except RegistryError as error:
        sys.exit(f"hydrant: {error}")
    # Whoever inherits an environment can read it: what was not asked for goes, and the database is for none of these.
    for variable in ("DATABASE_URL", *VARIABLES.values()):
        os.environ.pop(variable, None)
    for name in names:
        os.environ[VARIABLES[name]] = getattr(settings, name).get_secret_value()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
