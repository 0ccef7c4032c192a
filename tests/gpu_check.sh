#!/bin/sh
# make gpu-check: the CUDA backend on this machine's GPU, what is worth most first: bits, then random
# schedules and the server, then the toolkit's sanitizers. What needs more than a GPU (libraries,
# Python, compute-sanitizer) is done where it is there, and named where it is not. The last line
# counts: "N passed, N failed", and names what came to no end.
#
#   gpu_check.sh PROGRAMS FOLDER     where its programs are, and where its reports go (tests/parts.sh)
programs=$1 reports=$2 report=gpu_check
mkdir -p "$reports"
. tests/parts.sh

[ -n "$EMULATE" ] && size="" || size=large
python=$(command -v .venv/bin/python || command -v python3)

has() {
    "$python" -c "import sys, importlib.util as all
sys.exit(any(not all.find_spec(name) for name in sys.argv[1:]))" "$@" 2>/dev/null
}

# The seconds of all parts are less than ten minutes (tests/test_gpu_parts.py adds them up).
part 80 "every call beside the reference" "$programs/test_backend" $size
part 60 "passes beside the CPU's, and hashes" "$programs/passes" $size
part 30 "faster precisions" "$programs/fast"

# What this machine lacks of Python and was carried along (tests/gpu_carry.sh).
export PYTHONPATH=clients/python PYTHONUNBUFFERED=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
for package in pytest msgpack urllib3; do
    has $package || PYTHONPATH=$PYTHONPATH:$programs/python/$package
done

tests_on_gpu() {
    seconds=$1 file=$2
    shift 2
    part "$seconds" "$file.py with --device cuda:0" \
        "$python" -m pytest -v --tb=short -p no:cacheprovider "$@" "tests/$file.py"
}

if [ ! -x "$programs/schedules_tool" ]; then
    left_out "random schedules and the server" "jansson, microhttpd or msgpack-c is not installed"
elif [ -z "$python" ]; then
    left_out "random schedules and the server's tests" "there is no Python"
else
    model=$reports/schedules
    mkdir -p "$model"
    "$programs/schedules_tool" make "$model"
    "$python" tests/random_requests.py "$model" 0 150 >"$model/requests"
    part 60 "random schedules" "$programs/schedules_tool" run "$model" "$model/requests" 1 40
    rm -rf "$model"
    export INTERPOSED_DEVICE=cuda:0 INTERPOSED="$programs/interposed" OMP_NUM_THREADS=1
    if [ -n "$EMULATE" ]; then
        left_out "the server's tests" "an emulated device is too slow for the demo model"
    elif ! has pytest msgpack numpy urllib3; then
        left_out "the server's tests" "$python lacks pytest, msgpack, numpy or urllib3"
    else
        # Threads and instruction sets are the CPU's.
        tests_on_gpu 50 test_bits -k "not instruction_sets"
        tests_on_gpu 30 test_cases
        # Its model of real size is left out: the hooks are the same, the products are passes' above.
        has torch transformers && tests_on_gpu 45 test_oracle -k demo ||
            left_out "tests/test_oracle.py" "$python lacks torch or transformers"
        tests_on_gpu 40 test_http
        tests_on_gpu 30 test_service
        tests_on_gpu 20 test_tutorial
    fi
fi

# One case of each call has all its kernels; whole passes call the same ones behind one another, which
# is nothing to the race checker: it is for memory that the threads of one block share.
nvcc=$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")
sanitizer=$(command -v compute-sanitizer || echo "$(dirname "$nvcc")/compute-sanitizer")
if [ -z "$EMULATE" ] && [ -x "$sanitizer" ]; then
    for tool in memcheck racecheck initcheck synccheck; do
        part 16 "$tool of a case of each call" \
            "$sanitizer" --tool $tool --error-exitcode 9 "$programs/test_backend" few
        part 8 "$tool of faster precisions" \
            "$sanitizer" --tool $tool --error-exitcode 9 "$programs/fast" few
        [ $tool = racecheck ] || part 8 "$tool of passes" \
            "$sanitizer" --tool $tool --error-exitcode 9 "$programs/passes" few
    done
else
    left_out "compute-sanitizer" "it is not there, or nothing runs on a GPU"
fi
parts_end
