#!/bin/sh
# make gpu-check: the CUDA backend on this machine's GPU. Needs nvcc and a host compiler; what needs
# more (compute-sanitizer, the server's libraries, Python) is done where it is there, and named
# where it is not. The last line counts: "N passed, N failed".
#
#   gpu_check.sh FOLDER      where make gpu-check has put its programs
programs=$1
passed=0 failed=0

# step SECONDS NAME COMMAND...: one line, and the output of what fails.
step() {
    seconds=$1 name=$2 log=$(mktemp)
    shift 2
    if timeout "$seconds" "$@" >"$log" 2>&1; then
        echo "ok   $name: $(tail -n 1 "$log" | cut -c 1-100)"
        passed=$((passed + 1))
    else
        echo "FAIL $name"
        tail -n 40 "$log"
        failed=$((failed + 1))
    fi
    rm -f "$log"
}

left_out() {
    echo "left out: $1, since $2"
}

make_here() {
    make --no-print-directory --silent -j "$@"
}

[ -n "$EMULATE" ] && cuda="" size="" || cuda=CUDA=1 size=large

step 200 "every call beside the reference" "$programs/test_backend" $size
step 100 "faster precisions" "$programs/fast"
step 200 "passes beside the CPU's, and hashes" "$programs/passes" $size

nvcc=$(command -v nvcc || echo "$CUDA_HOME/bin/nvcc")
sanitizer=$(command -v compute-sanitizer || echo "$(dirname "$nvcc")/compute-sanitizer")
if [ -z "$EMULATE" ] && [ -x "$sanitizer" ]; then
    for tool in memcheck initcheck synccheck; do
        step 60 "compute-sanitizer $tool" \
            "$sanitizer" --tool $tool --error-exitcode 9 "$programs/passes"
    done
else
    left_out "compute-sanitizer" "it is not there, or nothing runs on a GPU"
fi

libraries='#include <jansson.h>
#include <microhttpd.h>
#include <msgpack.h>'
if ! echo "$libraries" | "${CC:-cc}" -E - >/dev/null 2>&1; then
    left_out "random schedules and the server" "jansson, microhttpd or msgpack-c is not installed"
elif make_here ${EMULATE:+EMULATE=1} $cuda "$programs/schedules_tool"; then
    model=$(mktemp -d)
    "$programs/schedules_tool" make "$model"
    python=$(command -v .venv/bin/python || command -v python3)
    if "$python" tests/random_requests.py "$model" 0 150 >"$model/requests"; then
        step 120 "random schedules" "$programs/schedules_tool" run "$model" "$model/requests" 1 40
    else
        left_out "random schedules" "there is no Python to make requests"
    fi
    rm -rf "$model"
    if [ -n "$EMULATE" ]; then
        left_out "the server's tests" "an emulated device is too slow for the demo model"
    elif ! "$python" -c "import pytest, msgpack, numpy, urllib3"; then
        left_out "the server's tests" "pytest, msgpack, numpy or urllib3 is not installed"
    else
        make_here CUDA=1 all
        export INTERPOSED_DEVICE=cuda:0 PYTHONPATH=clients/python
        for file in test_cases test_tutorial test_http test_service test_bits test_oracle; do
            step 120 "tests/$file.py with --device cuda:0" \
                "$python" -m pytest -q --tb=short -p no:cacheprovider "tests/$file.py"
        done
    fi
else
    failed=$((failed + 1))
fi

# A hundred times slower than the others.
if [ -z "$EMULATE" ] && [ -x "$sanitizer" ]; then
    step 120 "compute-sanitizer racecheck" \
        "$sanitizer" --tool racecheck --error-exitcode 9 "$programs/passes" few
fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
