-- Hands an open attempt's reservation and slots to its successor, when a request is tried on another worker.
--
-- KEYS  1 attempts, then the attempt's slots
-- ARGV  1 old attempt id  2 new attempt id  3 new attempt (JSON)
-- Returns 1 when the old attempt was open, else 0 (somebody settled it: the request must not go on).

if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
for position = 2, #KEYS do
  local expiry = redis.call('ZSCORE', KEYS[position], ARGV[1])
  if expiry then
    redis.call('ZREM', KEYS[position], ARGV[1])
    redis.call('ZADD', KEYS[position], expiry, ARGV[2])
  end
end
return 1
