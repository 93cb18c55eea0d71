-- Publishes the final events of attempts of the same scopes, once or again (the ledger counts each attempt id once).
-- A reservation shrinks to what its attempt cost, the slots are free, the minute's tokens become the real ones.
-- What is left of the reservation goes when the ledger has written the attempt to SQL.
--
-- KEYS  1 reservations  2 attempts  3 usage stream  4 budgets' reservations
--       then the attempts' slots, and after them the rate prefixes of the scopes that counted their tokens
-- ARGV  1 tenant id  2 number of slots
--       then of each: attempt id, event (JSON), tokens counted at admission less the real ones, and the lock of its
--       Idempotency-Key with its value ('': none)
-- Returns how many were published. Each is whole before the next one's turn: where one fails, those before it are done.

local last_slot = 4 + tonumber(ARGV[2])

for at = 3, #ARGV, 5 do
  local id, json, lock = ARGV[at], ARGV[at + 1], ARGV[at + 3]
  local event = cjson.decode(json)
  local raw = redis.call('HGET', KEYS[2], id)
  -- An attempt that Redis does not know (any more) is held until the ledger has closed it, too: by that a gateway sees
  -- that its event is safe, and until then its cost counts.
  local attempt = raw and cjson.decode(raw) or { reserved_nusd = 0, budgets = event.budgets }
  local change = string.format('%.0f', event.reserved_nusd - attempt.reserved_nusd)
  redis.call('HINCRBY', KEYS[1], ARGV[1], change)
  for _, field in ipairs(attempt.budgets or {}) do
    redis.call('HINCRBY', KEYS[4], field, change)
  end
  redis.call('HSET', KEYS[2], id, json)
  if raw and not attempt.outcome then
    local minute = string.format('%.0f', math.floor((attempt.admitted_at_ms or 0) / 60000))
    for position = last_slot + 1, #KEYS do
      local counter = KEYS[position] .. ':t:' .. minute
      if redis.call('EXISTS', counter) == 1 then redis.call('DECRBY', counter, ARGV[at + 2]) end
    end
  end
  for position = 5, last_slot do
    redis.call('ZREM', KEYS[position], id)
  end
  if lock ~= '' and redis.call('GET', lock) == ARGV[at + 4] then redis.call('DEL', lock) end
  redis.call('XADD', KEYS[3], '*', 'event', json)
end
return (#ARGV - 2) / 5
