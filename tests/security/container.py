"""Run a command under the conditions of an unprivileged container: ``python -m tests.security.container COMMAND...``.

They are those that Docker sets by default: fourteen capabilities, and a seccomp filter, by which namespaces cannot be
made. If the environment variable ``HARNESS_SECCOMP_PROFILE`` names a file in Docker's form, such as ``default.json`` of
https://github.com/moby/profiles, the filter is that of the file; otherwise it refuses what this project's workers are
refused, sockets aside, and to make namespaces.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.sandbox.kernel import process_control, require_machine
from harness.sandbox.layers import _set_capabilities
from harness.sandbox.seccomp import Refusal, install_filter, refusals_for_workers

PROFILE = "HARNESS_SECCOMP_PROFILE"
# By number: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot,
# mknod, audit_write, setfcap.
_CAPABILITIES = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)
_LAST_CAPABILITY = 40
_PR_CAPBSET_DROP = 24
_NUMBERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
_CLONE, _CLONE3, _SOCKET = {"x86_64": (56, 435, 41), "aarch64": (220, 435, 198)}, "clone3", "socket"
_NAMESPACES = 0x7E020000
_LAST_CALL = 500


def similar_refusals() -> list[Refusal]:
    """What is refused without a profile."""
    architecture = require_machine()
    clone, clone3, socket = _CLONE[architecture]
    return [
        Refusal(number=clone, bits=_NAMESPACES),
        Refusal(number=clone3, error=errno.ENOSYS),
        *(one for one in refusals_for_workers(architecture) if one.number != socket),
    ]


def published_refusals(profile: Mapping[str, Any]) -> list[Refusal]:
    """What a profile in Docker's form refuses to a process with `_CAPABILITIES`, by the numbers of the system's headers."""
    architecture = require_machine()
    text = _NUMBERS[architecture].read_text(encoding="utf-8")
    numbers = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+)\s+(\d+)", text)}
    allowed: set[int] = set()
    values: dict[int, list[int]] = {}
    refusals = []
    for rule in profile["syscalls"]:
        includes, excludes = rule.get("includes", {}), rule.get("excludes", {})
        arches = {"x86_64": "amd64", "aarch64": "arm64"}[architecture]
        if "CAP_SYS_ADMIN" in excludes.get("caps", ()) and rule["names"] == ["clone"] and not includes:
            refusals.append(Refusal(number=numbers["clone"], bits=rule["args"][0]["value"]))
            allowed.add(numbers["clone"])
        elif rule["action"] == "SCMP_ACT_ERRNO":
            refusals += [Refusal(number=numbers[name], error=rule["errnoRet"]) for name in rule["names"]]
        elif "caps" not in includes and arches in includes.get("arches", [arches]):
            found = {numbers[name] for name in rule["names"] if name in numbers}
            for argument in rule.get("args", ()):
                few = range(argument["value"]) if argument["op"] == "SCMP_CMP_LT" else [argument["value"]]
                for number in found:
                    values.setdefault(number, []).extend(few)
            allowed |= found
    refusals += [Refusal(number=number, equal=tuple(equal), unless=True) for number, equal in values.items()]
    return [*refusals, *(Refusal(number=number) for number in range(_LAST_CALL) if number not in allowed)]


def enter() -> None:
    """Put this process under the conditions, for good."""
    if os.geteuid() == 0:
        for number in set(range(_LAST_CAPABILITY + 1)) - set(_CAPABILITIES):
            process_control(_PR_CAPBSET_DROP, number)
        _set_capabilities(sum(1 << number for number in _CAPABILITIES))
    path = os.environ.get(PROFILE)
    install_filter(published_refusals(json.loads(Path(path).read_text("utf-8"))) if path else similar_refusals())


if __name__ == "__main__":
    enter()
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - the command of the test
