-- Admits one request, or says why not. Nothing is written unless every check passes.
-- With it, attempts of requests that are still to come are admitted ahead, as far as there is plenty of everything that
-- they would be counted in (`room`): near a limit every request asks for itself.
--
-- KEYS  1 balances  2 reservations  3 attempts  4 budgets' spending  5 budgets' reservations
--       6 lock of its Idempotency-Key, or ''; then for each limited scope: its slots, its rate prefix
-- ARGV  1 attempt id  2 attempt (a JSON object)  3 tenant id  4 reservation (nano-dollars)  5 tokens  6 slot life (ms)
--       7 value of the lock  8 number of attempts ahead; if not 0: reservation and tokens of each, their JSON (what
--       follows the id), and their ids
--       then the number of limited scopes, and for each: name, requests a minute, tokens a minute, parallel requests (-1: no limit)
--       then for each budget: scope id, period (day, month, total), amount (nano-dollars)
-- Returns {verdict, scope, now ms, request limit, requests left, token limit, tokens left, number of those admitted ahead
-- (the first ones), budget fields...}; limits -1 if none. The budget fields are those in which the reservations are
-- counted; of a refusal by a budget, the last is that one's.
-- The scope of a budget's refusal is what it has left (nano-dollars, below 0 where it is overspent).
-- Verdicts: in_flight (the scope is the lock's value), ok, requests, tokens, tokens_never (more than a whole minute's), parallel, quota, balance_unknown,
--       budget (spent), budget_busy (covered, but for what running requests may cost), budget_unknown.
--
-- Sums are kept by HINCRBY, exact to 2^63; comparisons are of doubles, exact to 2^53 nano-dollars (9 million dollars).

local clock = redis.call('TIME')
local now_ms = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local window = math.floor(now_ms / 60000)
local tokens, wanted = tonumber(ARGV[5]), tonumber(ARGV[4])
local request_limit, requests_left, token_limit, tokens_left = -1, -1, -1, -1
local budgets = {}
local ahead, wanted_ahead, tokens_ahead, ids_at, scopes_at = tonumber(ARGV[8]), 0, 0, 11, 9
if ahead > 0 then
  wanted_ahead, tokens_ahead, scopes_at = tonumber(ARGV[9]), tonumber(ARGV[10]), 12 + ahead
end

local function verdict(name, scope)
  return { name, scope, now_ms, request_limit, requests_left, token_limit, tokens_left, ahead, unpack(budgets) }
end

-- What is admitted ahead takes an eighth of what is left at most, and nothing of what the last 64 requests need.
local function room(left, each)
  if each > 0 then ahead = math.min(ahead, math.max(math.floor((left / each - 64) / 8), 0)) end
end

-- The number of a period's present window, UTC (registry/budget_windows.py counts alike): days since the epoch, months
-- since year 0 (the civil calendar from a day's number: Howard Hinnant's chrono-compatible algorithms), or 0 for ever.
local function window_of(period)
  local day = math.floor(now_ms / 86400000)
  if period == 'total' then return 0 end
  if period == 'day' then return day end
  local shifted = day + 719468
  local era = math.floor(shifted / 146097)
  local of_era = shifted - era * 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * of_year + 2) / 153) + 2 -- of a year that begins in March: 2 is March, 12 is January
  return (era * 400 + year) * 12 + month
end

local held = KEYS[6] ~= '' and redis.call('GET', KEYS[6])
if held and held ~= ARGV[7] then return verdict('in_flight', held) end

local scopes = {}
for position = 1, tonumber(ARGV[scopes_at]) do
  local at = scopes_at - 3 + position * 4
  local scope = {
    name = ARGV[at], slots = KEYS[5 + position * 2], rate = KEYS[6 + position * 2],
    rpm = tonumber(ARGV[at + 1]), tpm = tonumber(ARGV[at + 2]), parallel = tonumber(ARGV[at + 3]),
  }
  scopes[position] = scope
  scope.requests_key = scope.rate .. ':r:' .. window
  scope.tokens_key = scope.rate .. ':t:' .. window
  if scope.rpm >= 0 then
    local left = scope.rpm - tonumber(redis.call('GET', scope.requests_key) or '0')
    if requests_left < 0 or left < requests_left then
      request_limit, requests_left = scope.rpm, math.max(left, 0)
    end
    if left < 1 then return verdict('requests', scope.name) end
    room(left, 1)
  end
  if scope.tpm >= 0 then
    local left = scope.tpm - tonumber(redis.call('GET', scope.tokens_key) or '0')
    if tokens_left < 0 or left < tokens_left then
      token_limit, tokens_left = scope.tpm, math.max(left, 0)
    end
    if tokens > scope.tpm then return verdict('tokens_never', scope.name) end
    if left < tokens then return verdict('tokens', scope.name) end
    room(left - tokens, tokens_ahead)
  end
  if scope.parallel >= 0 then
    redis.call('ZREMRANGEBYSCORE', scope.slots, '-inf', now_ms)
    local left = scope.parallel - redis.call('ZCARD', scope.slots)
    if left < 1 then return verdict('parallel', scope.name) end
    room(left, 1)
  end
end

if wanted > 0 then
  local balance = redis.call('HGET', KEYS[1], ARGV[3])
  if not balance and redis.call('EXISTS', KEYS[1]) == 0 then return verdict('balance_unknown', 'tenant') end
  local reserved = redis.call('HGET', KEYS[2], ARGV[3])
  local free = tonumber(balance or '0') - tonumber(reserved or '0')
  if free < wanted then return verdict('quota', 'tenant') end
  room(free - wanted, wanted_ahead)
  for at = scopes_at + 1 + #scopes * 4, #ARGV, 3 do
    local field = ARGV[at] .. ':' .. ARGV[at + 1] .. ':' .. string.format('%.0f', window_of(ARGV[at + 1]))
    budgets[#budgets + 1] = field
    local spent = redis.call('HGET', KEYS[4], field)
    if not spent then return verdict('budget_unknown', '') end
    local left = tonumber(ARGV[at + 2]) - tonumber(spent)
    if left < wanted then return verdict('budget', string.format('%.0f', left)) end
    left = left - tonumber(redis.call('HGET', KEYS[5], field) or '0')
    if left < wanted then return verdict('budget_busy', string.format('%.0f', left)) end
    room(left - wanted, wanted_ahead)
  end
  local reserved_now = string.format('%.0f', wanted + ahead * wanted_ahead)
  redis.call('HINCRBY', KEYS[2], ARGV[3], reserved_now)
  for _, field in ipairs(budgets) do
    redis.call('HINCRBY', KEYS[5], field, reserved_now)
  end
end

-- Alternately an attempt and its JSON. Each remembers where it is counted, from its first moment on: whoever ends it
-- gives back just that.
local counted = #budgets == 0 and '[]' or '["' .. table.concat(budgets, '","') .. '"]'
local admitted = string.format(',"admitted_at_ms":%.0f,"budgets":%s}', now_ms, counted)
local attempts = { ARGV[1], string.sub(ARGV[2], 1, -2) .. admitted }
for at = ids_at + 1, ids_at + ahead do
  attempts[#attempts + 1] = ARGV[at]
  attempts[#attempts + 1] = '{"attempt_id":"' .. ARGV[at] .. '"' .. string.sub(ARGV[11], 1, -2) .. admitted
end

local all_tokens = string.format('%.0f', tokens + ahead * tokens_ahead)
for _, scope in ipairs(scopes) do
  if scope.rpm >= 0 then
    redis.call('INCRBY', scope.requests_key, 1 + ahead)
    redis.call('PEXPIRE', scope.requests_key, 120000)
  end
  if scope.tpm >= 0 then
    redis.call('INCRBY', scope.tokens_key, all_tokens)
    redis.call('PEXPIRE', scope.tokens_key, 120000)
  end
  if scope.parallel >= 0 then
    local expiry = now_ms + tonumber(ARGV[6])
    for at = 1, #attempts, 2 do redis.call('ZADD', scope.slots, expiry, attempts[at]) end
  end
end
if requests_left > 0 then requests_left = requests_left - 1 end
if tokens_left >= 0 then tokens_left = math.max(tokens_left - tokens, 0) end
if KEYS[6] ~= '' then redis.call('SET', KEYS[6], ARGV[7], 'PX', ARGV[6]) end
redis.call('HSET', KEYS[3], unpack(attempts))
return verdict('ok', '')
