#!/bin/sh
# A completion in OpenAI's form: text, and how likely its tokens are.
# INTERPOSE_HOST is the server.
HOST=${INTERPOSE_HOST:-http://127.0.0.1:8000}
curl --silent --show-error --fail-with-body "$HOST/v1/completions" \
    -H 'Content-Type: application/json' \
    -d '{
    "model": "demo",
    "prompt": "The Eiffel Tower is in the city of",
    "max_tokens": 3,
    "temperature": 0,
    "logprobs": 2
}'
