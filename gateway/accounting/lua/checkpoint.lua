-- Writes running usage of open attempts and keeps their parallel slots alive.
-- An attempt that is no longer open (settled, or lost with Redis) is left alone: writing it would reserve money for ever.
--
-- KEYS  1 attempts, then for each attempt its slots
-- ARGV  1 slot life (ms), then for each attempt its id, its JSON, the number of its slots, and the
--       lock of its Idempotency-Key (or '') and its value
-- Returns the number of attempts written.

local clock = redis.call('TIME')
local expiry = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000) + tonumber(ARGV[1])
local written, slots = 0, 1
for at = 2, #ARGV, 5 do
  local id, last = ARGV[at], slots + tonumber(ARGV[at + 2])
  local before = redis.call('HGET', KEYS[1], id)
  if before and not cjson.decode(before).outcome then
    redis.call('HSET', KEYS[1], id, ARGV[at + 1])
    for position = slots + 1, last do
      redis.call('ZADD', KEYS[position], 'XX', expiry, id)
    end
    if ARGV[at + 3] ~= '' and redis.call('GET', ARGV[at + 3]) == ARGV[at + 4] then
      redis.call('PEXPIRE', ARGV[at + 3], ARGV[1])
    end
    written = written + 1
  end
  slots = last
end
return written
