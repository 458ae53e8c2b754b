-- One add_sub request, repeated by wrk. After "--": "binary" or "json", how the tensors travel in both directions.

local one_to_four = "\0\0\128\63\0\0\0\64\0\0\64\64\0\0\128\64" -- 1, 2, 3, 4 as little-endian FP32

local function input(name, rest)
  return '{"name":"' .. name .. '","shape":[4],"datatype":"FP32",' .. rest .. "}"
end

function init(arguments)
  wrk.method = "POST"
  wrk.path = "/v2/models/add_sub/infer"
  if arguments[1] == "json" then
    local data = '"data":[1,2,3,4]'
    wrk.headers["Content-Type"] = "application/json"
    wrk.body = '{"inputs":[' .. input("INPUT0", data) .. "," .. input("INPUT1", data) .. "]}"
  else
    local size = '"parameters":{"binary_data_size":16}'
    local header = '{"inputs":[' .. input("INPUT0", size) .. "," .. input("INPUT1", size) ..
      '],"parameters":{"binary_data_output":true}}'
    wrk.headers["Content-Type"] = "application/octet-stream"
    wrk.headers["Inference-Header-Content-Length"] = tostring(#header)
    wrk.body = header .. one_to_four .. one_to_four
  end
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('{"requests":%d,"duration_us":%d,"p50_us":%d,"failed":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), failed))
end
