-- Undoes an admission whose request never reached a worker, or was refused by it. Doing it again changes nothing.
--
-- KEYS  1 reservations  2 attempts  3 tenant slots  4 key slots  5 tenant tokens of the window  6 key tokens of the window
-- ARGV  1 attempt id  2 tenant id  3 tokens counted at admission
-- Returns 1 when the attempt was open, else 0.

redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
local attempt = redis.call('HGET', KEYS[2], ARGV[1])
if not attempt then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HINCRBY', KEYS[1], ARGV[2], string.format('%.0f', 0 - cjson.decode(attempt).reserved_nusd))
for position = 5, 6 do
  if redis.call('EXISTS', KEYS[position]) == 1 then redis.call('DECRBY', KEYS[position], ARGV[3]) end
end
return 1
