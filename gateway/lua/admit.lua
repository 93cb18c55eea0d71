-- Admits one request, or says why not. Nothing is written unless every check passes.
--
-- KEYS  1 balances  2 reservations  3 attempts  4 tenant slots  5 key slots  6 tenant rate prefix  7 key rate prefix
-- ARGV  1 attempt id  2 attempt (JSON)  3 tenant id  4 reservation (nano-dollars)  5 tokens  6 slot life (ms)
--       7..9 tenant's requests per minute, tokens per minute, parallel requests  10..12 the same of the key; -1: no limit
-- Returns {verdict, scope, reset ms, window, request limit, requests left, token limit, tokens left}; limits -1 if none.
-- Verdicts: ok, requests, tokens, tokens_never (more than a whole minute's), parallel, quota, balance_unknown.

local clock = redis.call('TIME')
local now_ms = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local window = math.floor(now_ms / 60000)
local reset_ms = 60000 - now_ms % 60000
local tokens = tonumber(ARGV[5])

local scopes = {
  { name = 'tenant', slots = KEYS[4], rate = KEYS[6], rpm = tonumber(ARGV[7]), tpm = tonumber(ARGV[8]), parallel = tonumber(ARGV[9]) },
  { name = 'key', slots = KEYS[5], rate = KEYS[7], rpm = tonumber(ARGV[10]), tpm = tonumber(ARGV[11]), parallel = tonumber(ARGV[12]) },
}
local request_limit, requests_left, token_limit, tokens_left = -1, -1, -1, -1

local function verdict(name, scope)
  return { name, scope, reset_ms, window, request_limit, requests_left, token_limit, tokens_left }
end

for _, scope in ipairs(scopes) do
  scope.requests_key = scope.rate .. ':r:' .. window
  scope.tokens_key = scope.rate .. ':t:' .. window
  if scope.rpm >= 0 then
    local left = scope.rpm - tonumber(redis.call('GET', scope.requests_key) or '0')
    if requests_left < 0 or left < requests_left then
      request_limit, requests_left = scope.rpm, math.max(left, 0)
    end
    if left < 1 then return verdict('requests', scope.name) end
  end
  if scope.tpm >= 0 then
    local left = scope.tpm - tonumber(redis.call('GET', scope.tokens_key) or '0')
    if tokens_left < 0 or left < tokens_left then
      token_limit, tokens_left = scope.tpm, math.max(left, 0)
    end
    if tokens > scope.tpm then return verdict('tokens_never', scope.name) end
    if left < tokens then return verdict('tokens', scope.name) end
  end
  if scope.parallel >= 0 then
    redis.call('ZREMRANGEBYSCORE', scope.slots, '-inf', now_ms)
    if redis.call('ZCARD', scope.slots) >= scope.parallel then return verdict('parallel', scope.name) end
  end
end

if tonumber(ARGV[4]) > 0 then
  local balance = redis.call('HGET', KEYS[1], ARGV[3])
  if not balance and redis.call('EXISTS', KEYS[1]) == 0 then return verdict('balance_unknown', 'tenant') end
  local reserved = redis.call('HGET', KEYS[2], ARGV[3])
  if tonumber(balance or '0') - tonumber(reserved or '0') < tonumber(ARGV[4]) then return verdict('quota', 'tenant') end
  redis.call('HINCRBY', KEYS[2], ARGV[3], ARGV[4])
end

for _, scope in ipairs(scopes) do
  if scope.rpm >= 0 then
    redis.call('INCR', scope.requests_key)
    redis.call('PEXPIRE', scope.requests_key, 120000)
  end
  if scope.tpm >= 0 then
    redis.call('INCRBY', scope.tokens_key, ARGV[5])
    redis.call('PEXPIRE', scope.tokens_key, 120000)
  end
  if scope.parallel >= 0 then
    redis.call('ZADD', scope.slots, now_ms + tonumber(ARGV[6]), ARGV[1])
  end
end
if requests_left > 0 then requests_left = requests_left - 1 end
if tokens_left >= 0 then tokens_left = math.max(tokens_left - tokens, 0) end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
return verdict('ok', '')
