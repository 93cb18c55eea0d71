-- Publishes an attempt's final event, once or again (the ledger counts each attempt id once).
-- The reservation shrinks to what the attempt cost, the slots are free, the minute's tokens become the real ones.
-- What is left of the reservation goes when the ledger has written the attempt to SQL.
--
-- KEYS  1 reservations  2 attempts  3 usage stream  4 budgets' reservations
--       then the attempt's slots, and after them the rate prefixes of the scopes that counted its tokens
-- ARGV  1 tenant id  2 number of slots  3 attempt id  4 event (JSON)  5 tokens counted at admission, less the real ones
--       6, 7 lock of its Idempotency-Key and its value, if it has one
-- Returns the stream id.

local last_slot = 4 + tonumber(ARGV[2])
local event = cjson.decode(ARGV[4])
local raw = redis.call('HGET', KEYS[2], ARGV[3])
-- An attempt that Redis does not know (any more) is held until the ledger has closed it, too: by that a gateway sees that
-- its event is safe, and until then its cost counts.
local attempt = raw and cjson.decode(raw) or { reserved_nusd = 0, budgets = event.budgets }
local change = string.format('%.0f', event.reserved_nusd - attempt.reserved_nusd)
redis.call('HINCRBY', KEYS[1], ARGV[1], change)
for _, field in ipairs(attempt.budgets or {}) do
  redis.call('HINCRBY', KEYS[4], field, change)
end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
if raw and not attempt.outcome then
  local minute = string.format('%.0f', math.floor((attempt.admitted_at_ms or 0) / 60000))
  for position = last_slot + 1, #KEYS do
    local counter = KEYS[position] .. ':t:' .. minute
    if redis.call('EXISTS', counter) == 1 then redis.call('DECRBY', counter, ARGV[5]) end
  end
end
for position = 5, last_slot do
  redis.call('ZREM', KEYS[position], ARGV[3])
end
if ARGV[6] and redis.call('GET', ARGV[6]) == ARGV[7] then redis.call('DEL', ARGV[6]) end
return redis.call('XADD', KEYS[3], '*', 'event', ARGV[4])
