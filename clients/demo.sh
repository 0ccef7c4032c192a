#!/bin/sh
# Starts the server on a model and a free port, runs the tutorial against it, stops it.
set -eu
model=${1:-models/demo}
log=$(mktemp)
build/interposed --model "$model" --port 0 2>"$log" &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null || :; rm -f "$log"' EXIT INT TERM

tries=0
until host=$(sed -n 's/.*\(http:\/\/[0-9.:]*[0-9]\).*/\1/p' "$log" | head -1) && [ -n "$host" ]; do
    tries=$((tries + 1))
    if [ $tries -gt 600 ] || ! kill -0 $server 2>/dev/null; then
        echo "the server did not start:" >&2
        cat "$log" >&2
        exit 1
    fi
    sleep 0.1
done
grep -o 'interposed: .*' "$log" | head -1 || head -1 "$log"
INTERPOSE_HOST=$host PYTHONPATH=clients/python .venv/bin/python clients/tutorial.py
