"""Capture an `nn.Module` as a graph, which is plain data, and build an `nn.Module` from a graph."""

from harness.graph.capture import capture, computing_threads
from harness.graph.captured import CapturedModel, Fidelity
from harness.graph.form import Graph, Operation, Program, TensorSpec
from harness.graph.rebuild import GraphModule
from harness.graph.serialisation import graph_from_json, graph_to_json, read_captured, write_captured

__all__ = [
    "CapturedModel",
    "Fidelity",
    "Graph",
    "GraphModule",
    "Operation",
    "Program",
    "TensorSpec",
    "capture",
    "computing_threads",
    "graph_from_json",
    "graph_to_json",
    "read_captured",
    "write_captured",
]
