"""The architecture of a model, determined from its graph and confirmed by experiments."""

from harness.structure.experiments import Experiments
from harness.structure.identity import identity_digest
from harness.structure.receptive_field import FieldRow, ReceptiveField, field_of, field_table
from harness.structure.structure import Structure

__all__ = ["Experiments", "FieldRow", "ReceptiveField", "Structure", "field_of", "field_table", "identity_digest"]
