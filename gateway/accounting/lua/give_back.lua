-- Gives back attempts that were admitted ahead and that no request has taken. Doing it again changes nothing; nor do ids
-- for which there was no room.
--
-- KEYS  1 reservations  2 attempts  3 budgets' reservations
--       then their slots, the rate prefixes of the scopes that counted their tokens, and of those that counted requests
-- ARGV  1 tenant id  2 tokens of each  3 number of slots  4 number of prefixes that counted tokens, then the ids
-- Returns how many were given back.

local last_slot = 3 + tonumber(ARGV[3])
local last_tokens = last_slot + tonumber(ARGV[4])
local count = 0
local function undo(counter, amount)
  if redis.call('EXISTS', counter) == 1 then redis.call('DECRBY', counter, amount) end
end

for at = 5, #ARGV do
  for position = 4, last_slot do
    redis.call('ZREM', KEYS[position], ARGV[at])
  end
  local raw = redis.call('HGET', KEYS[2], ARGV[at])
  if raw then
    local attempt = cjson.decode(raw)
    local change = string.format('%.0f', 0 - attempt.reserved_nusd)
    local minute = string.format('%.0f', math.floor(attempt.admitted_at_ms / 60000))
    redis.call('HDEL', KEYS[2], ARGV[at])
    redis.call('HINCRBY', KEYS[1], ARGV[1], change)
    for _, field in ipairs(attempt.budgets) do
      if redis.call('HINCRBY', KEYS[3], field, change) <= 0 then redis.call('HDEL', KEYS[3], field) end
    end
    for position = last_slot + 1, last_tokens do undo(KEYS[position] .. ':t:' .. minute, ARGV[2]) end
    for position = last_tokens + 1, #KEYS do undo(KEYS[position] .. ':r:' .. minute, 1) end
    count = count + 1
  end
end
return count
