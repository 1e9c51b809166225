"""`harness replay`: a record's training once more."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.console import TrainingProgress, exit_code, results, write_json
from harness.cli.options import debug_option, json_option
from harness.cli.reruns import rerun_for, rerun_options


@click.command()
@click.argument("record_path", metavar="RECORD")
@rerun_options
@click.option(
    "--seeds",
    "seeds_folder",
    metavar="FOLDER",
    help="Records of the same training under other seeds: the noise that a replay in another environment is held to. "
    "Default: what is shipped.",
)
@json_option
@debug_option
@click.pass_context
def replay(
    ctx: click.Context,
    record_path: str,
    model: str | None,
    data: str | None,
    device: str | None,
    seeds_folder: str | None,
    json_path: str | None,
) -> None:
    """Train again what RECORD declares, and compare.

    Bit for bit where the environment is the one on record. Elsewhere the comparison is a statistical one, and exit code 3
    says that no more could be shown.
    """
    from harness.reporting import document, findings_content, findings_table, verdict_line
    from harness.reproducibility import Replay, read_records, seed_noise
    from harness.training import RunRecord

    record = RunRecord.read(record_path)
    others = read_records(Path(seeds_folder)) if seeds_folder else ()
    again = rerun_for(record, model=model, data=data, device=device)
    with TrainingProgress() as progress:
        repeated = again.train(observer=progress)
    finding = Replay(record=record, repeated=repeated, noise=seed_noise(record, others)).finding()
    words = f"{record.model}, recipe {record.recipe.name}, seed {record.seed}, on {record.data_title}"
    if json_path != "-":
        results().print(findings_table([finding], evidence=True))
        results().print(verdict_line(finding.status, words))
    content = {
        "model": record.model,
        "source": record.source,
        "seed": record.seed,
        "data": {"name": record.data_name, "title": record.data_title, "digest": record.data_digest},
        **findings_content([finding]),
        "record": repeated.to_json(),
    }
    write_json(json_path, document("replay", content))
    ctx.exit(exit_code([finding]))
