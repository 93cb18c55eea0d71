-- Writes running usage of open attempts and keeps their parallel slots alive.
-- An attempt that is no longer open (settled, or lost with Redis) is left alone: writing it would reserve money for ever.
--
-- KEYS  1 attempts, then for each attempt its tenant slots and key slots
-- ARGV  1 slot life (ms), then for each attempt its id and JSON
-- Returns the number of attempts written.

local clock = redis.call('TIME')
local expiry = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000) + tonumber(ARGV[1])
local written = 0
for position = 1, (#ARGV - 1) / 2 do
  local id, attempt = ARGV[position * 2], ARGV[position * 2 + 1]
  local before = redis.call('HGET', KEYS[1], id)
  if before and not cjson.decode(before).outcome then
    redis.call('HSET', KEYS[1], id, attempt)
    redis.call('ZADD', KEYS[position * 2], 'XX', expiry, id)
    redis.call('ZADD', KEYS[position * 2 + 1], 'XX', expiry, id)
    written = written + 1
  end
end
return written
