"""`harness doctor`: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from harness.cli.console import results, write_json
from harness.cli.options import debug_option, json_option
from harness.datasets import data_choices


@click.command()
@json_option
@debug_option
def doctor(json_path: str | None) -> None:
    """Say what this machine has and lacks.

    Versions, devices, threads, data found and verified, and how to get what is missing.
    """
    from harness.data import find_mnist
    from harness.reporting import document, facts_table
    from harness.training import available_devices, environment

    machine = environment()
    devices = available_devices()
    status = find_mnist()
    facts = [
        (field.name.replace("_", " "), _words(getattr(machine, field.name))) for field in dataclasses.fields(machine)
    ]
    facts.append(("devices", ", ".join(devices)))
    missing = [] if len(devices) > 1 else ["an accelerator (optional): the CPU trains the small models in minutes"]
    places: list[dict[str, Any]] = []
    for place in status.places:
        state = "MNIST, verified" if place.verified else "; ".join(f"{file.name} {file.state}" for file in place.files)
        facts.append((f"data ({place.origin})", f"{place.folder}: {state}"))
        places.append(
            {
                "origin": place.origin,
                "folder": str(place.folder),
                "verified": place.verified,
                "files": [{"name": file.name, "state": file.state, "detail": file.detail} for file in place.files],
            }
        )
    facts.append(("data (embedded)", "1,797 handwritten digits of 8x8 pixels, always available (--data digits)"))
    facts.append(("data (--data)", f"{', '.join(data_choices())}, or a folder with the MNIST files"))
    if status.remedy:
        missing.append(f"MNIST: {status.remedy}")
    if json_path != "-":
        console = results()
        console.print(facts_table(facts))
        console.print(facts_table([("missing", line) for line in missing]))
    content = {
        "environment": dataclasses.asdict(machine),
        "devices": list(devices),
        "data": places,
        "offline": status.offline,
        "missing": missing,
    }
    write_json(json_path, document("doctor", content))


def _words(value: object) -> str:
    return "-" if value is None else str(value)
