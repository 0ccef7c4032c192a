# For scripts that run one part after the other: each has its seconds, and those that the parts before
# it left over. How a part ended is told at once, on the screen and in a file, so that it is known
# whatever becomes of the rest. Sourced, with $reports a folder: $reports/$report.txt has the lines,
# $report.log all that the parts print.
passed=0 failed=0 unfinished="" until=$(date +%s)
: >"$reports/$report.txt"
: >"$reports/$report.log"

say() {
    echo "$*" | tee -a "$reports/$report.txt"
}

left_out() {
    say "left out: $1, since $2"
}

# How far it came: the last that it printed, which names the test that it was in.
last_line() {
    grep -v '^ *$' "$1" | tail -n 1 | cut -c 1-120
}

# part SECONDS NAME COMMAND...: a line, and the output of what fails. With cmocka's lines or pytest's,
# what runs out of time behind a failure has failed.
part() {
    until=$((until + $1)) name=$2 log=$reports/$report.part
    limit=$((until - $(date +%s)))
    [ $limit -gt 0 ] || limit=1
    shift 2
    timeout -k 5 "$limit" "$@" >"$log" 2>&1 </dev/null
    status=$?
    { echo "== $name"; cat "$log"; } >>"$reports/$report.log"
    late=$([ $status = 124 ] || [ $status = 137 ] && [ "$(date +%s)" -ge "$until" ] && echo yes)
    if [ $status = 0 ]; then
        say "ok   $name: $(last_line "$log")"
        passed=$((passed + 1))
    elif [ "$late" ] && ! grep -q '^\[  FAILED  \]\|FAILED *\[' "$log"; then
        say "not finished in $limit s: $name: $(last_line "$log")"
        unfinished="$unfinished${unfinished:+; }$name"
    else
        say "FAIL $name${late:+, and not finished in $limit s}"
        tail -n 40 "$log"
        failed=$((failed + 1))
    fi
    rm -f "$log"
}

# The last line, and whether none has failed.
parts_end() {
    say "$passed passed, $failed failed${unfinished:+, not finished: $unfinished}"
    [ "$failed" = 0 ]
}
