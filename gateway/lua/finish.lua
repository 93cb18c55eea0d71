-- Publishes an attempt's final event, once or again (the ledger counts each attempt id once).
-- The reservation shrinks to what the attempt cost, the slots are free, the minute's tokens become the real ones.
-- What is left of the reservation goes when the ledger has written the attempt to SQL.
--
-- KEYS  1 reservations  2 attempts  3 usage stream  4 tenant slots  5 key slots  6, 7 tenant's, key's tokens of the window
-- ARGV  1 attempt id  2 event (JSON)  3 tenant id  4 tokens counted at admission, less the real ones
-- Returns the stream id.

local event = cjson.decode(ARGV[2])
local before = redis.call('HGET', KEYS[2], ARGV[1])
if before then
  local attempt = cjson.decode(before)
  redis.call('HINCRBY', KEYS[1], ARGV[3], string.format('%.0f', event.reserved_nusd - attempt.reserved_nusd))
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
  if not attempt.outcome then
    for position = 6, 7 do
      if redis.call('EXISTS', KEYS[position]) == 1 then redis.call('DECRBY', KEYS[position], ARGV[4]) end
    end
  end
end
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
return redis.call('XADD', KEYS[3], '*', 'event', ARGV[2])
