#!/bin/sh
# Two invokes in one run: one as it is, one with head 7 of block 0 ablated. Gives the top token of
# each behind the prompt, its log-probability, and how far apart the two distributions are
# (the Kullback-Leibler divergence, in nats).
# INTERPOSE_HOST is the server, ACCEPT the form of the answer (application/json, ...).
HOST=${INTERPOSE_HOST:-http://127.0.0.1:8000}
curl --silent --show-error --fail-with-body "$HOST/v1/run" \
    -H 'Content-Type: application/json' -H "Accept: ${ACCEPT:-text/plain}" \
    -d '{
    "invokes": [
        {"prompt": "The Eiffel Tower is in the city of"},
        {"prompt": "The Eiffel Tower is in the city of"}
    ],
    "nodes": [
        {"op": "set", "args": ["transformer.h.0.attn.value.output[:, 7]", 0.0], "invoke": 1},
        {"name": "normal", "op": "log_softmax", "args": ["lm_head.output[0, -1]", -1], "invoke": 0},
        {"name": "ablated", "op": "log_softmax", "args": ["lm_head.output[0, -1]", -1], "invoke": 1},

        {"name": "normal top token", "op": "argmax", "args": ["normal"]},
        {"op": "save", "args": ["normal top token"]},
        {"name": "normal log-probability", "op": "max", "args": ["normal"]},
        {"op": "save", "args": ["normal log-probability"]},
        {"name": "ablated top token", "op": "argmax", "args": ["ablated"]},
        {"op": "save", "args": ["ablated top token"]},
        {"name": "ablated log-probability", "op": "max", "args": ["ablated"]},
        {"op": "save", "args": ["ablated log-probability"]},

        {"name": "p", "op": "exp", "args": ["normal"]},
        {"name": "difference", "op": "sub", "args": ["normal", "ablated"]},
        {"name": "terms", "op": "mul", "args": ["p", "difference"]},
        {"name": "divergence", "op": "sum", "args": ["terms"]},
        {"op": "save", "args": ["divergence"]}
    ]
}'
