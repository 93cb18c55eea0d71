"""What is told of a row as JSON: by `hydrant --json` and by the management API, in the same words.

Each is a TypedDict, from which the management API's OpenAPI document is generated. Times are milliseconds since the
epoch, sizes bytes, money integer nano-dollars (`*_nusd`) with the same amount in dollars beside it (`*_usd`).
"""
