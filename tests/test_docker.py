"""What docker/ says agrees with the rest of the tree; nothing here needs Docker."""
import pathlib
import re
import shutil
import subprocess

import pytest

from conftest import BINARY, ROOT

DOCKER = ROOT / "docker"
FILES = {file.name: file.read_text() for file in DOCKER.iterdir()}


def number(pattern, text):
    found, = re.findall(pattern, text)
    return int(found)


def limit(name):
    return number(rf"\b{name} = (\d+),", (ROOT / "protocol/limits.h").read_text())


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="the packages are Debian's")
def test_a_binary_needs_the_packages_that_run_lists():
    listed = re.search(r"^    run\) cat <<END\n(.*?)^END", FILES["packages.sh"], re.S | re.M)[1]
    packages = {line.split()[0] for line in listed.splitlines()}
    dynamic = subprocess.run(["readelf", "-d", BINARY], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*?)\]", dynamic)
    assert len(needed) > 3
    owners = {subprocess.run(["dpkg-query", "-S", f"*/{name}"], capture_output=True, text=True,
                             check=True).stdout.split(":")[0] for name in needed}
    assert {name for name in owners if not name.startswith("libc6")} == packages


def test_the_image_installs_what_make_installs():
    text = FILES["Dockerfile"]
    assert "apt-get" not in text
    assert re.findall(r"^RUN sh \S*packages\.sh (\w+)", text, re.M) == ["build", "run"]
    copied = re.findall(r"^COPY ((?!--)\S+)", text, re.M)
    assert all((ROOT / path).exists() for path in copied)
    assert {"Makefile", "protocol", "kernels", "server", "models/demo"} <= set(copied)


def test_who_stops_it_waits_until_it_is_done():
    for name, pattern in [("interposed.service", r"TimeoutStopSec=(\d+)"), ("compose.yaml", r"stop_grace_period: (\d+)s")]:
        assert number(pattern, FILES[name]) >= limit("DRAIN_SECONDS") + 10


def test_the_proxy_is_more_patient_than_the_heartbeat():
    for side in ("client", "server"):
        assert number(rf"timeout {side} (\d+)s", FILES["haproxy.cfg"]) >= 3 * limit("HEARTBEAT_SECONDS")
    assert number(r"timeout http-keep-alive (\d+)s", FILES["haproxy.cfg"]) < limit("IDLE_SECONDS_MAX")


def test_options_are_the_server_s():
    options = re.findall(r"^(?:TEXT|NUMBER|CHOICE)\((\w+),", (ROOT / "server/options.def").read_text(), re.M)
    named = {name for text in FILES.values() for name in re.findall(r"\bINTERPOSED_([A-Z]+(?:_[A-Z]+)*)\b", text)}
    assert named and named <= {name.upper() for name in options}
