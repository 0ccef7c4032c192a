#!/bin/sh
# Generates one token, reading the logits that it is chosen by: which it is, and how likely.
# INTERPOSE_HOST is the server, ACCEPT the form of the answer (application/json, ...).
HOST=${INTERPOSE_HOST:-http://127.0.0.1:8000}
curl --silent --show-error --fail-with-body "$HOST/v1/run" \
    -H 'Content-Type: application/json' -H "Accept: ${ACCEPT:-text/plain}" \
    -d '{
    "prompt": "The Eiffel Tower is in the city of",
    "max_new_tokens": 1,
    "nodes": [
        {"name": "p", "op": "softmax", "args": ["lm_head.output[0, -1]", -1]},
        {"name": "most likely token", "op": "argmax", "args": ["p"]},
        {"op": "save", "args": ["most likely token"]},
        {"name": "its probability", "op": "max", "args": ["p"]},
        {"op": "save", "args": ["its probability"]}
    ]
}'
