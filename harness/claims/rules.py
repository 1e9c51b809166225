"""All rules of the audit, in the order of the documentation."""

from __future__ import annotations

from harness.claims.accuracy_rules import (
    best_above_log,
    best_below_log,
    best_epoch,
    count_and_percentage,
    figure_of_no_run,
    impossible_accuracy,
    log_missing,
    not_consistent,
    target_by_printed_figures,
    target_not_met,
)
from harness.claims.model_rules import (
    field_against_code,
    never_called,
    over_budget,
    parameters_claimed,
    receptive_field_table,
    shapes_against_code,
    summary_total,
    total_against_code,
)
from harness.claims.rule import Rule
from harness.claims.run_rules import epochs_run, joined_log, same_log, steps_and_batch_size

RULES: tuple[Rule, ...] = (
    count_and_percentage,
    target_by_printed_figures,
    best_above_log,
    best_below_log,
    best_epoch,
    target_not_met,
    not_consistent,
    figure_of_no_run,
    impossible_accuracy,
    log_missing,
    epochs_run,
    steps_and_batch_size,
    joined_log,
    same_log,
    summary_total,
    parameters_claimed,
    over_budget,
    receptive_field_table,
    total_against_code,
    never_called,
    shapes_against_code,
    field_against_code,
)
