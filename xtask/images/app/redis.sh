#!/bin/bash
# READY when the server stored a value and gave it back.
redis-server --save '' --port 6379 --bind 127.0.0.1 --dir /tmp >/tmp/redis.log 2>&1 &
server=$!
until [ "$(redis-cli set greeting hello 2>/dev/null)" = OK ]; do
  kill -0 $server || { cat /tmp/redis.log; exit 1; }
  sleep 0.02
done
echo "READY redis $(redis-cli get greeting)"
kill $server
wait $server
