"""`harness doctor`: shows versions, devices, engines and data sets on this machine, and how to get missing ones."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from harness.cli.console import Output
from harness.cli.options import report_options
from harness.datasets import data_choices


@click.command()
@report_options
def doctor(output: Output) -> None:
    """Describe this machine: versions, devices, threads, engines, the layers of the sandbox and data sets.

    The MNIST files that are found are verified. The report says how to get data sets and devices that are missing.
    """
    from harness.data import find_mnist, is_offline
    from harness.reporting import facts_table
    from harness.sandbox import available_layers
    from harness.training import ENGINES, available_devices, environment

    machine = environment()
    devices = available_devices()
    status = find_mnist()
    facts = [(name.replace("_", " "), "-" if value is None else str(value)) for name, value in vars(machine).items()]
    facts.append(("devices", ", ".join(devices)))
    facts += [("engines", "; ".join(f"{name} on {', '.join(engine.devices)}" for name, engine in ENGINES.items()))]
    layers = available_layers()
    facts += [(f"sandbox ({one.layer})", one.detail if one.holds else f"no: {one.detail}") for one in layers]
    missing = [] if len(devices) > 1 else ["an accelerator (optional): a CPU trains the small models in minutes"]
    places: list[dict[str, Any]] = []
    for place in status.places:
        state = "MNIST, verified" if place.verified else "; ".join(f"{file.name} {file.state}" for file in place.files)
        facts.append((f"data ({place.origin})", f"{place.folder}: {state}"))
        files = [{"name": file.name, "state": file.state, "detail": file.detail} for file in place.files]
        places.append({"origin": place.origin, "folder": str(place.folder), "verified": place.verified, "files": files})
    facts.append(("data (embedded)", "1,797 handwritten digits of 8x8 pixels, always available (--data digits)"))
    facts.append(("data (--data)", f"{', '.join(data_choices())}, or a folder with the MNIST files"))
    if status.remedy:
        missing.append(f"MNIST: {status.remedy}")
    output.print(facts_table(facts), facts_table([("missing", line) for line in missing]))
    content = {
        "environment": dataclasses.asdict(machine),
        "devices": list(devices),
        "sandbox": [dataclasses.asdict(one) for one in layers],
        "data": places,
        "offline": is_offline(),
        "missing": missing,
    }
    output.write("doctor", content)
