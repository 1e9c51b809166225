"""`harness replay`: repeats a recorded training and compares the results."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.console import Output, exit_code
from harness.cli.inputs import rerun_for
from harness.cli.options import report_options, rerun_options
from harness.cli.progress import TrainingProgress


@click.command()
@click.argument("record_path", metavar="RECORD")
@rerun_options
@click.option(
    "--seeds",
    "seeds_folder",
    metavar="FOLDER",
    help="Folder of run records of the same training with other seeds. In another environment, the difference between the replay "
    "and RECORD is compared with the differences between these records. Default: the records shipped with the package.",
)
@report_options
def replay(record_path: str, seeds_folder: str | None, output: Output, **chosen: str | None) -> int:
    """Repeat the training that RECORD describes, and compare the results.

    In the environment that RECORD names, the comparison is bit for bit. In another environment the comparison is
    statistical, and the exit code is 3 if no difference is found.
    """
    from harness.reporting import findings_content, findings_table, verdict_line
    from harness.reproducibility import Replay, read_records, seed_noise
    from harness.training import RunRecord

    record = RunRecord.read(record_path)
    others = read_records(Path(seeds_folder)) if seeds_folder else ()
    again = rerun_for(record, **chosen)
    with TrainingProgress() as progress:
        repeated = again.train(observer=progress)
    finding = Replay(record=record, repeated=repeated, noise=seed_noise(record, others)).finding()
    # The names come from the model and the data that were trained, because the record may contain other names.
    data = again.dataset
    title = f"{again.captured.name}, seed {record.seed}, on {data.title}"
    output.print(findings_table([finding], evidence=True), verdict_line(finding.status, title))
    content = {
        "model": again.captured.name,
        "source": record.source,
        "seed": record.seed,
        "data": {"name": data.name, "title": data.title, "digest": data.digest},
        **findings_content([finding]),
        "record": repeated.to_json(),
    }
    output.write("replay", content)
    return exit_code([finding])
