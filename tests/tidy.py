#!/usr/bin/env python3
"""Checks what the compiler cannot: who may include whom, banned calls, limits of taste.

Prints `file:line: what` for each finding and exits 1 if there was one.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RANK = {"protocol": 0, "kernels": 1, "server": 2}  # a folder may include itself and lower ranks

# The HTTP side reaches the engine through queue.h and job.h alone.
FRONT = {"http", "routes", "reply"}
ENGINE = {"batch", "worker", "dispatch"}

# What of protocol/ the kernels may see: tensors and points, nothing of requests.
KERNELS_SEE = {"base.h", "tensor.h", "ops.h", "ops.def", "points.h", "points.def", "limits.h",
               "parameters.h", "parameters.def", "modules.h", "modules.def",
               "errors.def"}

# An outside header, and the files that alone may name it.
OWNERS = {
    "microhttpd.h": ("server/http.",),
    "jansson.h": ("protocol/decode", "protocol/bpe.", "kernels/safetensors.", "kernels/shards.",
                  "kernels/config."),
    "msgpack": ("protocol/encode", "protocol/decode"),
    "cuda": ("kernels/cuda/",),
    "cublas": ("bench/",),
    "pthread.h": ("server/", "kernels/cpu/"),
    "immintrin.h": ("kernels/cpu/",),
}

# A call, what to use instead, and the one file that may make it.
BANNED = {
    r"\b(malloc|calloc|realloc|free|strdup)\(": ("an arena or memory_map", "protocol/base.c"),
    r"\b(strcpy|strcat|sprintf|gets)\(": ("snprintf", ""),
    r"\b(atoi|atol|atof)\(": ("strtol with its end checked", ""),
    r"\balloca\(": ("an arena", ""),
    r"\b(TODO|FIXME|XXX)\b": ("an issue", ""),
    r"#if 0": ("deletion", ""),
}
COLUMNS_MAX, FUNCTION_MAX = 100, 60

# Functions that are clearer whole, each with its reason.
LONG_FUNCTIONS = {}


def findings_of_include(path, line, name, system):
    folder, relative = path.parts[0], path.as_posix()
    if system:
        for header, owners in OWNERS.items():
            if name.startswith(header) and not relative.startswith(owners):
                yield line, f"only {', '.join(owners)} may include <{name}>"
        return
    target = (ROOT / path.parent / name).resolve().relative_to(ROOT)
    if not (ROOT / target).exists():
        yield line, f"{target} does not exist"
        return
    there = target.parts[0]
    if RANK.get(there, 9) > RANK[folder]:
        yield line, f"{folder}/ must not know {there}/"
    if folder == "kernels" and there == "protocol" and target.name not in KERNELS_SEE:
        yield line, f"kernels/ may see only {', '.join(sorted(KERNELS_SEE))} of protocol/"
    if folder == "server" and path.stem in FRONT and target.stem in ENGINE:
        yield line, "the HTTP side reaches the engine through queue.h and job.h alone"


def without_comments(text):
    """The text with comments and strings blanked, lines and columns kept."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match[0])
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', blank, text, flags=re.S)


def findings_of_file(path):
    text = (ROOT / path).read_text()
    code = without_comments(text).splitlines()
    opened = 0
    for line, raw in enumerate(text.splitlines(), 1):
        if match := re.match(r'#include ([<"])([^>"]+)[>"]', raw):
            yield from findings_of_include(path, line, match[2], match[1] == "<")
        for pattern, (instead, allowed) in BANNED.items():
            where = raw if "TODO" in pattern else code[line - 1]
            found = re.search(pattern, where)
            if found and path.as_posix() != allowed:
                yield line, f"{found[0].rstrip('(')} is banned, use {instead}"
        if len(raw) > COLUMNS_MAX and path.suffix != ".def" and "unicode" not in path.name:
            yield line, f"the line has {len(raw)} columns, at most {COLUMNS_MAX}"
        if "\t" in raw or raw != raw.rstrip():
            yield line, "tabs and trailing blanks are not used"
        if raw == "{":
            opened = line
        if raw == "}" and opened:
            length = line - opened + 1
            if length > FUNCTION_MAX + 2 and (path.as_posix(), opened) not in LONG_FUNCTIONS:
                yield opened, f"the function has {length} lines, at most {FUNCTION_MAX}"
            opened = 0


def main():
    bad = 0
    for folder in RANK:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".c", ".cpp", ".h", ".inc", ".cu", ".def"}:
                for line, what in findings_of_file(path.relative_to(ROOT)):
                    print(f"{path.relative_to(ROOT)}:{line}: {what}")
                    bad += 1
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
