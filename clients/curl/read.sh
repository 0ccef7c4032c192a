#!/bin/sh
# Reads one activation: the residual stream behind the last block, at the prompt's last token.
# INTERPOSE_HOST is the server, ACCEPT the form of the answer (application/json, ...).
HOST=${INTERPOSE_HOST:-http://127.0.0.1:8000}
curl --silent --show-error --fail-with-body "$HOST/v1/run" \
    -H 'Content-Type: application/json' -H "Accept: ${ACCEPT:-text/plain}" \
    -d '{
    "prompt": "The Eiffel Tower is in the city of",
    "save": {"hidden": "transformer.h.-1.output[0][:, -1]"}
}'
