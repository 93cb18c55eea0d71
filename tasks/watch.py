"""Since when a process has been looking without a gap: only from then on does another's silence mean anything.

What is silent may have spoken while nobody listened: after a crash or a pause of the reader, or an outage of what it
reads from, the next message is only on its way. Kept in Redis, so that the reader's successor knows of the gap, too.
"""

from redis import Redis

GAP_MS = 5_000
"""A reader that has not looked for longer than this may have missed something. It looks every second or two."""

CONTROLLER = "controller"
LEDGER = "ledger"

# The later look stays: of two controllers, the slower must not make a gap where none was.
_LOOK = """
local seen = redis.call('HMGET', KEYS[1], 'since', 'last')
local now, since, last = tonumber(ARGV[1]), tonumber(seen[1] or ''), tonumber(seen[2] or '')
if not since or not last or now - last > tonumber(ARGV[2]) or now < since then since, last = now, now end
redis.call('HSET', KEYS[1], 'since', string.format('%.0f', since), 'last', string.format('%.0f', math.max(now, last)))
return string.format('%.0f', since)
"""


def watch_key(reader: str) -> str:
    """The hash that holds `since` and `last`, both ms since the epoch."""
    return f"hyd:watch:{reader}"


def look(redis: Redis, reader: str, now_ms: int) -> int:
    """Note that `reader` looks now; since when (ms) it has done so without a gap. A lost Redis is a gap, too."""
    return int(redis.eval(_LOOK, 1, watch_key(reader), now_ms, GAP_MS))
