"""`nn.Module` -> graph -> `nn.Module`, and what can be read off a graph."""

from harness.graph.capture import CapturedModel, Fidelity, capture, one_thread
from harness.graph.experiments import Experiments
from harness.graph.field_table import FieldRow, field_table
from harness.graph.form import Graph, Operation, Program, TensorSpec
from harness.graph.identity import identity_digest
from harness.graph.rebuild import GraphModule
from harness.graph.receptive_field import ReceptiveField, field_of
from harness.graph.source import DEFAULT_SEED, load_model, parse_source
from harness.graph.structure import Structure

__all__ = [
    "DEFAULT_SEED",
    "CapturedModel",
    "Experiments",
    "Fidelity",
    "FieldRow",
    "Graph",
    "GraphModule",
    "Operation",
    "Program",
    "ReceptiveField",
    "Structure",
    "TensorSpec",
    "capture",
    "field_of",
    "field_table",
    "identity_digest",
    "load_model",
    "one_thread",
    "parse_source",
]
