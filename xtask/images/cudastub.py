"""usage: cudastub.py TORCH_DIR OUT_DIR

PyPI's PyTorch for Linux is linked with CUDA, whose libraries are in further wheels of several gigabytes. On a machine
without a GPU none of their functions is ever of use, but the loader wants to see the names. This writes a small
library for each that is missing; every function in it says "no device".
"""
import collections
import glob
import os
import re
import subprocess
import sys
import tempfile

torch, out = sys.argv[1:]
NO_DEVICE = 100  # cudaErrorNoDevice
MISSING = re.compile(r"lib(cu|nv|nccl)")
FUNCTION = re.compile(r"(__cuda|cu|nccl|nv)")


def lines(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()


libraries = glob.glob(torch + "/lib/*.so*") + glob.glob(torch + "/_C*.so")
present = {os.path.basename(library) for library in libraries}
needed, defined, loose = set(), set(), set()
# library -> version -> names
versioned = collections.defaultdict(lambda: collections.defaultdict(set))
for library in libraries:
    owner, asked = {}, None
    for line in lines("readelf", "--wide", "--dynamic", "--version-info", library):
        if found := re.search(r"\(NEEDED\).*\[(.*)\]", line):
            needed.add(found[1])
        elif found := re.search(r"\bFile: (\S+)", line):
            asked = found[1]
        elif asked and (found := re.search(r"Name: (\S+)\s+Flags", line)):
            owner[found[1]] = asked
    for line in lines("nm", "-D", "--undefined-only", "--with-symbol-versions", library):
        name, _, version = line.split()[-1].partition("@")
        if version:
            versioned[owner.get(version.lstrip("@"))][version.lstrip("@")].add(name)
        else:
            loose.add(name)
    defined |= {line.split()[-1].partition("@")[0] for line in lines("nm", "-D", "--defined-only", library)}

os.makedirs(out, exist_ok=True)
loose = {name for name in loose - defined if FUNCTION.match(name)}
for library in sorted(name for name in needed - present if MISSING.match(name)):
    versions = versioned[library]
    names = set().union(*versions.values()) | loose
    loose = set()  # names without a version may be in any one library
    body = "".join(f"int {name}(void) {{ return {NO_DEVICE}; }}\n" for name in sorted(names))
    script = "".join(
        f"{version} {{ global: {' '.join(name + ';' for name in sorted(members))} }};\n"
        for version, members in sorted(versions.items())
    )
    with tempfile.TemporaryDirectory() as work:
        source, map_file = os.path.join(work, "stub.c"), os.path.join(work, "stub.map")
        with open(source, "w") as file:
            file.write(body)
        with open(map_file, "w") as file:
            file.write(script)
        command = ["gcc", "-shared", "-fPIC", "-O1", "-w", "-fno-builtin", "-nostdlib", "-Wl,--build-id=none"]
        command += ["-Wl,-soname," + library, "-o", os.path.join(out, library), source]
        subprocess.run(command + (["-Wl,--version-script=" + map_file] if script else []), check=True)
