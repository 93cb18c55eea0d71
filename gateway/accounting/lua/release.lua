-- Undoes an admission whose request never reached a worker, or was refused by it. Doing it again changes nothing.
--
-- KEYS  1 reservations  2 attempts  3 budgets' reservations
--       then the attempt's slots, and after them the rate prefixes of the scopes that counted its tokens
-- ARGV  1 attempt id  2 tenant id  3 tokens counted at admission  4 number of slots
--       5, 6 lock of its Idempotency-Key and its value, if it has one
-- Returns 1 when the attempt was open, else 0.

local last_slot = 3 + tonumber(ARGV[4])
for position = 4, last_slot do
  redis.call('ZREM', KEYS[position], ARGV[1])
end
if ARGV[5] and redis.call('GET', ARGV[5]) == ARGV[6] then redis.call('DEL', ARGV[5]) end
local raw = redis.call('HGET', KEYS[2], ARGV[1])
if not raw then return 0 end
local attempt = cjson.decode(raw)
local change = string.format('%.0f', 0 - attempt.reserved_nusd)
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HINCRBY', KEYS[1], ARGV[2], change)
for _, field in ipairs(attempt.budgets or {}) do
  if redis.call('HINCRBY', KEYS[3], field, change) <= 0 then redis.call('HDEL', KEYS[3], field) end
end
-- Of the minute in which it was admitted, which a gateway that got no answer does not know.
local minute = string.format('%.0f', math.floor((attempt.admitted_at_ms or 0) / 60000))
for position = last_slot + 1, #KEYS do
  local counter = KEYS[position] .. ':t:' .. minute
  if redis.call('EXISTS', counter) == 1 then redis.call('DECRBY', counter, ARGV[3]) end
end
return 1
