"""Checks what is under packaging as far as that goes without a service manager or a container engine.

packaging_check.py SOURCE PROGRAM [hardened]: the last where the program is built as it is shipped, without sanitizers.
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import yaml

source, program = pathlib.Path(sys.argv[1]), sys.argv[2]
packaging = source / "packaging"
failures = []


def expect(truth, words):
    if not truth:
        failures.append(words)


def options_of(command):
    text = subprocess.run([program, command, "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"--[a-z][a-z-]*", text))


def check_units():
    for role, port in (("provider", 9464), ("helper", 9465)):
        unit = (packaging / f"systemd/permllm-{role}.service").read_text()
        for line in ("Type=notify", "LimitCORE=0", "ProtectSystem=strict", f"StateDirectory=permllm/{role}"):
            expect(f"\n{line}\n" in unit, f"{role}: no {line}")
        # The example of its settings is read by the program.
        example = packaging / f"systemd/{role}.toml"
        shown = subprocess.run([program, role, "--config", str(example), "--print-config"], capture_output=True, text=True)
        expect(shown.returncode == 0, f"{example.name}: {shown.stderr}")
        expect(f"status = '127.0.0.1:{port}'" in shown.stdout, f"{example.name}: {shown.stdout}")
        drain = int(re.search(r"^drain = (\d+)$", shown.stdout, re.M).group(1))
        stop = int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M).group(1))
        expect(drain < stop, f"{role}: the manager waits {stop} s, the drain takes {drain} s")
        if shutil.which("systemd-analyze") is None:
            print("systemd-analyze is not there: the units are not verified")
            continue
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / f"permllm-{role}.service"
            copy.write_text(unit.replace("/usr/bin/permllm", program))
            verified = subprocess.run(["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True)
            said = [line for line in verified.stderr.splitlines() if f"permllm-{role}" in line]
            expect(verified.returncode == 0 and not said, f"{role}: {verified.stderr}")


def check_user_unit():
    unit = (packaging / "systemd/user/permllm-serve.service").read_text()
    for line in ("Type=notify", "LimitCORE=0", "NoNewPrivileges=yes", "WantedBy=default.target"):
        expect(f"\n{line}\n" in unit, f"serve: no {line}")
    example = packaging / "systemd/user/serve.toml"
    shown = subprocess.run([program, "serve", "--config", str(example), "--print-config"], capture_output=True, text=True)
    expect(shown.returncode == 0 and "listen = '127.0.0.1:8080'" in shown.stdout, f"{example.name}: {shown.stderr}{shown.stdout}")
    if shutil.which("systemd-analyze") is not None:
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / "permllm-serve.service"
            copy.write_text(unit.replace("/usr/bin/permllm", program))
            verified = subprocess.run(["systemd-analyze", "verify", "--user", "--man=no", str(copy)], capture_output=True, text=True,
                                      env={**os.environ, "XDG_RUNTIME_DIR": folder})
            said = [line for line in verified.stderr.splitlines() if "permllm-serve" in line]
            expect(not said, f"serve: {verified.stderr}")


def check_image_builds():
    """What the image's build stage copies is enough to configure; all that the program is made of is there."""
    image = (packaging / "container/Containerfile").read_text()
    stage = image[:image.rindex("FROM ")]
    configure = re.search(r"^RUN (cmake --preset release[^\\\n]*)", stage, re.M).group(1).split()
    with tempfile.TemporaryDirectory() as folder:
        for copied in re.findall(r"^COPY (?!--)(.+)$", stage[:stage.index("RUN cmake")], re.M):
            *paths, target = copied.split()
            for path in paths:
                to = pathlib.Path(folder) / target / (path if target == "./" else "")
                from_ = source / path
                shutil.copytree(from_, to, ignore=shutil.ignore_patterns("node_modules")) if from_.is_dir() else shutil.copy(from_, to)
        ran = subprocess.run(configure, cwd=folder, capture_output=True, text=True)
        expect(ran.returncode == 0, f"the image cannot configure: {ran.stdout[-1000:]}{ran.stderr[-3000:]}")
        if ran.returncode == 0:
            # Ninja names what is missing before it runs anything.
            for arguments in (["-n", "permllm"], ["CMakeFiles/permllm_core.dir/src/base/nearest.cpp.o"]):
                ran = subprocess.run(["ninja", "-C", "build/release", *arguments], cwd=folder, capture_output=True, text=True)
                expect(ran.returncode == 0, f"the image cannot build {arguments}: {ran.stdout[-3000:]}")


def check_page():
    """What is packed has the page's libraries: fetched before the build, and no build without."""
    fetch = "scripts/fetch_web.sh release required"
    image = (packaging / "container/Containerfile").read_text()
    expect(fetch in image and image.index(fetch) < image.index("RUN cmake"), "the image's page has no libraries")
    steps = subprocess.run(["make", "-n", "deb"], cwd=source, capture_output=True, text=True, check=True).stdout
    expect(fetch in steps and steps.index(fetch) < steps.index("build.sh"), f"the package's page has no libraries: {steps}")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(source / "web", pathlib.Path(folder) / "web")
        tools = pathlib.Path(folder) / "bin"
        tools.mkdir()
        for name in ("cmp", "mkdir", "touch"):
            (tools / name).symlink_to(shutil.which(name))
        # A build without npm says so once.
        for more, status, says in ((["required"], 1, True), (["unless-tried"], 0, True), (["unless-tried"], 0, False)):
            ran = subprocess.run(["/bin/bash", source / "scripts/fetch_web.sh", "release", *more], cwd=folder, capture_output=True,
                                 text=True, env={"PATH": str(tools)})
            expect(ran.returncode == status and ("npm is not there" in ran.stdout + ran.stderr) == says,
                   f"fetch_web.sh {more} without npm: {ran.returncode} {ran.stdout}{ran.stderr}")
    build = (source / "scripts/build.sh").read_text()
    expect("fetch_web.sh" in build and build.index("fetch_web.sh") < build.index("cmake"), "a build does not look for the page's libraries")


def check_watching():
    """Alerts and dashboard ask for series that there are; Prometheus' own checker is asked where it is there."""
    metrics = (source / "src/service/metrics.cpp").read_text() + (source / "src/gateway/reports.cpp").read_text()
    known = set(re.findall(r'"((?:permllm|process)_[a-z_]+)"', metrics))
    known |= {f"{name}{end}" for name in known for end in ("_bucket", "_count", "_sum")}
    rules = packaging / "prometheus/permllm.rules.yaml"
    alerts = yaml.safe_load(rules.read_text())["groups"][0]["rules"]
    panels = json.loads((packaging / "grafana/permllm.json").read_text())["panels"]
    expressions = [alert["expr"] for alert in alerts] + [target["expr"] for panel in panels for target in panel["targets"]]
    expect(len(alerts) >= 5 and len(panels) >= 10, f"{len(alerts)} alerts, {len(panels)} panels")
    for expression in expressions:
        asked = set(re.findall(r"\b(?:permllm|process)_[a-z_]+", expression.replace("permllm-", "")))
        expect(asked <= known, f"no such series: {asked - known}")
    for panel in panels:
        expect("permllm" in str(panel["targets"]) or "process_" in str(panel["targets"]), f"panel {panel['title']} asks for nothing")
    if shutil.which("promtool") is None:
        print("promtool is not there: the alerts are checked for their names alone")
        return
    checked = subprocess.run(["promtool", "check", "rules", rules], capture_output=True, text=True)
    expect(checked.returncode == 0, f"promtool: {checked.stdout}{checked.stderr}")


def check_container():
    compose = yaml.safe_load((packaging / "container/compose.yaml").read_text())
    expect(set(compose["services"]) == {"helper", "provider", "owner", "user"}, f"services: {list(compose['services'])}")
    expect(set(compose["volumes"]) == {"helper-store", "provider-state", "user-state"}, f"volumes: {list(compose['volumes'])}")
    for name, service in compose["services"].items():
        expect(service["read_only"] and service["cap_drop"] == ["ALL"], f"{name} may write or has capabilities")
        command, *arguments = service.get("entrypoint", ["permllm"])[1:] + service["command"]
        unknown = {a for a in arguments if a.startswith("--")} - options_of(command)
        expect(not unknown, f"{name}: {unknown}")
        for mount in service["volumes"]:
            outside = mount.split(":")[0]
            expect(outside.startswith("./") or outside in compose["volumes"], f"{name}: {mount}")
    # `invite` writes the users' records, which the provider reads alone.
    def places(name):
        return {mount.split(":")[1]: mount.endswith(":ro") for mount in compose["services"][name]["volumes"]}
    expect(places("provider")["/etc/permllm/provider"] and not places("owner")["/etc/permllm/provider"], "the owner cannot write invites")
    # Each library that the program needs comes with a package that the image has.
    image = (packaging / "container/Containerfile").read_text()
    run_stage = image[image.rindex("FROM "):]
    expect("USER 10001" in run_stage, "the image runs as root")
    for path in re.findall(r"=> (/\S+)", subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout):
        names = {path, str(pathlib.Path(path).resolve()), path.removeprefix("/usr"), str(pathlib.Path(path).resolve()).removeprefix("/usr")}
        owner = subprocess.run(["dpkg-query", "-S", *names], capture_output=True, text=True).stdout.split(":")[0]
        if owner in ("", "libc6") or "san" in owner:
            continue
        expect(re.search(rf"\s{re.escape(owner)}\s", run_stage), f"the image lacks {owner}, of {path}")


def check_hardening():
    """What cmake/hardening.cmake asks for is in the program. hardening-check is Debian's (devscripts)."""
    checked = subprocess.run(["hardening-check", "--nocfprotection", program], capture_output=True, text=True)
    expect(checked.returncode == 0, f"hardening-check: {checked.stdout}{checked.stderr}")
    found = set(re.findall(r"^ ([A-Z].*): yes", checked.stdout, re.M))
    expect(found == {"Position Independent Executable", "Stack protected", "Fortify Source functions", "Read-only relocations", "Immediate binding",
                     "Stack clash protection"}, f"hardening-check: {checked.stdout}")
    # What it does not look at; and control flow: it looks for the linker's mark, which a program has not that begins in Debian 12's start files.
    begin = subprocess.run(["objdump", "--no-show-raw-insn", "--disassemble=main", program], capture_output=True, text=True, check=True).stdout
    expect(re.search(r"<main>:\n\s*[0-9a-f]+:\s+endbr64", begin), "functions do not begin with endbr64")
    elf = subprocess.run(["readelf", "--wide", "--segments", "--dyn-syms", program], capture_output=True, text=True, check=True).stdout
    expect(re.search(r"GNU_STACK +(0x[0-9a-f]+ +){5}RW +0x", elf), "the stack can be executed")
    expect("__glibcxx_assert_fail" in elf, "the library's containers are used without their checks")


check_units()
check_user_unit()
check_container()
check_page()
check_watching()
check_image_builds()
if "hardened" in sys.argv[3:]:
    check_hardening()
for failure in failures:
    print(f"packaging: {failure}")
sys.exit(bool(failures))
