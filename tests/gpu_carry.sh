#!/bin/sh
# What a machine with a GPU needs to run make gpu-check and gpu-bench without a compiler, a network or
# the server's libraries.
#
#   gpu_carry.sh pack PROGRAMS       make gpu-carry: into build/carry, `sh build/carry/unpack.sh` puts
#                                    it in place on the machine there
#   gpu_carry.sh carried PROGRAMS    whether they were; ends with 2 if they are of other sources
#   gpu_carry.sh libraries CC        whether the server's are installed
set -e

sources() {
    find Makefile kernels protocol server tests bench -type f \
        \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cpp' -o -name '*.def' -o -name '*.inc' \
        -o -name Makefile \) | LC_ALL=C sort | xargs cat | cksum
}

# The libraries that a program asks for, and those that they do, but for the C library's own.
libraries_of() {
    ldd "$1" | awk '$2 == "=>" && $1 !~ /^(libc|libm|libdl|librt|libpthread)\.so/ {print $3}'
}

# What of Python is without compiled parts, each package with its needs in a folder of its own: it is
# taken where a machine lacks it. msgpack does without its own.
pack_python() {
    for packages in "pytest pluggy iniconfig packaging pygments" msgpack urllib3; do
        .venv/bin/python - "$1/${packages%% *}" $packages <<END
import importlib.metadata, pathlib, shutil, sys
for package in sys.argv[2:]:
    for file in importlib.metadata.files(package):
        if file.suffix != ".so" and not {"..", "__pycache__"} & set(file.parts):
            to = pathlib.Path(sys.argv[1]) / file
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), to)
END
    done
}

pack() {
    stage=$(mktemp -d)
    to=$stage/$(basename "$1")
    mkdir -p "$to/lib" build/carry
    for program in test_backend passes fast bench schedules_tool interposed; do
        strip -o "$to/$program" "$1/$program"
    done
    libraries_of "$1/interposed" | xargs -I{} cp -L {} "$to/lib"
    pack_python "$to/python"
    sources >"$to/carried"
    tar czf build/carry/programs.tgz -C "$stage" "$(basename "$1")"
    rm -r "$stage"
    cat >build/carry/unpack.sh <<END
#!/bin/sh
# Puts what make gpu-carry packed in place: make gpu-check and gpu-bench then compile nothing.
cd "\$(dirname "\$0")/.." && rm -rf "$(basename "$1")" && tar xzf carry/programs.tgz
END
    du -sh build/carry
}

carried() {
    [ -f "$1/carried" ] || exit 1
    [ "$(sources)" = "$(cat "$1/carried")" ] && exit 0
    echo "$1 was carried here from other sources: make gpu-carry again, or remove it." >&2
    exit 2
}

libraries() {
    printf '#include <%s>\n' jansson.h microhttpd.h msgpack.h | "$1" -E - >/dev/null 2>&1
}

"$@"
