-- What several agents use of shared quotas, as in quota.rs, by this server's own clock, in microseconds.
-- KEYS: when each bucket is full again. ARGV: whether to use a request (1 or 0), then for each key the interval after which one
-- request flows back, the capacity, and whether it refuses (1) or is only watched (0).
-- Uses one request of each, or of none if one of them refuses. Answers for each whether there was one left, and what is used.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local used, fits, all = {}, {}, true
for i, key in ipairs(KEYS) do
  local interval, capacity = tonumber(ARGV[i * 3 - 1]), tonumber(ARGV[i * 3])
  local left = tonumber(redis.call('GET', key) or '0') - now
  used[i] = math.min(math.max(left, 0), capacity)
  fits[i] = used[i] + interval <= capacity
  if left > capacity then
    redis.call('SET', key, string.format('%.0f', now + capacity), 'PX', math.ceil(capacity / 1000))
  end
  all = all and (fits[i] or ARGV[i * 3 + 1] == '0')
end
local answer = {}
for i, key in ipairs(KEYS) do
  if ARGV[1] == '1' and all and fits[i] then
    used[i] = used[i] + tonumber(ARGV[i * 3 - 1])
    redis.call('SET', key, string.format('%.0f', now + used[i]), 'PX', math.ceil(used[i] / 1000))
  end
  answer[i * 2 - 1], answer[i * 2] = fits[i] and 1 or 0, used[i]
end
return answer
